"""Secrets come from the environment or from files, never from a YAML, and never into a message."""

from __future__ import annotations

import os
import stat

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
        mode = path.stat().st_mode
        value = path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or "it is not text"
        raise ConfigError(f"{field}: {path} cannot be read: {reason}") from err
    # A file of the group is how containers hand secrets over; one that everybody reads is none.
    if mode & stat.S_IROTH:
        raise ConfigError(f"{field}: everybody may read {path}; chmod 600 it")
    if not value:
        raise ConfigError(f"{field}: {path} is empty")
    return value
