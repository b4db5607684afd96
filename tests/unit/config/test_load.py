"""Finding, loading and writing back pipelines; the schema for editors; what importing settings costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from medseg.config import (
    find_pipeline,
    json_schema,
    load_run_config,
    load_yaml_model,
    resolved_yaml,
    schema_text,
)
from medseg.errors import ConfigError

PIPELINE = """\
medseg: 1
name: p
data:
  source: {use: manifest, path: cases.csv}
  split: manifest
labels: {liver: {value: 1}}
preprocess: [gray, {use: normalise, method: window, low: -100, high: 1e2}]
augment: [{use: gamma, probability: 0.25}]
model: {use: unet, start_from: ../bundles/mine}
training: {optimiser: sgd, learning_rate: 1e-2, ema: 0.99}
evaluation: {metrics: [dice, {use: nsd, tolerance_mm: 3}], require: {liver: {dice: 0.9}}}
"""


def test_resolved_settings_load_to_an_equal_config_in_any_folder(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(PIPELINE)
    first = load_run_config(tmp_path / "a.yaml")
    assert first.config.data.source.path == tmp_path / "cases.csv"
    assert first.config.model.start_from == str(tmp_path.parent / "bundles" / "mine")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.yaml").write_text(resolved_yaml(first.config))
    second = load_run_config(tmp_path / "deep" / "b.yaml")
    assert second.config == first.config
    assert second.digest == first.digest
    lines = resolved_yaml(first.config).splitlines()
    assert lines[1:3] == ["medseg: 1", "name: p"], "in the order of the model, not of the alphabet"
    assert "- {use: gray, weights: rec601}" in lines, "the choice leads its options"


class Texts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    number: float
    whole: int
    table: dict[str, str | None]


TRAPS = [
    "1e-3",
    "no",
    "null",
    "~",
    "010",
    "0o7",
    ".5",
    "5.",
    "1_0",
    "<<",
    "=",
    "- a",
    "a: b",
    "#",
    "!x",
    "&x",
]


@settings(deadline=None)
@given(
    text=st.text() | st.sampled_from(TRAPS),
    number=st.floats(allow_nan=False, allow_infinity=False),
    whole=st.integers(min_value=-(10**30), max_value=10**30),
    key=st.text(),
)
def test_resolved_yaml_reads_back_equal_whatever_the_values(tmp_path_factory, text, number, whole, key):
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    try:
        values = Texts(text=text, number=number, whole=whole, table={key: text, "none": None})
    except ValueError:
        return  # a lone surrogate is no text
    path.write_text(resolved_yaml(values), encoding="utf-8")
    if key == "<<":
        return
    assert load_yaml_model(path, Texts).config == values


def test_pipelines_are_found_as_given_then_in_their_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pipelines").mkdir()
    Path("pipelines/chest_xray.yaml").touch()
    Path("pipelines/abdomen.yml").touch()
    assert find_pipeline("chest_xray.yaml") == Path("pipelines/chest_xray.yaml")
    assert find_pipeline("pipelines/chest_xray.yaml") == Path("pipelines/chest_xray.yaml")
    Path("chest_xray.yaml").touch()
    assert find_pipeline("chest_xray.yaml") == Path("chest_xray.yaml")
    with pytest.raises(
        ConfigError, match=r"no file chst_xray.yaml or pipelines/chst_xray.yaml; did you mean chest_xray.yaml"
    ):
        find_pipeline("chst_xray.yaml")
    with pytest.raises(ConfigError, match=r"did you mean pipelines/abdomen.yml"):
        find_pipeline("abdomen")
    with pytest.raises(ConfigError, match=r"pipelines found here: chest_xray.yaml, pipelines/abdomen.yml, "):
        find_pipeline("zzzzzz.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        find_pipeline("pipelines")
    with pytest.raises(ConfigError, match=r"no file /nowhere/x.yaml"):
        find_pipeline("/nowhere/x.yaml")


def test_shipped_pipelines_load(project: Path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", "/data")
    pipelines = sorted((project / "pipelines").glob("*.yaml"))
    assert pipelines
    for path in pipelines:
        loaded = load_run_config(path)
        assert loaded.config.name == path.stem
        assert path.read_text().startswith("# yaml-language-server: $schema=../docs/schema/pipeline-1.json\n")


def test_the_schema_in_docs_is_the_one_of_the_code(project: Path):
    stored = (project / "docs" / "schema" / "pipeline-1.json").read_text(encoding="utf-8")
    assert stored == schema_text(), "write medseg.config.schema_text() to docs/schema/pipeline-1.json"


def test_schema_takes_bare_names_that_need_no_options():
    schema = json_schema()
    bare = {
        name: _bare_names(_items(schema["properties"][name]))
        for name in ("preprocess", "augment", "postprocess")
    }
    assert "gray" in bare["preprocess"]
    assert "resize" not in bare["preprocess"]
    assert "pad" not in bare["preprocess"], "needs size or multiple, which only its validator knows"
    assert set(bare["postprocess"]) == {"keep_largest", "fill_holes"}
    assert "unet" in _bare_names(schema["properties"]["model"])
    assert "adamw" in _bare_names(schema["definitions"]["TrainingSettings"]["properties"]["optimiser"])


def _items(value: dict) -> dict:
    return next(branch["items"] for branch in value.get("anyOf", [value]) if "items" in branch)


def _bare_names(choice: dict) -> list[str]:
    options = next(branch["oneOf"] for branch in choice.get("anyOf", [choice]) if "oneOf" in branch)
    return next(branch["enum"] for branch in options if "enum" in branch)


def test_schema_branches_require_use_and_every_field_is_described():
    schema = json_schema()
    text = json.dumps(schema)
    assert "discriminator" not in text
    assert "$defs" not in text
    for name, definition in schema["definitions"].items():
        properties = definition.get("properties", {})
        if "use" in properties:
            assert "use" in definition["required"], name
        assert definition["additionalProperties"] is False
        lacking = [key for key, value in properties.items() if "description" not in value and key != "use"]
        assert not lacking, (name, lacking)


def test_schema_lets_a_file_that_extends_leave_things_out():
    schema = json_schema()
    assert "extends" in schema["properties"]
    assert set(schema["else"]["required"]) == {"medseg", "name", "data", "labels", "model"}
    assert "required" not in schema


def test_settings_import_no_heavy_package():
    code = (
        "import sys, medseg.config, medseg.data.manifest, medseg.data.splits\n"
        "heavy = ('torch', 'monai', 'scipy', 'SimpleITK', 'nibabel', 'highdicom', 'pydicom', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
