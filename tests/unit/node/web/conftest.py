"""Sites for the tests of this folder."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs medseg[node]")
from medseg.database import Database
from medseg.node.audit import Audit
from medseg.node.disk_space import SpaceState
from medseg.node.listen_options import HttpListenOptions
from medseg.node.privacy_options import AuditOptions
from medseg.node.tables import metadata
from medseg.node.vault import Vault
from medseg.node.view import Live
from medseg.node.web.app import create_app
from tests.unit.node.web.node_site import TOKENS, Called, Site, TurnedClock, fill, make_accounts, make_view


@pytest.fixture(scope="session")
def filled_folder(tmp_path_factory):
    """The folder of a node with a few rows, to be copied."""
    folder = tmp_path_factory.mktemp("node")
    database = Database.in_file(folder / "node.sqlite", metadata)
    fill(database, Vault(folder), TurnedClock().now())
    database.close()
    return folder


@pytest.fixture
def make_site(tmp_path, filled_folder):
    """Makes a site; `roles=()` one without accounts."""
    databases = []

    def make(*, roles: tuple[str, ...] = tuple(TOKENS), store: Any = None, **options: Any) -> Site:
        shutil.copytree(filled_folder, tmp_path, dirs_exist_ok=True)
        database = Database.in_file(tmp_path / "node.sqlite", metadata)
        databases.append(database)
        clock, called = TurnedClock(), Called()
        site = Site(
            view=make_view(tmp_path, database, clock, called, lambda: site.live),
            database=database,
            clock=clock,
            called=called,
            audit_file=tmp_path / "audit.jsonl",
            live=Live(started_at=clock.now() - 60, space=SpaceState(free=10**10, held=0)),
        )

        def new_app() -> Any:
            return create_app(
                site.view,
                HttpListenOptions(**options),
                database=database,
                accounts=make_accounts(roles),
                audit=Audit(tmp_path, AuditOptions(), clock),
                secret=b"s" * 32,
                store=store,
                turned_away=lambda address, reason: site.turned_away.append(reason),
            )

        site.app, site.new_app = new_app(), new_app
        return site

    yield make
    for database in databases:
        database.close()


@pytest.fixture
def site(make_site):
    """A site with an account of each role."""
    return make_site()
