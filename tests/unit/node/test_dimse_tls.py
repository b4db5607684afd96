"""TLS on the DICOM listener: whose certificate the authority signed gets in, and nobody else."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import socket
import ssl
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
pytest.importorskip("cryptography", reason="needs medseg[pacs]")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.node.listen_options import CallerOptions
from medseg.node.repeats import IN_FULL
from medseg.node.tables import instances
from medseg.pacs.dimse_client import DimseSender
from medseg.pacs.options import ClientTlsOptions, DimseDestination
from medseg.pacs.tls import server_context
from tests.unit.node.listening import Listener, wait_until
from tests.unit.pacs.archives import outgoing

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._certificate(name, self.key.public_key(), ca=True)
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, *, days: tuple[int, int] = (-1, 1)) -> tuple[Path, Path, str]:
        """Paths of a certificate and its key, and the certificate's SHA-256; it holds from and to so many days away."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(name, key.public_key(), ca=False, days=days)
        files = self.folder / f"{self.name}-{name}.crt", self.folder / f"{self.name}-{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
        files[1].chmod(0o600)
        digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        return *files, digest

    def _certificate(self, name: str, key, *, ca: bool, days: tuple[int, int] = (-1, 1)) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if ca else self.certificate.subject
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return built.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def scanner(authority: Authority) -> tuple[Path, Path, str]:
    return authority.sign("scanner")


@pytest.fixture
def listener(tmp_path: Path, authority: Authority, scanner):
    certificate, key, _ = authority.sign("node")
    tls = server_context(certificate, key, authority.path, field="dimse.tls")
    callers = (CallerOptions(certificate=scanner[2]),)
    opened = Listener(tmp_path, callers=callers, tls=tls)
    yield opened
    opened.stop()


def sender(
    listener: Listener, authority: Authority, certificate: Path | None, key: Path | None
) -> DimseSender:
    tls = ClientTlsOptions(authorities=authority.path, certificate=certificate, key=key)
    options = DimseDestination(
        host="localhost", port=listener.server.port, called_ae_title="MEDSEG", tls=tls, timeout=3.0
    )
    return DimseSender(options)


def test_who_has_the_right_certificate_delivers(listener: Listener, authority: Authority, scanner):
    mine = sender(listener, authority, *scanner[:2])
    mine.echo()
    assert [sent.state for sent in mine.send([outgoing(1)])] == ["sent"]


def test_another_certificate_of_the_authority_is_no_caller(listener: Listener, authority: Authority):
    stranger = authority.sign("stranger")
    with pytest.raises(PacsRejectedError, match="refused the association"):
        sender(listener, authority, *stranger[:2]).echo()
    wait_until(lambda: bool(listener.audit_lines()))
    assert listener.audit_lines()[-1]["certificate"] == stranger[2]


def test_no_certificate_a_strangers_or_no_tls_get_nothing(
    listener: Listener, authority: Authority, tmp_path: Path
):
    other = Authority(tmp_path, "other")
    for certificate, key in ((None, None), other.sign("scanner")[:2]):
        with pytest.raises(PacsUnreachableError):
            sender(listener, authority, certificate, key).echo()
    plain = AE(ae_title="PLAIN")
    plain.add_requested_context(Verification)
    plain.acse_timeout = plain.network_timeout = 2
    assert not plain.associate("127.0.0.1", listener.server.port, ae_title="MEDSEG").is_established
    assert listener.rows(instances) == []
    wait_until(lambda: len(listener.audit_lines()) >= 3)
    told = [(line["outcome"], line["reason"]) for line in listener.audit_lines()]
    assert told == [
        ("refused", "no TLS connection: it has no certificate"),
        ("refused", "no TLS connection: its certificate is not trusted"),
        ("refused", "no TLS connection: it speaks no TLS"),
    ]
    assert {line["address"] for line in listener.audit_lines()} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("days", "reason"),
    [((-30, -1), "its certificate has expired"), ((1, 9), "its certificate is not valid yet")],
)
def test_a_certificate_out_of_its_time_is_told_as_such(
    listener: Listener, authority: Authority, days: tuple[int, int], reason: str
):
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(*authority.sign("late", days=days)[:2])
    with (
        socket.create_connection(("localhost", listener.server.port), timeout=3) as raw,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        # With TLS 1.3 the server's word comes after the handshake.
        assert secured.recv(1) == b""
    wait_until(lambda: bool(listener.audit_lines()))
    assert listener.audit_lines()[-1]["reason"] == f"no TLS connection: {reason}"


def test_a_handshake_that_stands_still_or_breaks_off_holds_nobody_up(
    listener: Listener, authority: Authority, scanner, monkeypatch: pytest.MonkeyPatch
):
    address = ("localhost", listener.server.port)
    silent = [socket.create_connection(address, timeout=3) for _ in range(30)]
    half = socket.create_connection(address, timeout=3)
    # The head of a ClientHello, and no more.
    half.sendall(bytes.fromhex("1603010200010001fc0303"))
    half.close()
    sender(listener, authority, *scanner[:2]).echo()
    for one in silent:
        one.close()
    wait_until(lambda: listener.server.counts["refused"] == 31 and len(listener.audit_lines()) == IN_FULL)
    assert {line["reason"] for line in listener.audit_lines()} == {
        "no TLS connection: it hung up during the handshake"
    }


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocols_and_weak_ciphers_are_not_spoken(listener: Listener, authority: Authority, scanner):
    for spoil in (
        lambda context: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_1),
        lambda context: (
            setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2),
            context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"),
        ),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority.path)
        context.load_cert_chain(*scanner[:2])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        spoil(context)
        with (
            socket.create_connection(("localhost", listener.server.port), timeout=3) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(raw, server_hostname="localhost")
