"""Settings that a node would not honour stop it."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.errors import ConfigError
from medseg.node.options import NodeConfig
from medseg.node.service import check

RULES = [{"name": "chest", "match": {"modality": ["DX"]}, "model": "chest-xray-lungs"}]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"dimse": None, "http": None}, "nothing can come in"),
        ({"dimse": {"host": "0.0.0.0"}}, "is open to the network"),
        (
            {"dimse": {"host": "0.0.0.0"}, "callers": [{"ae_title": "CT1"}]},
            "an AE title alone can be claimed",
        ),
        ({"http": {"host": "0.0.0.0"}}, "expected http.accounts"),
        ({"rules": [{"name": "x", "model": "no-such-model"}]}, "rule x: "),
        ({"storage": {"key": {"env": "MEDSEG_NO_SUCH_KEY"}}}, "MEDSEG_NO_SUCH_KEY is not set"),
    ],
)
def test_what_would_not_be_honoured_stops_the_node(tmp_path, changed, sentence: str):
    given = {"medseg_node": 1, "folder": tmp_path, "dimse": {}, "rules": RULES} | changed
    with pytest.raises(ConfigError, match=sentence):
        check(NodeConfig.model_validate(given))
