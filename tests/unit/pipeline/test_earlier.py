"""Earlier examinations and sizes of other cases, found in results that were written before."""

from __future__ import annotations

import json

import pytest

from medseg.errors import ConfigError
from medseg.pipeline.earlier import Earlier, Examination, read_results, read_sizes, whole_sizes


def record(case_id, value=12.5, bound="exact"):
    volume = {"value": value, "unit": "ml", "bound": bound}
    return {"case_id": case_id, "measurements": {"structures": {"liver": {"quantities": {"volume": volume}}}}}


def write(folder, case_id, **facts):
    path = folder / case_id
    path.mkdir(parents=True)
    (path / "measurements.json").write_text(json.dumps(record(case_id)), encoding="utf-8")
    if facts:
        (path / "report.json").write_text(json.dumps(facts), encoding="utf-8")
    return path


def examination(folder, case_id, patient="P-1", date=""):
    return Examination(case_id=case_id, patient=patient, date=date, folder=folder / case_id)


def test_the_latest_earlier_examination_of_the_patient_is_taken(tmp_path):
    for case_id, date in (("a", "2025-01-01"), ("b", "20260101"), ("c", "2026-06-01"), ("d", "2027-01-01")):
        write(tmp_path / "cases", case_id, patient="P-1", date=date)
    write(tmp_path / "cases", "e", patient="P-2", date="2026-05-31")
    found = Earlier(given=read_results(tmp_path), own=())
    assert found.before("x", "P-1", "2026-05-01").case_id == "b"
    assert found.before("x", "P-1", "2024-05-01") is None
    assert found.before("x", "P-3", "2026-05-01") is None


def test_without_patients_the_same_name_is_compared_and_without_dates_the_folder_is_believed(tmp_path):
    write(tmp_path, "case-1")
    write(tmp_path, "case-2", patient="P-2", date="")
    found = Earlier(given=read_results(tmp_path), own=())
    assert found.before("case-1", "P-9", "").case_id == "case-1"
    assert found.before("other", "P-2", "2026-01-01").case_id == "case-2"
    assert found.before("case-2", "P-9", "") is None


def test_cases_of_the_same_run_need_dates(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    own = (examination(tmp_path, "a", date="2026-01-01"), examination(tmp_path, "b", date="2026-02-01"))
    found = Earlier(given=(), own=own)
    assert found.before("b", "P-1", "2026-02-01").record["case_id"] == "a"
    assert found.before("a", "P-1", "2026-01-01") is None
    assert (
        Earlier(given=(), own=(examination(tmp_path, "a"), examination(tmp_path, "b"))).before("b", "P-1", "")
        is None
    )


def test_a_folder_without_results_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"report\.previous: .* holds no results"):
            read_results(folder)


def test_sizes_that_are_cut_off_do_not_count(tmp_path):
    sizes = whole_sizes([record("a"), record("b", 9.0, "lower"), record("c", None)])
    assert sizes == {"liver": {"a": 12.5}}
    table = tmp_path / "measurements.csv"
    head = "case_id,structure,measure,value,unit,bound,reason,note\n"
    table.write_text(
        head + "a,liver,volume,10,ml,exact,,\nb,liver,volume,11,ml,lower,,\nb,liver,parts,1,1,exact,,\n"
        "c,liver,area,5,mm2,exact,,\n", encoding="utf-8",
    )  # fmt: skip
    assert read_sizes(table) == ({"liver": [10.0, 5.0]}, 3)
    table.write_text("case_id,value\na,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="lacks the columns structure, measure, unit, bound"):
        read_sizes(table)
    table.write_text(head + "a,liver,volume,ten,ml,exact,,\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a number"):
        read_sizes(table)
