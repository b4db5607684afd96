"""A folder and its database are one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs medseg[node]")
from medseg.database import Database
from medseg.errors import ConfigError
from medseg.node.home import check_version
from medseg.node.tables import metadata


@pytest.mark.parametrize("lost", ["removed", "emptied"])
@pytest.mark.parametrize("top", ["instances", "jobs"])
def test_a_lost_database_does_not_take_the_files_along(tmp_path: Path, top: str, lost: str):
    path = tmp_path / "node.db"

    def start() -> None:
        database = Database.in_file(path, metadata)
        try:
            check_version(database, tmp_path)
        finally:
            database.close()

    start()
    place = tmp_path / top / "ab" / "kept.dcm"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"acknowledged")
    start()
    if lost == "removed":
        path.unlink()
    else:
        path.write_bytes(b"")
    # However often it is tried.
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=f"does not know in {top}; they would be taken for new: restore"
        ):
            start()
    (tmp_path / top).rename(tmp_path / "away")
    start()
