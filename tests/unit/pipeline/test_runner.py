"""Which stages run again, and why."""

from types import SimpleNamespace

import pytest

from medseg.errors import ConfigError
from medseg.pipeline.context import Context
from medseg.pipeline.progress import SilentReporter
from medseg.pipeline.run_folder import RunFolder
from medseg.pipeline.runner import Stage, describe, run_stages


class Pipeline:
    """Three stages that count their runs; `settings` may change between attempts."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = {"a": 1, "b": 1}
        self.ran: list[tuple[str, bool]] = []
        self.fail_in = ""
        self.found = "x"

    def context(self):
        context = Context(settings=SimpleNamespace(), run=RunFolder(self.folder), reporter=SilentReporter())
        context.section = self.settings.__getitem__
        return context

    def stage(self, name, settings, *, always=False):
        def run(context):
            self.ran.append((name, context.resuming))
            if name == self.fail_in:
                raise RuntimeError(name)
            return {"text": name, "inputs_sha256": self.found if always else ""}

        return Stage(
            name=name, settings=settings, run=run, wanted=lambda _: True, plan=lambda _: name, always=always
        )

    @property
    def stages(self):
        return (
            self.stage("check", (), always=True),
            self.stage("train", ("a",)),
            self.stage("report", ("b",)),
        )

    def attempt(self, **options):
        self.ran = []
        ran = run_stages(self.context(), self.stages, **options)
        return ran, [name for name, _ in self.ran]


@pytest.fixture
def pipeline(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return Pipeline(folder)


def test_a_finished_pipeline_only_looks_at_its_inputs_again(pipeline):
    assert pipeline.attempt() == (True, ["check", "train", "report"])
    assert pipeline.attempt() == (False, ["check"])


def test_changed_settings_repeat_the_stage_and_all_after_it(pipeline):
    pipeline.attempt()
    pipeline.settings["b"] = 2
    assert pipeline.attempt()[1] == ["check", "report"]
    pipeline.settings["a"] = 2
    assert pipeline.attempt()[1] == ["check", "train", "report"]


def test_changed_inputs_repeat_everything_from_scratch(pipeline):
    pipeline.attempt()
    pipeline.found = "y"
    assert pipeline.attempt()[1] == ["check", "train", "report"]
    assert ("train", False) in pipeline.ran


def test_a_stage_that_was_cut_off_resumes(pipeline):
    pipeline.fail_in = "train"
    with pytest.raises(RuntimeError):
        pipeline.attempt()
    pipeline.fail_in = ""
    pipeline.attempt()
    assert pipeline.ran[1] == ("train", True)


def test_only_repeats_one_stage_from_scratch(pipeline):
    pipeline.attempt()
    assert pipeline.attempt(only=["report"])[1] == ["check", "report"]
    assert ("report", False) in pipeline.ran


def test_only_refuses_to_skip_what_is_not_done(pipeline):
    with pytest.raises(ConfigError, match="needs the stage train"):
        pipeline.attempt(only=["report"])


def test_a_dry_run_says_why_and_runs_nothing(pipeline):
    pipeline.attempt()
    pipeline.settings["a"] = 2
    pipeline.ran = []
    reasons = {name: why for name, _, why in describe(pipeline.context(), pipeline.stages)}
    assert reasons["train"] == "its settings or inputs changed"
    assert reasons["report"] == "its settings or inputs changed"
    assert pipeline.ran == []


def test_failed_cases_are_remembered_when_the_stage_is_reused(pipeline):
    context = pipeline.context()
    stage = Stage(
        name="predict",
        settings=(),
        run=lambda c: c.fail("a", "predict", "is no film") or {"text": ""},
        wanted=lambda _: True,
        plan=lambda _: "",
    )
    run_stages(context, [stage])
    again = pipeline.context()
    assert run_stages(again, [stage]) is False
    assert [(f.case_id, f.text) for f in again.failures] == [("a", "is no film")]
