"""Files of many makers: no identifier is left in any encoding, and what referred to each other still does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes

from medseg.deidentification.one_file import FileCleaner
from medseg.deidentification.options import BlankRule, ProfileOptions
from medseg.deidentification.profile import Profile
from medseg.errors import InputError
from medseg.io.foreign import recorded_warnings

KEY = b"0123456789abcdef0123456789abcdef"
TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
#: Shorter ones are in any file by chance.
SHORTEST = 6
#: What stands for something that was taken out, here and in other programs.
STAND_INS = {"Anonymous", "REMOVED", "19000101", "19000101000000"}


def cleaner(*rules: BlankRule, **options) -> FileCleaner:
    return FileCleaner(ProfileOptions(**{"burned_in": "accept", **options}), rules, KEY)


def zoo(shared_data: Path) -> Iterator[Path]:
    """Of every folder of cases the first, the last, and each seventh file."""
    for folder in sorted((shared_data / "dicom").iterdir()):
        if folder.is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            yield from dict.fromkeys([files[0], files[-1], *files[::7]])


def texts(element) -> Iterator[str]:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    for value in values:
        # Of a name its parts, too.
        for text in (str(value), *(str(value).replace("=", "^").split("^") if element.VR == "PN" else ())):
            yield text.strip()


def split(data_set: Dataset, profile: Profile) -> tuple[set[str], set[str]]:
    """Texts that must go, and those that stay; the items of what goes, go."""
    gone: set[str] = set()
    kept: set[str] = set()

    def visit(level: Dataset, lost: bool) -> None:
        for element in level:
            private = element.tag.is_private
            action = "X" if private else profile.action(int(element.tag))
            if element.VR == "SQ":
                for item in element.value:
                    visit(item, lost or action not in ("", "K", "X/Z/U*"))
            elif element.VR in TEXTS:
                (kept if action in ("", "K") and not lost else gone).update(texts(element))

    visit(data_set, False)
    return gone, kept


def left(content: bytes, gone: set[str], kept: set[str]) -> list[str]:
    found = []
    for text in gone:
        if len(text) < SHORTEST or text.startswith("1.2.840.10008.") or any(text in other for other in kept):
            continue
        if len(set(text)) < 3 or text in STAND_INS:
            continue
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "iso2022_jp", "iso2022_kr", "gb18030"):
            try:
                encoded = text.encode(encoding)
            except UnicodeEncodeError:
                continue
            if encoded in content:
                found.append(text)
    return found


def test_nothing_of_the_identifiers_is_left(shared_data):
    profile, clean, looked_at = Profile(ProfileOptions()), cleaner(), 0
    for path in zoo(shared_data):
        try:
            content = clean.clean(path).content
        except InputError:
            continue
        with recorded_warnings():
            gone, kept = split(dcmread(path, force=True, stop_before_pixels=True), profile)
        looked_at += len(gone)
        assert left(content, gone, kept) == [], path.relative_to(shared_data)
    assert looked_at > 4000


def test_other_readers_see_the_same_image(shared_data):
    clean, compared = cleaner(), 0
    for path in zoo(shared_data):
        try:
            content = clean.clean(path).content
        except InputError:
            continue
        with recorded_warnings():
            before = dcmread(path, force=True)
        # The bytes of pixels are the same but where overlays lay in them, or the file was deflated as a whole.
        if (
            "PixelData" in before
            and before.file_meta.get("TransferSyntaxUID")
            and "overlays" not in str(path)
        ):
            assert bytes(before.PixelData) in content, path
            compared += 1
    assert compared > 100


@pytest.fixture
def study(shared_data, tmp_path) -> Path:
    """CT slices, the SEG made of them, and a report on both."""
    source = shared_data / "dicom/seg_liver"
    slices = [dcmread(source / f"0{number}.dcm") for number in (1, 2, 3)]
    seg = hd.seg.Segmentation.from_dataset(dcmread(source / "liver.dcm"))
    for data_set in slices:
        data_set.SpecificCharacterSet = "ISO_IR 100"
    with recorded_warnings():
        report = sr_on(slices, seg)
    for number, data_set in enumerate([*slices, seg, report]):
        data_set.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    return tmp_path


def sr_on(slices: list[Dataset], seg: Dataset) -> Dataset:
    person = hd.sr.PersonObserverIdentifyingAttributes(name="Roe^Max", organization_name="General Hospital")
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=hd.sr.ReferencedSegment.from_segmentation(seg, segment_number=1),
        tracking_identifier=hd.sr.TrackingIdentifier(uid="1.2.3.4.5", identifier="liver of Doe"),
        finding_type=codes.SCT.Organ,
        measurements=[hd.sr.Measurement(name=codes.SCT.Volume, value=12.5, unit=codes.UCUM.CubicMillimeter)],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_person_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Person, observer_identifying_attributes=person
            )
        ),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[*slices, seg],
        content=content,
        series_number=9,
        series_instance_uid="1.2.3.4.6",
        sop_instance_uid="1.2.3.4.7",
        instance_number=1,
        manufacturer="maker",
    )


def uids_in(data_set: Dataset) -> list[tuple[str, str]]:
    return [(e.keyword, str(u)) for e in data_set.iterall() if e.VR == "UI" for u in texts(e)]


def test_what_refers_to_each_other_still_does(study):
    paths = sorted(study.glob("*.dcm"))
    clean = cleaner(clean=("structured_content", "graphics"), retain=("dates_modified",))
    mapped: dict[str, str] = {}
    for path in paths:
        copy = study / "clean.dcm"
        copy.write_bytes(clean.clean(path).content)
        before, after = uids_in(dcmread(path)), uids_in(dcmread(copy))
        # Also what is in the SR's content tree and the SEG's frames: none is lost, each has one stand-in.
        gone = [name for name, _ in before if name not in {name for name, _ in after}]
        assert set(gone) <= {"InstanceCreatorUID"}, path
        for keyword in {name for name, _ in after}:
            old = [uid for name, uid in before if name == keyword]
            new = [uid for name, uid in after if name == keyword]
            assert len(old) == len(new), keyword
            for one, other in zip(old, new, strict=True):
                assert mapped.setdefault(one, other) == other
                assert one.startswith("1.2.840.10008.") == (one == other), (keyword, one)
        copy.unlink()
    seg, report = dcmread(paths[3]), dcmread(paths[4])
    for uid in (
        seg.SOPInstanceUID,
        seg.StudyInstanceUID,
        *(dcmread(path).SOPInstanceUID for path in paths[:3]),
    ):
        assert any(uid == other for _, other in uids_in(report))
        assert uid in mapped


def test_a_structure_set_still_fits_its_images(shared_data, tmp_path):
    clean, found = cleaner(), {}
    for name in ("ct_1.dcm", "ct_2.dcm", "rt.dcm"):
        (tmp_path / name).write_bytes(clean.clean(shared_data / "dicom/rtstruct_two_slices" / name).content)
        found[name] = dcmread(tmp_path / name)
    images = {found["ct_1.dcm"].SOPInstanceUID, found["ct_2.dcm"].SOPInstanceUID}
    contours = [c for roi in found["rt.dcm"].ROIContourSequence for c in roi.ContourSequence]
    referred = {image.ReferencedSOPInstanceUID for c in contours for image in c.ContourImageSequence}
    assert referred <= images
    assert referred


def test_an_ultrasound_image_outside_its_regions(shared_data, tmp_path):
    path = shared_data / "dicom/us_palette_and_ybr/OBXXXX1A_rle.dcm"
    with pytest.raises(InputError, match="ultrasound"):
        cleaner(burned_in="refuse").clean(path)
    copy = tmp_path / "clean.dcm"
    copy.write_bytes(cleaner(BlankRule(keep_ultrasound_regions=True), burned_in="refuse").clean(path).content)
    before, after = dcmread(path).pixel_array, dcmread(copy).pixel_array
    # Regions 120,60..800,518 and 176,522..743,576, both ends inside; the first goes one beyond the image.
    assert (after[60:519, 120:] == before[60:519, 120:]).all()
    assert (after[522:577, 176:744] == before[522:577, 176:744]).all()
    assert before[:60].any()
    assert not after[:60].any()
    assert not after[60:519, :120].any()


def test_overlays_go(shared_data, tmp_path):
    path = shared_data / "dicom/overlays/MR-SIEMENS-DICOM-WithOverlays.dcm"
    copy = tmp_path / "clean.dcm"
    copy.write_bytes(cleaner().clean(path).content)
    before, after = dcmread(path), dcmread(copy)
    assert any(tag.group == 0x6000 for tag in list(before.keys()))
    assert not any(tag.group == 0x6000 for tag in list(after.keys()))
    assert (after.pixel_array == before.pixel_array).all()


def test_b_values_stay_where_safe_private_elements_do(shared_data, tmp_path):
    path = sorted((shared_data / "dicom/mr_dwi_3_bvalues").iterdir())[-1]
    copy = tmp_path / "clean.dcm"
    copy.write_bytes(cleaner(retain=("safe_private",)).clean(path).content)
    found = {int(element.tag): element.value for element in dcmread(copy) if element.tag.is_private}
    assert set(found) == {0x00190010, 0x0019100C, 0x0019100D}
    assert found[0x0019100C] == dcmread(path)[0x0019100C].value
