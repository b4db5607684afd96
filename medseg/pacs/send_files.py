"""What `medseg send` does: files of a folder -> an archive, once, with a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from medseg.amounts import counted, parse_seconds
from medseg.config.yaml_model import load_yaml_model
from medseg.errors import ConfigError, ImageReadError, InputError, PacsUnreachableError, StorageError
from medseg.pacs.files_to_send import FoundFile, found_files, outgoing
from medseg.pacs.options import Destination, PacsOptions
from medseg.pacs.senders import Waits, sender_for, wait_before
from medseg.pacs.sending import Outgoing, Sender

_BATCH_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """What became of a file: sent, refused, again (the archive did not take it in time), no DICOM, or unread."""

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
    every = list(found_files(inputs))
    found = [file for file in every if file.state != "other"]
    wanted = [file.path for file in found if not file.state]
    if not wanted:
        raise InputError(_nothing(inputs, every))
    sent = {
        file.path: file
        for batch in deliver(wanted, sender, waits=options, deadline=deadline)
        for file in batch
    }
    files = [_became(file, sent) for file in found]
    left = [file for file in files if file.state != "sent"]
    none = all(file.state == "again" for file in sent.values())
    code = 0 if not left else PacsUnreachableError.exit_code if none else 1
    return SendReport(files=tuple(files), exit_code=code, others=len(every) - len(found))


def _became(file: FoundFile, sent: Mapping[Path, SentFile]) -> SentFile:
    if file.same_as is not None:
        first = sent[file.same_as]
        reason = f"the same as {file.same_as}" if first.state == "sent" else first.reason
        return SentFile(path=file.path, state=first.state, reason=reason)
    if file.state:
        return SentFile(path=file.path, state=file.state, reason=file.reason)
    return sent[file.path]


def _nothing(inputs: Sequence[Path], found: Sequence[FoundFile]) -> str:
    """Why nothing can be sent."""
    names = ", ".join(map(str, inputs[:3])) + (", ..." if len(inputs) > 3 else "")
    if not found:
        return f"no file in {names}"
    unread = next((f"; {file.reason}" for file in found if file.state == "unread"), "")
    return f"no DICOM file in {names}: {counted(len(found), 'file')} looked at{unread}"


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


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in paths:
        more = _size(path)
        if batch and size + more > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += more
    if batch:
        yield batch


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Whoever reads it says so.
        return 0


def _deliver(paths: Sequence[Path], sender: Sender, waits: Waits, deadline: float) -> list[SentFile]:
    """Try until everything is sent or refused, or the time is over."""
    waiting = list(paths)
    done: dict[Path, SentFile] = {}
    attempt = 0
    while waiting:
        attempt += 1
        files = {path: file for path in waiting if (file := _read(path, done)) is not None}
        answers = dict(zip(files, sender.send(list(files.values())), strict=True)) if files else {}
        done |= {
            path: SentFile(path=path, state=answer.state, reason=answer.reason)
            for path, answer in answers.items()
        }
        waiting = [path for path, answer in answers.items() if answer.state == "again"]
        # An archive may say itself when to come again.
        asked = [answers[path].retry_after_s or 0.0 for path in waiting]
        wait = max(wait_before(attempt, waits), *asked, 0.0)
        if not waiting or time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
    return [done[path] for path in paths]


def _read(path: Path, done: dict[Path, SentFile]) -> Outgoing | None:
    """A file with its content; one that was there and cannot be read any more is done with."""
    try:
        return outgoing(path)
    except (ImageReadError, StorageError) as err:
        done[path] = SentFile(path=path, state="unread", reason=str(err))
        return None
