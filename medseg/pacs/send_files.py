"""What `medseg send` does: files of a folder -> an archive, once, with a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from medseg.amounts import counted, parse_seconds
from medseg.config.yaml_model import load_yaml_model
from medseg.errors import ConfigError, ImageReadError, InputError, PacsUnreachableError, StorageError
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import DEFAULT_LIMITS
from medseg.io.sniff import is_something, kind_of, read_head
from medseg.pacs.options import Destination, PacsOptions
from medseg.pacs.senders import Waits, sender_for, wait_before
from medseg.pacs.sending import Outgoing, Sender, Sent

_BATCH_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """What became of a file: sent, refused, again (the archive did not take it in time), or no DICOM."""

    path: Path
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """What became of all files, and the exit code for it.

    `others` is the number of files in folders that were passed over, since they are of another kind.
    """

    files: tuple[SentFile, ...]
    exit_code: int
    others: int = 0

    @property
    def text(self) -> str:
        """One sentence."""
        sent = sum(file.state == "sent" for file in self.files)
        beside = f"; passed over {self.others} that are no DICOM" if self.others else ""
        return f"sent {sent} of {counted(len(self.files), 'file')}{beside}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "exit_code": self.exit_code,
            "others": self.others,
            "files": [{"path": str(f.path), "state": f.state, "reason": f.reason} for f in self.files],
        }


def send_files(inputs: Sequence[Path], *, to: str, config: Path, retry_for: str) -> SendReport:
    """Send the DICOM files among the inputs.

    Parameters
    ----------
    inputs : sequence of Path
        Files, or folders that are searched.
    to : str
        Name of a destination in `config`.
    config : Path
        YAML of a node, or with `destinations` alone.
    retry_for : str
        How long to go on trying, such as 5min.

    Returns
    -------
    SendReport
        Exit code 1 where some were not sent; where none was because the archive does not answer, 4.

    Raises
    ------
    ConfigError
        The YAML, the name or the time is wrong.
    StorageError, InputError
        An input is not there; none of them is DICOM.
    """
    options = destination(config, to)
    sender, deadline = sender_for(options), time.monotonic() + _seconds(retry_for)
    every = list(_found(inputs))
    found = [(path, reason) for path, reason in every if reason is not None]
    wanted = [path for path, reason in found if not reason]
    if not wanted:
        names = ", ".join(map(str, inputs[:3])) + (", ..." if len(inputs) > 3 else "")
        raise InputError(
            f"no DICOM file in {names}: {counted(len(every), 'file')} looked at"
            if every
            else f"no file in {names}"
        )
    files = [SentFile(path=path, state="no DICOM", reason=reason) for path, reason in found if reason]
    for batch in deliver(wanted, sender, waits=options, deadline=deadline):
        files += batch
    left = [file for file in files if file.state != "sent"]
    none = all(file.state == "again" for file in files if file.state != "no DICOM")
    code = 0 if not left else PacsUnreachableError.exit_code if none else 1
    return SendReport(files=tuple(files), exit_code=code, others=len(every) - len(found))


def deliver(
    paths: Sequence[Path], sender: Sender, *, waits: Waits, deadline: float
) -> Iterator[list[SentFile]]:
    """Send DICOM files, in batches that memory holds; what became of each batch.

    Parameters
    ----------
    paths : sequence of Path
    sender : Sender
    waits : Waits
        Between two tries.
    deadline : float
        Of the monotonic clock; what is not taken until then is left.
    """
    for batch in _batches(paths):
        yield _deliver(batch, sender, waits, deadline)


def echo_destination(to: str, config: Path) -> str:
    """Ask whether an archive is there; a sentence that it is.

    Raises
    ------
    ConfigError
        As `send_files`.
    PacsUnreachableError, PacsRejectedError
        It is not, or lets nobody in.
    """
    begin = time.monotonic()
    sender_for(destination(config, to)).echo()
    return f"{to} answers ({1000 * (time.monotonic() - begin):.0f} ms)"


def destination(config: Path, name: str) -> Destination:
    """A destination by its name.

    Raises
    ------
    ConfigError
        The YAML is wrong, or has no such destination.
    """
    destinations = load_yaml_model(config, _AnyConfig).config.destinations
    if name not in destinations:
        raise ConfigError(f"{config} has no destination {name!r}; expected one of {', '.join(destinations)}")
    return destinations[name]


class _AnyConfig(PacsOptions):
    """The destinations of any YAML; what else stands in it is checked by whom it is for."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as err:
        raise ConfigError(f"--retry-for {text!r}: {err}") from err


def _found(inputs: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Each file, with why it is not sent or ""; None where it lies in a folder and is of another kind."""
    for top in inputs:
        if not top.exists():
            raise StorageError(f"{top} does not exist; correct the path")
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file():
                problem = _problem(path)
                yield path, None if problem and top.is_dir() and _is_other(path) else problem


def _problem(path: Path) -> str:
    try:
        header = DicomHeader.of(scan_file(path, DEFAULT_LIMITS).dataset, path)
    except ImageReadError as err:
        return str(err).removeprefix(f"{path}: ")
    missing = [keyword for keyword in ("SOPClassUID", "SOPInstanceUID") if not header.uid(keyword)]
    return f"{missing[0]} is missing" if missing else ""


def _is_other(path: Path) -> bool:
    """Whether a file is of another kind and does not pretend to be DICOM, as pictures and tables beside results."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return False
    try:
        head = read_head(path)
    except (ImageReadError, StorageError):
        return False
    return kind_of(head) != "dicom" and is_something(head)


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in paths:
        if batch and size + path.stat().st_size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += path.stat().st_size
    if batch:
        yield batch


def _deliver(paths: Sequence[Path], sender: Sender, waits: Waits, deadline: float) -> list[SentFile]:
    """Try until everything is sent or refused, or the time is over."""
    waiting = dict(enumerate(paths))
    done: dict[int, Sent] = {}
    attempt = 0
    while waiting:
        attempt += 1
        answers = sender.send([_outgoing(path) for path in waiting.values()])
        done |= dict(zip(waiting, answers, strict=True))
        waiting = {index: path for index, path in waiting.items() if done[index].state == "again"}
        wait = wait_before(attempt, waits)
        if not waiting or time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
    return [
        SentFile(path=path, state=done[index].state, reason=done[index].reason)
        for index, path in enumerate(paths)
    ]


def _outgoing(path: Path) -> Outgoing:
    header = DicomHeader.of(scan_file(path, DEFAULT_LIMITS).dataset, path)
    return Outgoing(
        sop_class_uid=header.uid("SOPClassUID"),
        sop_instance_uid=header.uid("SOPInstanceUID"),
        content=path.read_bytes(),
    )
