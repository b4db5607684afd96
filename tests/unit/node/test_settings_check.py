"""Settings that a node would not honour stop it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.errors import ConfigError, StorageError
from medseg.node.listen_options import CallerOptions
from medseg.node.options import NodeConfig
from medseg.node.settings_check import check, missing_folders
from medseg.node.worklist_check import worklist_lines

WEB = {"use": "dicomweb", "name": "web", "url": "http://127.0.0.1:1/dicom-web"}
FAR = {"use": "dimse", "host": "pacs", "called_ae_title": "PACS"}
FIND = {"use": "dimse", "name": "find", "host": "127.0.0.1", "called_ae_title": "A"}
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
        ({"storage": {"keep_results": 90}}, "expected 1h or more.*a number without a unit is in seconds"),
        ({"jobs": {"max_ram": 8}}, "expected 100MB or more.*a number without a unit is in bytes"),
        ({"rules": [{"name": "x", "model": "no-such-model"}]}, "rule x: "),
        ({"storage": {"key": {"env": "MEDSEG_NO_SUCH_KEY"}}}, "MEDSEG_NO_SUCH_KEY is not set"),
        (
            {"sources": [WEB | {"user": "me", "password": {"env": "MEDSEG_NO_SUCH"}}]},
            "source web: password: the environment variable MEDSEG_NO_SUCH is not set",
        ),
        (
            {"sources": [FIND | {"tls": {"authorities": "/no/such.pem"}}]},
            r"source find: tls.authorities?: /no/such.pem",
        ),
        (
            {"destinations": {"far": {"use": "dicomweb", "url": "http://h", "token": {"file": "/no/such"}}}},
            "destinations.far: token: /no/such cannot be read",
        ),
        (
            {"destinations": {"far": {"use": "dicomweb", "url": "http://h", "token": "geheim"}}},
            r"expected \{env: NAME\} or \{file: PATH\}",
        ),
        (
            {"destinations": {"far": FAR | {"kinds": ["dicom-seg"]}}},
            "destinations.far.dimse.kinds.0\n  Input should be 'dicom_seg'",
        ),
        (
            {
                "rules": [RULES[0] | {"send_to": ["far"]}],
                "destinations": {"far": FAR | {"kinds": ["rtstruct"]}},
            },
            "rule chest: nothing of it goes to far: its exports are nifti, .*far.kinds takes rtstruct; add",
        ),
        (
            {"sources": [WEB | {"tls": {"authorities": "/no/such.pem"}}]},
            "`tls` is for https, and `url` is http://127.0.0.1:1/dicom-web",
        ),
        (
            {"dimse": {"ae_title": "LUNGS"}, "sources": [FIND | {"retrieve": "move"}]},
            r"sources.0.calling_ae_title: C-MOVE sends to MEDSEG, and the listener is LUNGS \(dimse.ae_title\)",
        ),
        (
            {"dimse": None, "sources": [FIND | {"retrieve": "move"}]},
            "sources.0.retrieve: C-MOVE sends to the listener; add `dimse`",
        ),
        (
            {"dimse": {"ae_title": "LUNGS"}, "destinations": {"far": FAR | {"commitment": "ask"}}},
            "destinations.far.calling_ae_title: storage commitment is reported to MEDSEG, and the listener is LUNGS",
        ),
        ({"rules": [*RULES, RULES[0]]}, "rules.1.name: the name 'chest' is used twice"),
        ({"sources": [WEB, WEB]}, "sources.1.name: the name 'web' is used twice"),
        ({"rules": [RULES[0] | {"send_to": ["far"]}]}, "rules.0.send_to.0: no destination 'far'; .*: none"),
        ({"dimse": {"port": 4000}, "http": {"port": 4000}}, "http.port: 4000 is the port of `dimse`"),
        ({"dimse": {"host": "10.1.2.3:104"}}, "found '10.1.2.3:104' .the port has a setting of its own"),
        ({"http": {"hosts": ["https://medseg"]}}, "expected a name or an address alone"),
        ({"callers": [{"address": "10.1.2.9/24"}]}, r"found '10.1.2.9/24', did you mean '10.1.2.0/24'\?"),
        ({"callers": [{"address": "10.1.2.300"}]}, r"expected an address such as .*; found '10.1.2.300'"),
        ({"callers": [{"certificate": "AA:BB"}]}, "expected the SHA-256 of a certificate.*found 'AA:BB'"),
    ],
)
def test_what_would_not_be_honoured_stops_the_node(tmp_path, changed, sentence: str):
    given = {"medseg_node": 1, "folder": tmp_path, "dimse": {}, "rules": RULES} | changed
    with pytest.raises((ConfigError, ValidationError), match=sentence):
        check(NodeConfig.model_validate(given))


def test_all_that_cannot_be_used_is_told_at_once(tmp_path):
    absent = {"env": "MEDSEG_NO_SUCH"}
    given = {
        "medseg_node": 1,
        "folder": tmp_path,
        "dimse": {"host": "0.0.0.0"},
        "rules": [{"name": "x", "model": "no-such-model"}],
        "sources": [WEB | {"token": absent}],
        "storage": {"key": absent},
    }
    with pytest.raises(ConfigError) as caught:
        check(NodeConfig.model_validate(given))
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 problems"
    assert [line.split(": ")[0].strip() for line in lines[2:]] == [
        "dimse.host 0.0.0.0 is open to the network; expected dimse.tls.client_authorities, or `callers` with an "
        "address or certificate each (an AE title alone can be claimed by anybody)",
        "source web",
        "storage.key",
        "rule x",
    ]


@pytest.mark.parametrize("written", ["AB" * 32, ":".join(["Ab"] * 32), "ab" * 32])
def test_a_fingerprint_is_taken_as_openssl_prints_it(written: str):
    assert CallerOptions(certificate=written).certificate == "ab" * 32


def test_a_folder_that_cannot_be_one_stops_the_node(tmp_path, monkeypatch):
    config = NodeConfig.model_validate({"medseg_node": 1, "folder": tmp_path / "a" / "b", "rules": RULES})
    check(config)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match=rf"{tmp_path} cannot be written by user"):
        check(config)
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match=r"/a is a file; expected a folder"):
        check(config)


def test_a_watched_folder_that_is_not_there_is_told(tmp_path):
    drop = {"use": "folder", "name": "drop", "folder": tmp_path / "drop"}
    given = {"medseg_node": 1, "folder": tmp_path, "rules": RULES, "sources": [drop]}
    (line,) = missing_folders(NodeConfig.model_validate(given))
    assert line == f"source drop: the folder {tmp_path / 'drop'} is not there; it is looked for every 30 s"
    (tmp_path / "drop").mkdir()
    assert missing_folders(NodeConfig.model_validate(given)) == []


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
            "sources.0.workitems.0.rule: no rule 'liver'; those of the node: chest",
        ),
        ({"workitems": LIST["workitems"] * 2}, {}, "the code A, 99T is there twice"),
        ({"workitems": []}, {}, "at least 1 item"),
        ({"url": "http://me:secret@host/dicom-web"}, {}, "expected a URL"),
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
        (
            {},
            {"exports": ["secondary_capture"], "send_to": ["archive"]},
            "nothing of it goes to archive: its exports are secondary_capture, and destinations.archive.kinds takes",
        ),
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
