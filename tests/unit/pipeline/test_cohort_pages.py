"""Files beside a cohort page: tables, comparison, thumbnails, and the page of images without references."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import ConfigError, MissingPackageError
from medseg.evaluation.cases import evaluate_case
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.summary import summarise
from medseg.labels import Label, LabelTable
from medseg.pipeline.cohort_settings import known_language
from medseg.pipeline.compare_runs import compare_folders, compare_runs
from medseg.pipeline.predict_page import slim_record
from medseg.pipeline.table_files import require_formats, write_run_tables
from medseg.pipeline.thumbnails import axial_axis, draw_thumbnail
from medseg.provenance import write_json
from medseg.volume import Volume

TABLE = LabelTable(labels=(Label(name="liver", value=1, colour="#aa3300"),))
OPTIONS = EvaluationOptions.model_validate({"metrics": [{"use": "dice"}, {"use": "hd95"}], "samples": 100})


def _evaluated(folder: Path, *, shift: int) -> Path:
    """An evaluation of ten cases whose masks are off by `shift` voxels."""
    cases = []
    for index in range(10):
        reference = np.zeros((12, 9, 5), dtype=np.int16)
        reference[2 : 7 + index % 3, 2:7, 1:4] = 1
        predicted = np.roll(reference, shift, axis=0)
        cases.append(
            evaluate_case(
                predicted,
                reference[None],
                table=TABLE,
                case_id=f"c{index}",
                patient_id=f"p{index}",
                spacing_mm=(1.0, 2.0, 3.0),
                options=OPTIONS,
                columns={},
            )
        )
    write_json(folder / "evaluation" / "cases.json", [case.to_json() for case in cases])
    settings = {"settings": OPTIONS.model_dump(mode="json")}
    write_json(folder / "evaluation" / "summary.json", summarise(cases, OPTIONS).to_json() | settings)
    return folder


def test_comparison_is_a_page_that_names_both(tmp_path: Path) -> None:
    old, new = (_evaluated(tmp_path / name, shift=shift) for name, shift in (("old", 3), ("new", 1)))
    compare_runs(old, new, tmp_path / "out", language="zh")
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert record["names"] == ["old", "new"]
    assert record == json.loads(json.dumps(compare_folders(old, new)))
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "old（第一）与 new（第二）" in page
    assert "第二较好" in page
    assert "default-src &#39;none&#39;" in page


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    first, second = (_evaluated(tmp_path / side / "run", shift=1) for side in "ab")
    assert compare_folders(first, second)["names"] == ["a/run", "b/run"]


def test_tables_are_written_in_every_format_and_old_ones_go(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "cases": [{"case_id": "=a", "volume": 1.5}],
        "flags": [{"case_id": "b", "code": "Q101"}],
    }
    files = write_run_tables(tmp_path, rows, ("csv", "json"))
    assert files["cases"] == ("tables/cases.csv", "tables/cases.json")
    with (tmp_path / "tables" / "cases.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"case_id": "'=a", "volume": "1.5"}]
    assert json.loads((tmp_path / "tables" / "cases.json").read_text()) == rows["cases"]
    write_run_tables(tmp_path, {"cases": rows["cases"]}, ("json",))
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["cases.json"]


def test_parquet_keeps_numbers_and_gaps(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"case_id": "a", "n": 1, "x": 1}, {"case_id": "b", "n": None, "x": 0.5, "more": "text"}]
    files = write_run_tables(tmp_path, {"cases": rows}, ("parquet",))
    table = parquet.read_table(tmp_path / files["cases"][0])
    assert table.to_pylist() == [
        {"case_id": "a", "n": 1, "x": 1.0, "more": None},
        {"case_id": "b", "n": None, "x": 0.5, "more": "text"},
    ]


def test_parquet_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.data.parquet.util.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'medseg\[parquet\]'"):
        require_formats(("csv", "parquet"))
    require_formats(("csv", "json"))


def _volume(affine: Any) -> Volume:
    # The head stands along the first axis: world z grows with i.
    return Volume(
        array=np.random.default_rng(1).normal(size=(1, 10, 24, 17)).astype(np.float32),
        affine=affine,
        spacing_mm=(3.0, 1.0, 1.5),
    )


def test_thumbnail_shows_the_axial_slice_of_the_structure_in_question() -> None:
    affine = np.array([[0, 1.0, 0, 0], [0, 0, 1.5, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    masks = {name: np.zeros((10, 24, 17), dtype=np.bool_) for name in ("liver", "spleen")}
    masks["liver"][1, 2:20, 2:15] = True
    masks["spleen"][7, 4:9, 3:6] = True
    picture = draw_thumbnail(_volume(affine), predicted=masks, reference={}, focus="spleen")
    assert [contour.structure for contour in picture.contours] == ["spleen"]
    assert picture.letters[0][0] == "left"
    # 24 voxels of 1 mm and 17 of 1.5 mm.
    assert picture.width / picture.height == pytest.approx(24 / 25.5, abs=0.02)
    largest = draw_thumbnail(_volume(affine), predicted=masks, reference={}, focus="")
    assert [contour.structure for contour in largest.contours] == ["liver"]


def test_axial_axis_is_the_last_one_where_directions_are_not_known() -> None:
    assert axial_axis(("F", "L", "P")) == 0
    assert axial_axis(None) == 2


def test_slim_records_keep_what_a_cohort_page_shows() -> None:
    quantity = {"value": 1.0, "unit": "ml"}
    record = {
        "verdict": "pass", "flags": [], "checks": [1, 2], "gate": {"level": "pass"}, "confidence": {}, "notes": [],
        "image": {"shape": [3, 4]}, "model": {"name": "m"}, "key": "k",
        "measurements": {"structures": {"a": {"shape": {}, "quantities": {"volume": quantity}}}, "ratios": {}},
    }  # fmt: skip
    slim = slim_record(record)
    assert slim["measurements"]["structures"] == {"a": {"quantities": {"volume": quantity}}}
    assert slim["checks"] == []
    assert "key" not in slim


def test_language_that_is_not_there_is_refused() -> None:
    assert known_language("zh") == "zh"
    with pytest.raises(ConfigError, match="expected one of en, zh"):
        known_language("de")
