"""The settings that the pages about the node show can be used as they stand."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medseg.config.schema import PipelineConfig
from medseg.config.yaml_model import load_yaml_model
from medseg.errors import ConfigError
from medseg.node.options import NodeConfig
from medseg.node.tables import JOB_STATES
from medseg.node.view import Live, Overview
from medseg.node.web.metrics import metrics_text
from medseg.pacs.outbox_table import DELIVERY_STATES

PAGE = Path(__file__).parents[3] / "docs" / "pacs.md"
OPERATION = PAGE.with_name("pacs-operation.md")
MONITORING = re.compile(r"^(scrape_configs|groups):", re.MULTILINE)
PIPELINE = re.compile(r"^pacs:", re.MULTILINE)
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="docs/ is not part of an installed package")


def shown() -> list[str]:
    """Blocks of YAML, and settings in running text that begin with a key of a node."""
    text = "\n".join(page.read_text() for page in (PAGE, OPERATION)) if PAGE.is_file() else ""
    keys = "|".join(NodeConfig.model_fields)
    found = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    blocks = [block for block in found if not PIPELINE.search(block) and not MONITORING.search(block)]
    inline = re.findall(rf"`((?:{keys}): [\[{{][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [*blocks, *inline]


def parsed(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(text))


def written(settings: dict[str, Any], folder: Path) -> Path:
    path = folder / "node.yaml"
    stream = io.StringIO()
    YAML().dump(settings, stream)
    path.write_text(stream.getvalue())
    return path


@pytest.mark.parametrize("text", shown())
def test_what_is_shown_can_be_read(text: str, tmp_path: Path):
    # The first block is whole, the others are what is added to it.
    settings = parsed(shown()[0]) | parsed(text.replace("certificate: ...", f"certificate: {'a' * 64}"))
    assert load_yaml_model(written(settings, tmp_path), NodeConfig).config


def test_what_is_shown_of_a_pipeline_can_be_read(project: Path, tmp_path: Path):
    (block,) = [
        text
        for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if PIPELINE.search(text)
    ]
    settings = parsed((project / "pipelines" / "chest_xray.yaml").read_text()) | parsed(block)
    config = load_yaml_model(written(settings, tmp_path), PipelineConfig).config
    assert config.pacs is not None


def test_the_page_shows_many():
    assert len(shown()) >= 6


def test_monitoring_asks_for_metrics_that_there_are():
    nothing = {key: {} for key in ("jobs", "studies", "work_items", "deliveries")}
    overview = Overview(**nothing, queue_age_s=0.0, stored_instances=0, stored_bytes=0)
    there = metrics_text(overview, Live(started_at=0.0), ready=True)
    blocks = re.findall(r"```yaml\n(.*?)```", OPERATION.read_text(), re.DOTALL)
    rules = [parsed(block) for block in blocks if MONITORING.search(block)]
    asked = {
        name
        for block in rules
        for group in block.get("groups", ())
        for rule in group["rules"]
        for name in re.findall(r"medseg_\w+", rule["expr"])
    }
    assert len(asked) >= 6
    assert [name for name in sorted(asked) if f"# TYPE {name} " not in there] == []
    states = set(re.findall(r'state=~?"([^"]+)"', str(rules)))
    assert {one for text in states for one in text.split("|")} <= {*JOB_STATES, *DELIVERY_STATES}


def test_the_settings_of_orthanc_are_json():
    (block,) = re.findall(r"```json\n(.*?)```", OPERATION.read_text(), re.DOTALL)
    assert json.loads(block)["DicomModalities"]["medseg"]["AET"] == "MEDSEG"


def test_a_list_with_a_wrong_entry_is_not_called_short(tmp_path: Path):
    settings = parsed(shown()[0])
    settings["rules"][0]["match"]["min_slices"] = 0
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(written(settings, tmp_path), NodeConfig)
    assert "min_slices" in str(caught.value)
    assert "at least 1 entries" not in str(caught.value)
    settings["rules"] = []
    with pytest.raises(ConfigError, match="rules: needs a list of at least 1 entries, found a list of 0"):
        load_yaml_model(written(settings, tmp_path), NodeConfig)
