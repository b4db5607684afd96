"""Certificates that expire soon are told, and each has a figure for monitoring."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[node]")
pytest.importorskip("cryptography", reason="needs medseg[node]")
from medseg.node.expiry import certificate_ends, expiring
from medseg.node.options import NodeConfig
from medseg.node.view import Live, Overview
from medseg.node.web.metrics import metrics_text
from tests.unit.node.test_dimse_tls import Authority

DAY_S = 86400.0


def test_each_certificate_of_the_settings_has_its_end(tmp_path: Path):
    authority = Authority(tmp_path)
    soon, later = authority.sign("soon", days=(-9, 5)), authority.sign("later", days=(-9, 300))
    both = tmp_path / "both.pem"
    both.write_bytes(soon[0].read_bytes() + later[0].read_bytes())
    mine = {"certificate": later[0], "key": later[1], "authorities": both}
    web = {"use": "ups", "name": "list", "url": "https://x", "tls": mine}
    given = {
        "medseg_node": 1,
        "folder": tmp_path,
        "dimse": {"tls": {"certificate": both, "key": soon[1], "client_authorities": authority.path}},
        "rules": [{"name": "chest", "model": "chest-xray-lungs"}],
        "destinations": {"far": {"use": "dimse", "host": "x", "called_ae_title": "X", "tls": mine}},
        "sources": [
            web
            | {
                "workitems": [{"value": "A", "scheme": "99T", "rule": "chest"}],
                "archives": [{"url": "https://y", "tls": mine}],
            }
        ],
    }
    ends = certificate_ends(NodeConfig.model_validate(given))
    now = ends["dimse.tls.certificate"] - 5 * DAY_S
    assert {name: round((end - now) / DAY_S) for name, end in ends.items()} == {
        "dimse.tls.certificate": 5,
        "dimse.tls.client_authorities": 1,
        "destinations.far.tls.certificate": 300,
        "destinations.far.tls.authorities": 300,
        "sources.list.tls.certificate": 300,
        "sources.list.tls.authorities": 300,
        "sources.list.archives.0.tls.certificate": 300,
        "sources.list.archives.0.tls.authorities": 300,
    }
    lines = expiring(ends, now)
    assert [line.split(" expires on ")[0] for line in lines] == [
        "dimse.tls.client_authorities",
        "dimse.tls.certificate",
    ]
    assert lines[1].endswith(", in 5 days; replace the file and start the node again")


def test_monitoring_gets_the_day():
    nothing = Overview(
        jobs={},
        studies={},
        work_items={},
        deliveries={},
        queue_age_s=0.0,
        stored_instances=0,
        stored_bytes=0,
    )
    live = Live(started_at=0.0, certificates={"http.tls.certificate": 1.8e9})
    text = metrics_text(nothing, live, ready=True)
    assert 'medseg_certificate_expires_timestamp_seconds{setting="http.tls.certificate"} 1800000000\n' in text
