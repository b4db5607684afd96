"""The command line: what it imports, how it fails, what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "monai")


def medseg(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "medseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def pipeline(tmp_path, project):
    path = tmp_path / "chest.yaml"
    path.write_text((project / "pipelines" / "chest_xray.yaml").read_text())
    return path


def test_help_models_schema_and_settings_errors_import_no_torch(project):
    code = f"""
import sys
from pathlib import Path
import medseg.cli
from medseg.models.bundle import list_bundles
from medseg.config.editor_schema import schema_text
from medseg.pipeline.api import dry_run_pipeline
list_bundles(), schema_text()
dry_run_pipeline(Path({str(project / "pipelines" / "chest_xray.yaml")!r}), output=Path("nowhere"))
sys.exit(", ".join(m for m in {HEAVY!r} if m in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_misspelt_key_is_named_with_line_and_guess(pipeline):
    pipeline.write_text(pipeline.read_text().replace("learning_rate:", "learnig_rate:"))
    done = medseg("run", pipeline, "--output", pipeline.parent / "runs")
    assert done.returncode == 2
    assert "learnig_rate" in done.stderr
    assert "did you mean `learning_rate`" in done.stderr
    assert f"{pipeline.name}:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (pipeline.parent / "runs").exists()


def test_json_errors_carry_the_exit_code(pipeline):
    done = medseg("run", pipeline, "--set", "training.epochs=many", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def test_dry_run_says_what_and_why_and_writes_nothing(pipeline):
    done = medseg("run", pipeline, "--output", pipeline.parent / "runs", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    stages = {s["stage"]: s["reason"] for s in json.loads(done.stdout)["stages"]}
    assert list(stages) == ["check", "plan", "train", "predict", "evaluate", "export", "report"]
    assert stages["train"] == "never done"
    assert sorted(p.name for p in pipeline.parent.iterdir()) == ["chest.yaml"]


def test_an_unknown_model_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    done = medseg("predict", tmp_path, "--model", "chest-xray-lung", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "chest-xray-lung" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stage_lists_the_stages(pipeline):
    done = medseg("run", pipeline, "--output", pipeline.parent / "runs", "--only", "trian")
    assert done.returncode == 2
    assert "stages: check, plan, search, train" in done.stderr


def test_the_shipped_schema_is_that_of_the_code(project):
    done = medseg("schema")
    assert done.returncode == 0
    shipped = (project / "docs" / "schema" / "pipeline-1.json").read_text()
    assert json.loads(done.stdout) == json.loads(shipped), (
        "write it again: medseg schema -o docs/schema/pipeline-1.json"
    )


@pytest.mark.parametrize("name", ["chest_xray.yaml", "chest_xray_train.yaml"])
def test_shipped_pipelines_load(project, monkeypatch, tmp_path, name):
    from medseg.config.load import load_run_config

    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    config = load_run_config(Path(project / "pipelines" / name)).config
    assert config.label_table().names == ("background", "lung_right", "lung_left")


def test_doctor_says_what_is_there():
    done = medseg("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert {finding["level"] for finding in json.loads(done.stdout)} <= {"ok", "note"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "evaluate takes one of: a PIPELINE.yaml"),
        (("x.yaml", "--compare", "a", "b"), "found several"),
        (("x.yaml", "--metrics", "dice"), "--metrics: only for evaluate with --prediction DIR"),
        (("--compare", "a", "b", "--missing", "empty"), "--missing: only for evaluate with --prediction DIR"),
        (
            ("--prediction", "a", "--reference", "b", "-o", "c", "--set", "k=1"),
            "--set: only for evaluate with a PIPELINE",
        ),
        (("--prediction", "a", "-o", "c"), "--reference is needed"),
    ],
)
def test_evaluate_passes_over_no_option(words, told, tmp_path):
    done = medseg("evaluate", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
