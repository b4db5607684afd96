"""Radiographs: values, polarity, spacing, and files that lie."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import COLUMNS, ROWS, radiograph, ramp, save, save_bare
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from medseg.errors import GeometryError, ImageReadError, InputRefusedError, MissingPackageError
from medseg.io import dicom_codec
from medseg.io.dicom import read_radiograph
from medseg.io.dicom_facts import facts_of
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import ReadLimits


def read(dataset: Dataset, tmp_path: Path, **options):
    return read_radiograph(save(dataset, tmp_path / "a.dcm"), **options)


def test_axes_are_column_then_row(tmp_path):
    volume = read(radiograph(PatientOrientation=["L", "F"], ViewPosition="PA"), tmp_path)
    assert volume.array.shape == (1, COLUMNS, ROWS)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], ramp().T)
    assert volume.affine is None
    assert volume.patient_orientation == ("L", "F")
    assert (volume.modality, volume.header["view_position"]) == ("CR", "PA")
    assert volume.source.sop_instance_uids == ("1.2.3.4.5.6",)


@pytest.mark.parametrize(
    ("stated", "code", "view"),
    [
        ("LL", "272479007", "LL"),
        ("LAT", "", "LATERAL"),
        ("", "399173006", "LL"),
        ("", "R-10236", "LL"),
        ("", "272479007", "PA"),
        ("RLD", "", "RLD"),
        ("", "1234", ""),
    ],
)
def test_the_view_is_that_of_the_word_or_else_of_the_code(tmp_path, stated, code, view):
    item = Dataset()
    item.CodeValue = code
    film = radiograph(ViewPosition=stated, ViewCodeSequence=[item])
    assert read(film, tmp_path).header.get("view_position", "") == view


def test_monochrome1_is_turned_over_inside_the_stored_bits(tmp_path):
    volume = read(
        radiograph(PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=500), tmp_path
    )
    np.testing.assert_array_equal(volume.array[0], 4095 - ramp().T.astype(np.float32))
    assert "MONOCHROME1, inverted" in volume.notes
    assert (volume.header["window_center"], volume.header["window_width"]) == ("3095", "500")


def test_presentation_shape_inverse_inverts_once(tmp_path):
    both = read(radiograph(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"), tmp_path)
    alone = read(radiograph(PresentationLUTShape="INVERSE"), tmp_path)
    np.testing.assert_array_equal(both.array, alone.array)
    assert both.array[0, 0, 0] == 4095 - 3


def test_signed_values_and_bits_above_the_stored_ones(tmp_path):
    stored = np.array([[-5, 100], [7, -2048], [2047, 0]], dtype=np.int16)
    dirty = (stored & 0x0FFF) | np.array([[0x3000, 0], [0, 0], [-0x8000, 0]], dtype=np.int16)
    volume = read(radiograph(dirty), tmp_path)
    np.testing.assert_array_equal(volume.array[0], stored.T)
    assert any("were masked" in note and note.startswith("3 pixels") for note in volume.notes)


def test_high_bit_above_the_stored_bits(tmp_path):
    volume = read(radiograph((ramp() << 4).astype(np.uint16), HighBit=15), tmp_path)
    np.testing.assert_array_equal(volume.array[0], ramp().T)


def test_rescale_and_modality_table(tmp_path):
    rescaled = read(radiograph(RescaleSlope="0.5", RescaleIntercept="-10"), tmp_path)
    np.testing.assert_allclose(rescaled.array[0], ramp().T * 0.5 - 10)
    item = Dataset()
    item.LUTDescriptor = [4, 10, 16]
    item.LUTData = np.array([900, 800, 700, 600], dtype="<u2").tobytes()
    item["LUTData"].VR = "OW"
    looked_up = read(radiograph(ModalityLUTSequence=[item]), tmp_path)
    expected = np.array([900, 800, 700, 600])[np.clip(ramp().astype(int) - 10, 0, 3)]
    np.testing.assert_array_equal(looked_up.array[0], expected.T)


def test_monochrome1_with_rescale_keeps_the_range(tmp_path):
    volume = read(
        radiograph(PhotometricInterpretation="MONOCHROME1", RescaleSlope="2", RescaleIntercept="-100"),
        tmp_path,
    )
    np.testing.assert_allclose(volume.array[0], 4095 * 2 - 200 - (ramp().T * 2.0 - 100))


@pytest.mark.parametrize(
    ("values", "spacing", "origin"),
    [
        ({}, None, "unknown"),
        ({"PixelSpacing": [0.2, 0.3]}, (0.3, 0.2), "pixel_spacing"),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (0.3, 0.2), "imager_pixel_spacing"),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.2, 0.3]}, (0.3, 0.2), "imager_pixel_spacing"),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}, (0.1, 0.1), "calibrated"),
        (
            {
                "PixelSpacing": [0.2, 0.2],
                "ImagerPixelSpacing": [0.2, 0.2],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.2, 0.2),
            "calibrated",
        ),
        ({"NominalScannedPixelSpacing": [0.4, 0.5]}, (0.5, 0.4), "imager_pixel_spacing"),
    ],
)
def test_spacing_says_where_it_was_measured(tmp_path, values, spacing, origin):
    volume = read(radiograph(**values), tmp_path)
    assert (volume.spacing_mm, volume.spacing_origin) == (spacing, origin)


@pytest.mark.parametrize("bad", [[0, 0.2], [-0.2, 0.2], [1e9, 0.2]])
def test_impossible_spacing_is_unknown_and_noted(tmp_path, bad):
    volume = read(radiograph(PixelSpacing=bad), tmp_path)
    assert volume.spacing_mm is None
    assert any("PixelSpacing" in note for note in volume.notes)


def test_spacing_that_is_no_number(tmp_path):
    path = save(radiograph(PixelSpacing=[0.25, 0.25]), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"0.25\\0.25", b"nan\\DOE^J"))
    volume = read_radiograph(path)
    assert volume.spacing_mm is None
    assert not any("DOE" in note for note in volume.notes)


def test_ct_slice_has_its_affine_and_its_name(tmp_path):
    dataset = radiograph(
        SOPClassUID=uid.CTImageStorage,
        Modality="CT",
        ImagePositionPatient=[-100, -80, 30],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        PixelSpacing=[0.7, 0.5],
        SliceThickness="2.5",
    )
    volume = read(dataset, tmp_path)
    assert volume.modality == "CT"
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [100, 80, 30, 1])
    np.testing.assert_allclose(volume.affine @ [2, 3, 0, 1], [100, 79, 30 - 2.1, 1])
    assert volume.patient_orientation == ("P", "F")
    with pytest.raises(InputRefusedError, match="modality is CT, allowed are: CR, DX"):
        read(dataset, tmp_path, modality=frozenset({"CR", "DX"}))


def test_modality_is_refused_before_the_frames_are_counted(tmp_path):
    dataset = radiograph(Modality="MR", NumberOfFrames=40)
    with pytest.raises(InputRefusedError, match="MR"):
        read(dataset, tmp_path, modality=frozenset({"CR"}))
    with pytest.raises(GeometryError, match="found 40 frames"):
        read(dataset, tmp_path)


def test_secondary_capture_without_modality(tmp_path):
    volume = read(radiograph(SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="OT"), tmp_path)
    assert volume.modality == "SC"


def test_colour_keeps_three_channels_and_equal_ones_become_one(tmp_path):
    rgb = np.arange(ROWS * COLUMNS * 3, dtype=np.uint8).reshape(ROWS, COLUMNS, 3)
    assert read(radiograph(rgb), tmp_path).array.shape == (3, COLUMNS, ROWS)
    volume = read(radiograph(np.repeat(rgb[..., :1], 3, axis=2)), tmp_path)
    np.testing.assert_array_equal(volume.array, rgb[..., :1].transpose(2, 1, 0))
    assert any("stored as RGB" in note for note in volume.notes)


def test_palette_becomes_rgb(tmp_path):
    index = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    dataset = radiograph(index, PhotometricInterpretation="PALETTE COLOR")
    for n, colour in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [3, 0, 8])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes([10 + n, 20 + n, 30 + n, 0]))
    volume = read(dataset, tmp_path)
    np.testing.assert_array_equal(volume.array[:, 2, 0], [30, 31, 32])


def test_file_without_preamble(tmp_path):
    volume = read_radiograph(save_bare(radiograph(), tmp_path / "old"))
    np.testing.assert_array_equal(volume.array[0], ramp().T)
    assert any("no meta header" in note for note in volume.notes)


def test_deflated_is_read_and_a_bomb_is_not(tmp_path):
    dataset = radiograph()
    plain = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dcmwrite(plain, dataset, enforce_file_format=True)
    path = tmp_path / "a.dcm"
    path.write_bytes(plain.getvalue())
    np.testing.assert_array_equal(read_radiograph(path).array[0], ramp().T)
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(8 << 20)) + packer.flush()
    start = plain.getvalue().index(b"1.2.840.10008.1.2.1.99") + 22
    path.write_bytes(plain.getvalue()[:start] + bomb)
    with pytest.raises(ImageReadError, match="max_inflated_mb"):
        read_radiograph(path, limits=ReadLimits(max_inflated_mb=4))


def jpeg_stream(rows: int, columns: int) -> bytes:
    target = io.BytesIO()
    gray = np.linspace(0, 255, rows * columns).astype(np.uint8).reshape(rows, columns)
    Image.fromarray(gray).save(target, "JPEG")
    return target.getvalue()


def jpeg_radiograph(stream: bytes, **values) -> Dataset:
    dataset = radiograph(np.zeros((16, 24), dtype=np.uint8), **values)
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_jpeg_is_decoded_and_compared_with_the_header(tmp_path):
    volume = read(jpeg_radiograph(jpeg_stream(16, 24)), tmp_path)
    assert volume.array.shape == (1, 24, 16)
    assert volume.header["decoder"] == "imagecodecs jpeg8"
    with pytest.raises(ImageReadError, match="header says 24 x 16 x 1, the compressed frame has 32 x 16 x 1"):
        read(jpeg_radiograph(jpeg_stream(16, 32)), tmp_path)


def test_jpeg_of_8_bits_in_a_header_of_16(tmp_path):
    volume = read(jpeg_radiograph(jpeg_stream(16, 24), BitsAllocated=16, BitsStored=12, HighBit=11), tmp_path)
    assert 250 < volume.array.max() <= 255
    assert any("compressed frame has 8" in note for note in volume.notes)


def test_jpeg_without_end(tmp_path):
    with pytest.raises(ImageReadError, match="has no end: the file is truncated"):
        read(jpeg_radiograph(jpeg_stream(16, 24)[:-40]), tmp_path)


def test_missing_decoder_names_syntax_and_package(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_codec, "codec_available", lambda codec: False)
    dataset = jpeg_radiograph(jpeg_stream(16, 24))
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    with pytest.raises(MissingPackageError, match=r"JPEG Lossless.*pip install imagecodecs"):
        read(dataset, tmp_path)


def test_unknown_transfer_syntax_and_video(tmp_path):
    dataset = radiograph()
    dataset.file_meta.TransferSyntaxUID = uid.UID("1.2.3.999")
    path = tmp_path / "a.dcm"
    dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(ImageReadError, match=r"transfer syntax 1\.2\.3\.999 is not known"):
        read_radiograph(path)
    dataset = jpeg_radiograph(jpeg_stream(16, 24))
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    with pytest.raises(ImageReadError, match="MPEG2"):
        read(dataset, tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PixelData": None}, "found none"),
        ({"Rows": 600}, "need 6000 bytes, the file has 60, fewer"),
        ({"Rows": 3}, "need 30 bytes, the file has 60, more"),
        ({"Rows": 0}, "Rows is 0"),
        ({"Columns": None}, "Columns is missing"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "more"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
        ({"BitsStored": 17}, "BitsStored is 17"),
        ({"HighBit": 40}, "HighBit is 40"),
        ({"Rows": 60000, "Columns": 60000}, "max_pixels"),
        ({"PhotometricInterpretation": "CMYK"}, "PhotometricInterpretation is CMYK"),
        ({"PhotometricInterpretation": "RGB"}, "RGB has 3 samples per pixel, the header says 1"),
        ({"RescaleSlope": "0", "RescaleIntercept": "1"}, "RescaleSlope is 0"),
        ({"SOPClassUID": uid.SegmentationStorage}, "found a label"),
    ],
)
def test_lying_headers_are_refused_with_the_number(tmp_path, values, words):
    with pytest.raises(ImageReadError, match=words):
        read(radiograph(**values), tmp_path)


def test_truncated_file_names_both_lengths(tmp_path):
    path = save(radiograph(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageReadError, match=r"\(7FE0,0010\) says it has 60 bytes, 40 are there"):
        read_radiograph(path)


def test_element_longer_than_the_file_allocates_nothing(tmp_path):
    path = save(radiograph(), tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    at = data.index(b"OW", len(data) - 80)
    data[at + 4 : at + 8] = (0xFFFFFF00).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="says it has 4294967040 bytes, 60 are there"):
        read_radiograph(path)


def test_zero_filled_tail(tmp_path):
    path = save(radiograph(), tmp_path / "a.dcm")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(1 << 16))
    with pytest.raises(ImageReadError):
        read_radiograph(path)


def test_nan_and_constant_images(tmp_path):
    dataset = radiograph(PixelData=None)
    values = np.ones((ROWS, COLUMNS), dtype=np.float32)
    values[1, 2:4] = np.nan
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = values.tobytes()
    with pytest.raises(ImageReadError, match="NaN or infinity in 2 of 30"):
        read(dataset, tmp_path)
    with pytest.raises(ImageReadError, match="all pixels have the value 7: no image content"):
        read(radiograph(np.full((4, 4), 7, dtype=np.uint16)), tmp_path)


def test_nothing_of_the_person_comes_out(tmp_path, caplog):
    dataset = radiograph(
        PatientName="Planted^Token",
        PatientID="TOKEN77",
        BodyPartExamined="TOKEN77",
        ManufacturerModelName="Scanner of Planted",
        StudyDescription="token77 study",
        PatientOrientation=["TOKEN77", "F"],
    )
    volume = read(dataset, tmp_path)
    said = repr((volume.notes, volume.header, volume.modality, volume.patient_orientation)) + caplog.text
    assert "token" not in said.casefold()
    assert "planted" not in said.casefold()


def test_same_pixels_have_one_hash_whatever_the_encoding(tmp_path):
    explicit = read(radiograph(), tmp_path)
    bare = read_radiograph(save_bare(radiograph(SOPInstanceUID="9.9"), tmp_path / "b"))
    assert explicit.pixel_sha256 == bare.pixel_sha256
    assert explicit.source.sha256 != bare.source.sha256


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4000, b"DICM", b"<html>no</html>" * 40, bytes(128) + b"DICM"]
)
def test_what_is_no_dicom(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(ImageReadError):
        read_radiograph(path)


@pytest.mark.parametrize(("found", "kept"), [("R", "R"), ("B", "B"), ("JANE", None), ("", None)])
def test_a_side_is_a_letter_of_dicom_or_left_out(found: str, kept: str | None):
    """Whatever else stands there might name a person."""
    header = DicomHeader(Path("a.dcm"), (radiograph(Laterality=found),))
    assert facts_of(header, "").get("laterality") == kept
