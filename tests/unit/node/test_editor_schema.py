"""What an editor knows of a node's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from medseg.config import json_schema
from medseg.node.options import NodeConfig

jsonschema = pytest.importorskip("jsonschema")
SETTINGS = Path(__file__).parents[3] / "deploy" / "node.yaml"


@pytest.mark.skipif(not SETTINGS.is_file(), reason="deploy/ is not part of an installed package")
def test_the_settings_of_deploy_are_right_and_a_wrong_key_is_not():
    schema = json_schema(NodeConfig, kind="node")
    assert schema["title"] == "medseg node"
    checker = jsonschema.Draft7Validator(schema)
    settings = YAML(typ="safe", pure=True).load(SETTINGS.read_text())
    assert [error.message for error in checker.iter_errors(settings)] == []
    settings["dimse"]["ae_titel"] = "MEDSEG"
    (error,) = checker.iter_errors(settings)
    assert "ae_titel" in str(error)


def test_every_setting_is_described():
    schema = json_schema(NodeConfig, kind="node")
    for name, definition in schema["definitions"].items():
        for key, value in definition.get("properties", {}).items():
            assert key == "use" or "description" in value, (name, key)
