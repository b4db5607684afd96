"""Settings that a node would not honour stop it."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.errors import ConfigError
from medseg.node.options import NodeConfig
from medseg.node.service import check


def test_identifiers_that_would_stay_are_no_silent_setting(tmp_path):
    rules = [{"name": "chest", "match": {"modality": ["DX"]}, "model": "chest-xray-lungs"}]
    given = {
        "medseg_node": 1,
        "folder": tmp_path,
        "dimse": {},
        "rules": rules,
        "deidentify": {"key": {"env": "DEIDENTIFY_KEY"}},
    }
    with pytest.raises(ConfigError, match="deidentify: this version cannot"):
        check(NodeConfig.model_validate(given))
