"""The page of a case that is predicted without a run, asked for among the exports."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import measure_case
from medseg.labels import Code, Label, LabelTable
from medseg.pipeline.case_files import export_case, image_facts
from medseg.quality.flag import ResultFacts
from medseg.quality.flags import judge_result
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(
            name="liver",
            value=5,
            colour="#e8743b",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
        Label(name="kidney_left", value=7, colour="#f2c12e", side="left"),
    )
)
SHAPE = (30, 26, 14)


@pytest.fixture
def case():
    affine = np.array([[-2.0, 0, 0.3, 30], [0, 3, 0, -40], [0, 0, 5, 100], [0, 0, 0, 1]])
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:20, 5:22, 6:] = 1
    image = (np.random.default_rng(0).normal(0, 10, SHAPE) + 60 * labels).astype(np.float32)
    volume = Volume(array=image[None], affine=affine, spacing_mm=(2.0, 3.0, 5.01), modality="CT")
    measures = measure_case(
        labels, table=TABLE, measures=("volume", "intensity"), case_id="<b>one</b>", spacing_mm=volume.spacing_mm,
        affine=affine, intensities=intensities_of(volume),
    )  # fmt: skip
    flags = judge_result(ResultFacts(label_map=labels, table=TABLE, measures=measures)).to_json()
    record = {
        "case_id": "<b>one</b>",
        "model": {"name": "m", "version": "1", "weights_sha256": "ab" * 32, "licence": "CC0-1.0"},
        "image": image_facts(volume),
        **{name: flags[name] for name in ("verdict", "flags", "checks")},
        "gate": {"level": "pass", "sentence": "", "distance": None, "percentile": None, "findings": []},
        "confidence": {},
        "notes": [],
        "measurements": measures.to_json(),
    }
    return volume, labels, json.loads(json.dumps(record))


def test_pages_in_both_languages_name_the_other_files(tmp_path, case):
    volume, labels, record = case
    (tmp_path / "segmentation.nii.gz").write_bytes(b"mask")
    (tmp_path / "measurements.json").write_text("{}", encoding="utf-8")
    hashes, notes = export_case(
        tmp_path, kinds=("html", "html_zh"), volume=volume, label_map=labels, table=TABLE, record=record
    )
    assert notes == ()
    assert set(hashes) == {"report.html", "report.zh.html"}
    english = (tmp_path / "report.html").read_text(encoding="utf-8")
    chinese = (tmp_path / "report.zh.html").read_text(encoding="utf-8")
    assert "segmentation.nii.gz" in english
    assert "<b>one</b>" not in english
    # Its last slice is the upper edge of the patient, whatever the letters of the grid are.
    assert "upper edge" in english
    assert "上缘" in chinese
    assert "gantry tilt" in english
    volume_ml = record["measurements"]["structures"]["liver"]["quantities"]["volume"]["value"]
    assert f"&gt; {volume_ml:.1f} mL" in english
    assert "absent" in english
    assert english.count("<figure>") == 3


def test_labels_for_itk_snap_are_those_of_the_mask(tmp_path, case):
    volume, labels, record = case
    export_case(tmp_path, kinds=("html",), volume=volume, label_map=labels, table=TABLE, record=record)
    lines = (tmp_path / "labels.itksnap.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1].split() == ["5", "232", "116", "59", "1", "1", "1", '"liver"']
    assert len(lines) == 3
