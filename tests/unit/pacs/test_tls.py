"""What is wrong with a certificate or a key is told before anything connects, with file and cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("cryptography", reason="needs medseg[pacs]")
from cryptography.hazmat.primitives import serialization

from medseg.errors import ConfigError
from medseg.pacs.options import ClientTlsOptions
from medseg.pacs.tls import client_context, server_context
from tests.unit.node.test_dimse_tls import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def with_passphrase(path: Path) -> Path:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"geheim")
    private = serialization.PrivateFormat.PKCS8, lock
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return path


Pair = tuple[Path, Path]
WRONG: dict[str, tuple[Callable[[Pair, Pair, Authority], Pair], str]] = {
    "absent certificate": (
        lambda one, _two, authority: (authority.folder / "absent", one[1]),
        r"^dimse\.tls\.certificate: \S+/absent cannot be read: No such file or directory$",
    ),
    "absent key": (
        lambda one, _two, authority: (one[0], authority.folder / "absent"),
        r"^dimse\.tls\.key: \S+/absent cannot be read",
    ),
    "exchanged": (
        lambda one, _two, _: (one[1], one[0]),
        r"^dimse\.tls\.certificate: no certificate in \S+one\.key but a private key; expected PEM",
    ),
    "certificate for key": (
        lambda one, two, _: (one[0], two[0]),
        r"^dimse\.tls\.key: no private key in \S+two\.crt but a certificate; expected PEM",
    ),
    "another's key": (
        lambda one, two, _: (one[0], two[1]),
        r"^dimse\.tls\.key: \S+two\.key is not the key of the certificate \S+one\.crt; give the two",
    ),
    "passphrase": (
        lambda one, _two, _: (one[0], with_passphrase(one[1])),
        r"^dimse\.tls\.key: the key in \S+one\.key has a passphrase.*openssl pkey",
    ),
    "expired": (
        lambda _one, _two, authority: authority.sign("old", days=(-30, -1))[:2],
        r"^dimse\.tls\.certificate: \S+old\.crt expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC; put a new certificate",
    ),
    "not yet": (
        lambda _one, _two, authority: authority.sign("new", days=(1, 9))[:2],
        r"^dimse\.tls\.certificate: \S+new\.crt holds from .* on; is this",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_certificate_or_key_that_cannot_be_used_is_named_with_the_cure(authority: Authority, kind: str):
    choose, sentence = WRONG[kind]
    one, two = authority.sign("one")[:2], authority.sign("two")[:2]
    server_context(*one, authority.path, field="dimse.tls")
    with pytest.raises(ConfigError, match=sentence):
        server_context(*choose(one, two, authority), None, field="dimse.tls")


def test_a_key_that_everybody_may_read_is_refused(authority: Authority):
    certificate, key, _ = authority.sign("one")
    key.chmod(0o644)
    mine = ClientTlsOptions(certificate=certificate, key=key)
    with pytest.raises(ConfigError, match=r"tls\.key: everybody may read \S+one\.key; chmod 600 it"):
        client_context(mine, field="tls")


def test_a_certificate_as_der_is_told_from_one_that_is_damaged(authority: Authority):
    certificate, key, _ = authority.sign("one")
    certificate.write_bytes(authority.certificate.public_bytes(serialization.Encoding.DER))
    with pytest.raises(ConfigError, match=r"no certificate in \S+ but DER \(openssl x509 -inform der"):
        server_context(certificate, key, None, field="dimse.tls")


def test_authorities_that_cannot_be_used_are_named(authority: Authority):
    text, old = authority.folder / "text.pem", authority.sign("old", days=(-30, -1))[0]
    text.write_text("no certificate")
    for path, sentence in (
        (text, "no certificate in"),
        (old, "expired on"),
        (text.with_name("absent"), "No such"),
    ):
        with pytest.raises(ConfigError, match=rf"tls\.authorities: .*{sentence}"):
            client_context(ClientTlsOptions(authorities=path), field="tls")
    # The one of today stands beside the old one.
    old.write_bytes(old.read_bytes() + authority.path.read_bytes())
    client_context(ClientTlsOptions(authorities=old), field="tls")


def test_a_key_without_a_certificate_is_refused(authority: Authority):
    with pytest.raises(ConfigError, match=r"tls\.key: expected tls\.certificate"):
        client_context(ClientTlsOptions(key=authority.sign("one")[1]), field="tls")
