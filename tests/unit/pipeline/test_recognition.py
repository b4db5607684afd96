"""Recognised targets as files of a case: tables, COCO, DICOM SEG and SR, each read back."""

from __future__ import annotations

import json

import dicom_results as made_up
import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.errors import ConfigError
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instances import find_instances
from medseg.evaluation.intensity import intensities_of
from medseg.io.read import read_label
from medseg.pipeline.recognition import (
    chosen_options,
    recognise_options,
    write_tables,
)
from medseg.pipeline.target_objects import export_instances

MODEL = {"name": "abdomen", "version": "1.2.0", "weights_sha256": "ab" * 32}
OPTIONS = RecogniseOptions(labels=("kidney_right", "kidney_left", "liver", "kidneys"), min_pixels=4)


def record_of(volume, label_map, *, options=OPTIONS, certainty=None):
    found = find_instances(
        label_map,
        ImageFacts.of(volume, intensities=intensities_of(volume)),
        table=made_up.TABLE,
        options=options,
        case_id="case",
        certainty=certainty,
    )
    return {
        "case_id": "case",
        "model": MODEL,
        "instances": {**found.to_json(), "options": options.model_dump(mode="json")},
    }


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """A CT with a second piece of the right kidney."""
    folder = tmp_path_factory.mktemp("ct")
    made = made_up.write_series(folder / "source", shape=(30, 24, 8))
    label_map = made.label_map.copy()
    label_map[0:3, 0:3, 3:5] = 1
    record = record_of(
        made.volume,
        label_map,
        certainty=lambda box, _: np.full([s.stop - s.start for s in box], 0.875, np.float32),
    )
    return made, label_map, record


def export(kind, folder, ct):
    made, label_map, record = ct
    return export_instances(
        kind, folder, volume=made.volume, label_map=label_map, table=made_up.TABLE, record=record
    )


def test_each_target_is_a_segment(ct, tmp_path):
    record = ct[2]
    export("instance_seg", tmp_path, ct)
    seg = pydicom.dcmread(tmp_path / "instances.dcm")
    names = [str(s.SegmentLabel) for s in seg.SegmentSequence]
    assert names[:3] == ["kidney_right 1", "kidney_right 2", "kidney_left 1"]
    assert "kidneys 1" in names, "the members of the region have one code"
    assert len({str(s.TrackingUID) for s in seg.SegmentSequence}) == len(names)
    frames = hd.seg.segread(tmp_path / "instances.dcm")
    items = {f"{i['structure']} {i['number']}": i for i in record["instances"]["instances"]}
    for number, name in enumerate(names, start=1):
        voxels = sum(
            int(frame.sum())
            for frame, item in zip(frames.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True)
            if item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        )
        assert voxels == items[name]["voxels"], name


def test_the_report_has_a_group_for_each_target(ct, tmp_path):
    export("instance_seg", tmp_path, ct)
    assert export("instance_sr", tmp_path, ct) == []
    report = hd.sr.srread(tmp_path / "instance_measurements.dcm")
    seg = pydicom.dcmread(tmp_path / "instances.dcm")
    items = {f"{i['structure']} {i['number']}": i for i in ct[2]["instances"]["instances"]}
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == [str(s.TrackingID) for s in seg.SegmentSequence]
    for group, segment in zip(groups, seg.SegmentSequence, strict=True):
        item = items[group.tracking_identifier]
        assert str(group.tracking_uid) == str(segment.TrackingUID)
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert list(reference.referenced_segment_numbers) == [segment.SegmentNumber]
        found = {
            (m.name.value, m.derivation.value if m.derivation else ""): (m.value, m.unit.value, m.method)
            for m in group.get_measurements()
        }
        assert found["118565006", ""][0] == pytest.approx(item["quantities"]["volume"]["value"], rel=1e-5)
        long, short = found["103339001", ""], found["103340004", ""]
        assert long[0] == pytest.approx(item["quantities"]["long_axis"]["value"], rel=1e-5)
        assert short[0] == pytest.approx(item["quantities"]["short_axis"]["value"], rel=1e-5)
        assert (long[1], long[2], short[1]) == ("mm", None, "mm")
        assert found["112031", "373098007"][1] == "[hnsf'U]"
        comments = [i.TextValue for i in group[0].ContentSequence if i.name.value == "121106"]
        assert any(
            "Confidence 0.875 (mean probability of the network, not calibrated)." in t for t in comments
        )
        assert any(item["place"]["text"] in t for t in comments)
    sides = {
        g.tracking_identifier: None
        if g.finding_sites[0].laterality is None
        else g.finding_sites[0].laterality.value
        for g in groups
    }
    assert sides["kidney_right 1"] == "24028007"
    assert sides["kidney_left 1"] == "7771000"


def test_a_report_without_its_segments_and_a_volume_as_coco_are_told(ct, tmp_path):
    assert export("instance_sr", tmp_path, ct) == [
        "no instance_sr: there is no instance_seg of the case that it could refer to"
    ]
    (said,) = export("coco", tmp_path, ct)
    assert said.startswith("no coco: COCO describes pictures and the image is a volume")
    made, label_map, record = ct
    without = {key: value for key, value in record.items() if key != "instances"}
    (said,) = export("instance_seg", tmp_path, (made, label_map, without))
    assert "no targets were recognised" in said
    assert list(tmp_path.iterdir()) == []


def test_a_radiograph_as_coco_seg_and_report(tmp_path):
    made = made_up.write_radiograph(tmp_path / "source")
    label_map = np.zeros(made.volume.spatial_shape, dtype=np.uint8)
    label_map[3:9, 4:6], label_map[20:22, 10:19] = 3, 3
    case = made, label_map, record_of(made.volume, label_map)
    for kind in ("coco", "instance_seg", "instance_sr"):
        export(kind, tmp_path, case)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [a["bbox"] for a in coco["annotations"]] == [[20, 10, 2, 9], [3, 4, 6, 2]]
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == made.volume.spatial_shape
    report = hd.sr.srread(tmp_path / "instance_measurements.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["liver 1", "liver 2"]
    mask = read_label(tmp_path / "instances.dcm", made.volume)[0]
    assert np.count_nonzero(mask) == np.count_nonzero(label_map)


def test_tables_of_all_cases(ct, tmp_path):
    record = ct[2]
    assert write_tables(tmp_path, [record, {}]) == len(record["instances"]["instances"])
    lines = (tmp_path / "instances.csv").read_text().splitlines()
    assert lines[0].startswith("case_id,structure,number,voxels,volume,volume_unit,long_axis")
    assert len(lines) == 1 + len(record["instances"]["instances"])
    assert json.loads((tmp_path / "instances.json").read_text())["cases"] == json.loads(
        json.dumps([record["instances"]])
    )


def test_what_the_command_line_and_the_bundle_say():
    assert recognise_options(None) is None
    assert recognise_options("all").labels == "all"
    assert recognise_options("liver, kidneys").labels == ("liver", "kidneys")
    stored = RecogniseOptions(min_ml=0.5).model_dump(mode="json")
    assert chosen_options(None, stored, ("nifti",), table=made_up.TABLE).min_ml == 0.5
    named = chosen_options("liver", stored, ("coco",), table=made_up.TABLE)
    assert (named.labels, named.min_ml) == (("liver",), 0.5)
    assert chosen_options("liver", None, ("coco",), table=made_up.TABLE).min_ml is None
    with pytest.raises(ConfigError, match=r"coco holds recognised targets.*add --recognise all"):
        chosen_options(None, None, ("nifti", "coco"), table=made_up.TABLE)
    with pytest.raises(ConfigError, match="add instance-seg"):
        chosen_options("all", None, ("instance_sr",), table=made_up.TABLE)
    with pytest.raises(ConfigError, match="names a label twice"):
        recognise_options("liver,liver")
    with pytest.raises(ConfigError, match="--recognise is empty"):
        recognise_options(" , ")


def test_a_table_without_a_target_has_its_header(tmp_path):
    found = {"case_id": "c", "structures": {"liver": 0}, "dropped": {}, "instances": [], "notes": []}
    assert write_tables(tmp_path, [{"instances": found}]) == 0
    assert (tmp_path / "instances.csv").read_text() == "case_id,structure,number,voxels\n"
