"""The run folder: found again by its settings, locked by one process, states kept."""

import json

import pytest

from medseg.errors import StorageError
from medseg.pipeline.run_folder import RunFolder, StageState, find_or_new, stage_key


def started(tmp_path, digest="a" * 64):
    run = find_or_new(tmp_path, pipeline="chest", digest=digest)
    with run.locked():
        run.start(pipeline="chest", digest=digest, settings="medseg: 1\n", command=["medseg", "run"])
    return run


def test_the_same_settings_find_their_run_again(tmp_path):
    run = started(tmp_path)
    assert find_or_new(tmp_path, pipeline="chest", digest="a" * 64).path == run.path
    assert find_or_new(tmp_path, pipeline="chest", digest="b" * 64).path != run.path


def test_looking_for_a_run_writes_nothing(tmp_path):
    find_or_new(tmp_path, pipeline="chest", digest="a" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_told_who_has_the_folder(tmp_path):
    run = started(tmp_path)
    with (
        run.locked(),
        pytest.raises(StorageError, match=r"in use by process \d+ on .+ since"),
        RunFolder(run.path).locked(),
    ):
        pass


def test_stage_states_survive(tmp_path):
    run = started(tmp_path)
    run.set_stage("train", StageState(key="k", done=True, seconds=1.5, summary={"text": "x"}))
    state = RunFolder(run.path).stage("train")
    assert state.done
    assert state.summary == {"text": "x"}


def test_a_damaged_record_is_named_and_not_passed_over(tmp_path):
    run = started(tmp_path)
    (run.path / "run.json").write_text('{"format": 1')
    with pytest.raises(StorageError, match=r"run\.json cannot be read"):
        find_or_new(tmp_path, pipeline="chest", digest="a" * 64)


def test_hostile_pipeline_names_stay_inside(tmp_path):
    run = find_or_new(tmp_path, pipeline="../../x", digest="a" * 64)
    assert tmp_path in run.path.resolve().parents


def test_log_lines_are_json_and_keep_line_breaks_inside(tmp_path):
    run = started(tmp_path)
    run.log("case failed", case="a\nb\x1b[31m")
    lines = (run.path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["case"] == "a\nb\x1b[31m"
    assert "\x1b" not in lines[-1]


def test_a_stage_key_depends_on_settings_and_what_came_before():
    key = stage_key("train", settings={"a": 1}, upstream="x")
    assert key == stage_key("train", settings={"a": 1}, upstream="x")
    assert key != stage_key("train", settings={"a": 2}, upstream="x")
    assert key != stage_key("train", settings={"a": 1}, upstream="y")
