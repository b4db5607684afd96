"""Settings that a node would not honour stop it."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.errors import ConfigError
from medseg.node.options import NodeConfig
from medseg.node.settings_check import check
from medseg.node.worklist_check import worklist_lines

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


LIST = {
    "use": "ups",
    "name": "list",
    "url": "http://127.0.0.1:1/dicom-web",
    "workitems": [{"value": "A", "scheme": "99T", "rule": "chest"}],
}


@pytest.mark.parametrize(
    ("source", "changed", "sentence"),
    [
        (
            {"workitems": [{"value": "A", "scheme": "99T", "rule": "liver"}]},
            {},
            "the rule 'liver', which is not there",
        ),
        ({"workitems": LIST["workitems"] * 2}, {}, "the code A, 99T is there twice"),
        ({"workitems": []}, {}, "at least 1 item"),
        ({"url": "http://me:secret@host/dicom-web"}, {}, "should match pattern"),
        ({}, {"deidentify": {"key": {"env": "X"}}}, "retain `uids`"),
        (
            {},
            {"rules": [*RULES, RULES[0] | {"name": "other", "runs": "on_request"}]},
            "'other' runs on request",
        ),
    ],
)
def test_a_work_list_that_cannot_be_performed_is_refused(tmp_path, source, changed, sentence: str):
    given = {"medseg_node": 1, "folder": tmp_path, "rules": RULES, "sources": [LIST | source]} | changed
    with pytest.raises(ValueError, match=sentence):
        NodeConfig.model_validate(given)


@pytest.mark.parametrize(
    ("source", "rule", "sentence"),
    [
        ({"token": {"env": "MEDSEG_NO_SUCH_TOKEN"}}, {}, "MEDSEG_NO_SUCH_TOKEN is not set"),
        (
            {
                "archives": [
                    {"url": "https://pacs/x", "user": "me", "password": {"env": "MEDSEG_NO_PASSWORD"}}
                ]
            },
            {},
            "MEDSEG_NO_PASSWORD is not set",
        ),
        ({}, {"exports": ["nifti", "html"]}, "sends no DICOM object"),
        ({}, {"exports": ["secondary_capture"], "send_to": ["archive"]}, "sends no DICOM object"),
    ],
)
def test_what_an_item_would_fail_by_is_found_by_the_check(tmp_path, source, rule, sentence: str):
    given = {
        "medseg_node": 1,
        "folder": tmp_path,
        "rules": [RULES[0] | rule],
        "sources": [LIST | source],
        "destinations": {"archive": {"use": "dimse", "host": "pacs", "called_ae_title": "PACS"}},
    }
    with pytest.raises(ConfigError, match=sentence):
        check(NodeConfig.model_validate(given))


def test_a_work_list_that_can_be_performed_is_told_of(tmp_path):
    given = {"medseg_node": 1, "folder": tmp_path, "rules": RULES, "sources": [LIST], "http": None}
    config = NodeConfig.model_validate(given)
    check(config)
    assert worklist_lines(config) == ["work list list: A (99T) asks for the rule chest"]
