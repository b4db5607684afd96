"""Every pipeline that the project ships is valid, and so is what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.config import load_run_config
from medseg.data.manifest import read_manifest

PIPELINES = sorted((Path(__file__).parents[3] / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pipeline_is_valid(path: Path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", "/data")
    config = load_run_config(path).config
    assert config.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=")
    table, source = config.label_table(), config.data.source
    if source.use != "manifest":
        return
    cases = read_manifest(source.path, root=source.root, check_files=False)
    assert {case.scheme for case in cases if case.scheme is not None} <= set(table.schemes)
    if config.data.split.use == "manifest":
        assert all(case.split is not None for case in cases)
    assert all(set(config.evaluation.by) <= set(case.columns) for case in cases)
