"""Secrets come from the environment or from files, never from a YAML, and never into a message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from medseg.errors import ConfigError
from medseg.pacs.options import SecretOptions


def read_secret(options: SecretOptions, *, field: str) -> str:
    """The secret that settings point to.

    Parameters
    ----------
    options : SecretOptions
    field : str
        Name of the setting, for messages.

    Raises
    ------
    ConfigError
        The variable is not set, the file is not there, empty, or open to others.
    """
    if options.env is not None:
        value = os.environ.get(options.env, "")
        if not value:
            raise ConfigError(f"{field}: the environment variable {options.env} is not set")
        return value
    path = options.file
    if path is None:
        raise ConfigError(f"{field}: give either `env` or `file`")
    try:
        value = read_bytes(path, field=field).decode().rstrip()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{field}: {path} cannot be read: it is not text") from err
    refuse_open(path, field=field)
    if not value:
        raise ConfigError(f"{field}: {path} is empty")
    return value


def read_bytes(path: Path, *, field: str) -> bytes:
    """The content of a file that a setting names.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as err:
        whose = f"; give it to user {os.geteuid()}" if isinstance(err, PermissionError) else ""
        raise ConfigError(f"{field}: {path} cannot be read: {err.strerror}{whose}") from err


def refuse_open(path: Path, *, field: str) -> None:
    """Refuse a file with a secret that everybody may read.

    Raises
    ------
    ConfigError
    """
    # A file of the group is how containers hand secrets over; one that everybody reads is none.
    if path.stat().st_mode & stat.S_IROTH:
        raise ConfigError(f"{field}: everybody may read {path}; chmod 600 it")
