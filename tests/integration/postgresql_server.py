"""A PostgreSQL of Debian in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path | None:
    """Where Debian puts initdb and pg_ctl; they are not on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@contextmanager
def postgresql(*, port: int = 0, user: str = "postgres", password: str = "") -> Iterator[Path]:
    """A server as long as the block; its folder, which also holds its socket.

    Parameters
    ----------
    port : int
        On the loopback address; 0: the socket alone.
    user : str
        A superuser.
    password : str
        "": nobody is asked for one.
    """
    place = programs()
    if place is None or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    # Not below pytest's folder, where nobody else may pass: PostgreSQL refuses to run as root.
    home = Path(tempfile.mkdtemp(prefix="medseg-postgresql-"))
    home.chmod(0o755)
    data, secret = home / "data", home / "password"
    data.mkdir()
    secret.write_text(password)
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(data, "postgres")
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    login = ["-A", "scram-sha-256", f"--pwfile={secret}"] if password else ["-A", "trust"]
    subprocess.run([*become, place / "initdb", "-D", data, "-U", user, *login], **run)
    options = f"-c listen_addresses='127.0.0.1' -p {port}" if port else "-c listen_addresses=''"
    control = [*become, place / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
    subprocess.run([*control, "-o", f"{options} -c unix_socket_directories='{data}'", "start"], **run)
    try:
        yield data
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(home)
