"""NiiVue's released bundle: the file that pages with a viewer carry, checked before it goes into one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from medseg.errors import StorageError

VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of the released file, unpacked."""
_FILE = "niivue.umd.js.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The bundle as a page needs it.

    Parameters
    ----------
    packed : str
        The script, gzip, in base64.
    csp_hash : str
        "sha256-..." of the unpacked script, for a Content-Security-Policy.
    licences : str
        Of NiiVue and of what the bundle contains.
    """

    packed: str
    csp_hash: str
    licences: str


@cache
def niivue() -> Library:
    """The vendored bundle.

    Raises
    ------
    StorageError
        The installed file is missing or is not the released one.
    """
    folder = resources.files("medseg.report") / "vendor" / "niivue"
    try:
        packed = (folder / _FILE).read_bytes()
        licences = (folder / "LICENSES.txt").read_text(encoding="utf-8")
    except OSError as err:
        raise StorageError(
            f"NiiVue {VERSION} is missing from this installation; install medseg anew"
        ) from err
    return Library(
        packed=base64.b64encode(packed).decode("ascii"),
        csp_hash="sha256-" + base64.b64encode(bytes.fromhex(checked(packed))).decode("ascii"),
        licences=licences,
    )


def checked(packed: bytes) -> str:
    """SHA-256 of the script in a gzip file, hexadecimal.

    Raises
    ------
    StorageError
        It is not the released file.
    """
    try:
        digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    except (OSError, EOFError, zlib.error) as err:
        raise StorageError(f"{_FILE} is damaged ({err}); install medseg anew") from err
    if digest != SHA256:
        raise StorageError(
            f"{_FILE} is not NiiVue {VERSION} as released: expected SHA-256 {SHA256}, found {digest}; "
            "install medseg anew"
        )
    return digest
