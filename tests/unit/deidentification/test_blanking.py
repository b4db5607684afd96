"""Blanked regions in every way that pixels are stored, seen with another decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medseg.deidentification.one_file import FileCleaner
from medseg.deidentification.options import BlankRule, ImageMatch, ProfileOptions
from medseg.errors import ImageReadError, InputError

KEY = b"0123456789abcdef0123456789abcdef"
REGIONS = ((1, 0, 4, 2), (5, 5, 99, 99))


def picture(*, bits=8, samples=1, frames=1, signed=False, photometric="MONOCHROME2", stored=None) -> Dataset:
    """Six rows, eight columns, no value that is blank."""
    data_set = Dataset()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data_set.SOPInstanceUID, data_set.StudyInstanceUID, data_set.SeriesInstanceUID = (
        "1.2.3.1",
        "1.2.3.2",
        "1.2.3.3",
    )
    data_set.PatientID, data_set.Modality, data_set.Manufacturer = "4711", "US", "Maker Inc."
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = 6, 8, samples
    data_set.BitsAllocated, data_set.BitsStored = bits, stored or bits
    data_set.HighBit, data_set.PixelRepresentation = data_set.BitsStored - 1, int(signed)
    data_set.PhotometricInterpretation = photometric
    if samples > 1:
        data_set.PlanarConfiguration = 0
    if frames > 1:
        data_set.NumberOfFrames = frames
    count = frames * 48 * samples
    if bits == 1:
        data_set.PixelData = b"\xff" * (count // 8 + count // 8 % 2)
    else:
        values = 1 + np.arange(count) % 100
        data_set.PixelData = values.astype(f"<u{bits // 8}").tobytes()
    data_set["PixelData"].VR = "OW"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


def cleaned(data_set: Dataset, path: Path, rule: BlankRule | None = None, **options) -> Dataset:
    data_set.save_as(path, enforce_file_format=True)
    given = path.read_bytes()
    cleaner = FileCleaner(ProfileOptions(**options), [rule or BlankRule(regions=REGIONS)], KEY)
    copy = path.with_name("clean.dcm")
    copy.write_bytes(cleaner.clean(path).content)
    assert path.read_bytes() == given
    return dcmread(copy)


def expected(array: np.ndarray, value) -> np.ndarray:
    changed = array.copy()
    changed[..., 0:2, 1:4] = value
    changed[..., 5:6, 5:8] = value
    return changed


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("bits", "frames"), [(1, 1), (1, 3), (8, 1), (8, 3), (16, 2), (32, 1)])
def test_uncompressed_gray(tmp_path, syntax, bits, frames):
    given = picture(bits=bits, frames=frames)
    before = given.pixel_array.copy()
    if syntax == ExplicitVRBigEndian:
        words = 2 if bits <= 8 else bits // 8
        given.PixelData = np.frombuffer(given.PixelData, f"<u{words}").byteswap().tobytes()
    given.file_meta.TransferSyntaxUID = syntax
    done = cleaned(given, tmp_path / "a.dcm")
    np.testing.assert_array_equal(done.pixel_array, expected(before, 0))
    assert done.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert done.BurnedInAnnotation == "NO"
    assert [code.CodeValue for code in done.DeidentificationMethodCodeSequence] == ["113100", "113101"]


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ({"photometric": "MONOCHROME1", "bits": 16, "stored": 12}, 4095),
        ({"bits": 16, "stored": 12, "signed": True}, -2048),
        ({"photometric": "PALETTE COLOR"}, 0),
    ],
)
def test_black_is_what_the_stored_values_say(tmp_path, form, value):
    given = picture(**form)
    before = given.pixel_array.copy()
    np.testing.assert_array_equal(cleaned(given, tmp_path / "a.dcm").pixel_array, expected(before, value))


@pytest.mark.parametrize("planar", [0, 1])
def test_colour(tmp_path, planar):
    given = picture(samples=3, photometric="RGB")
    before = given.pixel_array.copy()
    if planar:
        given.PixelData = np.ascontiguousarray(before.transpose(2, 0, 1)).tobytes()
        given.PlanarConfiguration = 1
    done = cleaned(given, tmp_path / "a.dcm")
    changed = before.copy()
    changed[0:2, 1:4] = changed[5:6, 5:8] = 0
    np.testing.assert_array_equal(done.pixel_array, changed)
    assert done.PlanarConfiguration == 0


def test_subsampled_colour_is_stored_whole(tmp_path):
    given = picture(samples=3, photometric="YBR_FULL_422")
    given.PixelData = bytes(1 + n % 100 for n in range(6 * 8 * 2))
    done = cleaned(given, tmp_path / "a.dcm")
    assert done.PhotometricInterpretation == "YBR_FULL"
    values = np.frombuffer(done.PixelData, np.uint8).reshape(6, 8, 3)
    assert values[0, 0].tolist() == [1, 3, 4]
    assert values[0, 1].tolist() == [0, 128, 128]
    assert values[0, 5].tolist() == [10, 11, 12]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("frames", [1, 2])
def test_compressed_pixels_are_decoded(tmp_path, syntax, samples, frames):
    given = picture(samples=samples, frames=frames, photometric="RGB" if samples == 3 else "MONOCHROME2")
    before = given.pixel_array.copy()
    given.compress(syntax, generate_instance_uid=False)
    given.SmallestImagePixelValue = 1
    done = cleaned(given, tmp_path / "a.dcm")
    changed = before.copy()
    first = (slice(None),) * (frames > 1)
    changed[(*first, slice(0, 2), slice(1, 4))] = 0
    changed[(*first, slice(5, 6), slice(5, 8))] = 0
    np.testing.assert_array_equal(done.pixel_array, changed)
    assert done.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "SmallestImagePixelValue" not in done


def region(x0, y0, x1, y1):
    found = Dataset()
    found.RegionLocationMinX0, found.RegionLocationMinY0 = x0, y0
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = x1, y1
    return found


def test_ultrasound_regions_are_kept_alone(tmp_path):
    given = picture()
    given.SequenceOfUltrasoundRegions = [region(2, 1, 4, 3), region(6, 5, 7, 5)]
    before = given.pixel_array.copy()
    done = cleaned(given, tmp_path / "a.dcm", BlankRule(keep_ultrasound_regions=True))
    kept = np.zeros_like(before)
    kept[1:4, 2:5] = before[1:4, 2:5]
    kept[5, 6:8] = before[5, 6:8]
    np.testing.assert_array_equal(done.pixel_array, kept)
    with pytest.raises(InputError, match="no ultrasound regions"):
        cleaned(picture(), tmp_path / "b.dcm", BlankRule(keep_ultrasound_regions=True))
    given.SequenceOfUltrasoundRegions = [region(0, 0, 7, 5)]
    with pytest.raises(InputError, match="cover all of it"):
        cleaned(given, tmp_path / "c.dcm", BlankRule(keep_ultrasound_regions=True))


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"modality": ("us",)}, True),
        ({"modality": ("CT",)}, False),
        ({"manufacturer": "maker*"}, True),
        ({"manufacturer": "other"}, False),
        ({"model": "x*"}, False),
        ({"rows": 6, "columns": 8}, True),
        ({"rows": 7}, False),
    ],
)
def test_a_rule_is_for_the_images_that_it_matches(tmp_path, match, fits):
    rule = BlankRule(match=ImageMatch(**match), regions=REGIONS)
    if fits:
        assert cleaned(picture(), tmp_path / "a.dcm", rule).BurnedInAnnotation == "NO"
    else:
        with pytest.raises(InputError, match="secondary capture"):
            cleaned(picture(), tmp_path / "a.dcm", rule)


def test_what_cannot_be_blanked_is_refused(tmp_path):
    with pytest.raises(InputError, match="region 9,0,10,2 lies outside its 8 x 6 pixels"):
        cleaned(picture(), tmp_path / "a.dcm", BlankRule(regions=((9, 0, 10, 2),)))
    damaged = picture()
    damaged.compress(RLELossless, generate_instance_uid=False)
    damaged.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with pytest.raises(ImageReadError, match="the compressed frame is not JPEG Baseline"):
        cleaned(damaged, tmp_path / "b.dcm")
    short = picture()
    short.Rows = 600
    with pytest.raises(ImageReadError, match="600 x 1 pixels of 8 bits need 4800 bytes"):
        cleaned(short, tmp_path / "c.dcm")
    document = picture()
    document.EncapsulatedDocument = b"%PDF"
    with pytest.raises(InputError, match="encloses a document"):
        cleaned(document, tmp_path / "d.dcm")
    face = picture()
    face.RecognizableVisualFeatures = face.BurnedInAnnotation = "YES"
    with pytest.raises(InputError, match="a person can be recognised"):
        cleaned(face, tmp_path / "e.dcm")
    assert cleaned(face, tmp_path / "f.dcm", burned_in="accept").BurnedInAnnotation == "NO"
    with pytest.raises(ValueError, match="is no rectangle"):
        BlankRule(regions=((4, 0, 4, 2),))
    with pytest.raises(ValueError, match="give `regions`"):
        BlankRule()
