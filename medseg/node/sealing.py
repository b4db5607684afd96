"""Authenticated encryption of files at rest: AES-256-GCM in chunks, bound to the name of the file.

Layout: `MSEAL1`, two zero bytes, 16 random bytes; then chunks of 1 MiB of content, each with its tag of 16 bytes.
Every file has a key of its own, derived from the node's key, the random bytes and the file's name (HKDF, RFC 5869), and
the nonce of a chunk is its number; whether it is the last is authenticated with it. So a file can be neither cut, nor
put together of two, nor given another's name, and no nonce is ever used twice with one key.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING

from medseg.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"MSEAL1\0\0"
_CHUNK = 1 << 20
_TAG = 16
_SALT = 16
KEY_BYTES = 32
_EXPECTED = f"expected a key of {KEY_BYTES} bytes in base64, as `openssl rand -base64 {KEY_BYTES}` makes it"


def parse_key(text: str, *, field: str) -> bytes:
    """A key of 32 bytes from its base64.

    Raises
    ------
    ConfigError
        It is none; the text is not quoted.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as err:
        raise ConfigError(f"{field}: {_EXPECTED}") from err
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{field}: {_EXPECTED}; found {len(key)} bytes")
    return key


def seal(content: bytes, key: bytes, name: str) -> bytes:
    """Encrypt the content of a file."""
    salt, view = os.urandom(_SALT), memoryview(content)
    cipher = _cipher(key, salt, name)
    count = max(1, -(-len(content) // _CHUNK))
    chunks = (
        cipher.encrypt(_nonce(index), bytes(view[index * _CHUNK : (index + 1) * _CHUNK]), _end(index, count))
        for index in range(count)
    )
    return b"".join((_MAGIC, salt, *chunks))


def unseal(sealed: bytes, key: bytes | None, name: str) -> bytes:
    """The content of a file, encrypted or plain.

    Raises
    ------
    StorageError
        It was changed or cut, has another name's content or another key; or it is encrypted and there is no key,
        or the reverse.
    """
    if not sealed.startswith(_MAGIC):
        if key is not None:
            raise StorageError(
                f"{name} is not encrypted although storage.key is set; the node did not write it"
            )
        return sealed
    if key is None:
        raise StorageError(f"{name} is encrypted; set storage.key")
    from cryptography.exceptions import InvalidTag

    start, step = len(_MAGIC) + _SALT, _CHUNK + _TAG
    cipher, view = _cipher(key, sealed[len(_MAGIC) : start], name), memoryview(sealed)[start:]
    count = max(1, -(-len(view) // step))
    try:
        return b"".join(
            cipher.decrypt(_nonce(index), bytes(view[index * step : (index + 1) * step]), _end(index, count))
            for index in range(count)
        )
    except (InvalidTag, ValueError) as err:
        raise StorageError(f"{name} was changed on disk, or storage.key is another one") from err


def _cipher(key: bytes, salt: bytes, name: str) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"medseg file " + name.encode())
    return AESGCM(derived.derive(key))


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _end(index: int, count: int) -> bytes:
    return b"last" if index == count - 1 else b"more"
