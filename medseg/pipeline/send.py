"""Stage `send`: the exports that a person need not look at, to the archives of the section `pacs`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from medseg.amounts import counted
from medseg.errors import (
    InputError,
    MedsegError,
    MissingPackageError,
    PacsRejectedError,
    PacsUnreachableError,
    StorageError,
)
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import DEFAULT_LIMITS
from medseg.pacs.options import DicomwebArchive, DimseArchive
from medseg.pacs.send_options import SendOptions
from medseg.pipeline import case_files
from medseg.pipeline.context import Context
from medseg.pipeline.predict import which
from medseg.pipeline.run_folder import now
from medseg.privacy import safe_name
from medseg.provenance import write_json

STAGE = "send"
RECORD = "sent.json"
_NAMED = 5


class _Waits(NamedTuple):
    first_wait: float = 1.0
    longest_wait: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """SOP Instance UID -> file, cases whose verdict holds them back, and cases without such a file."""

    files: dict[str, Path]
    held: tuple[str, ...]
    without: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What became of the objects for all archives."""

    sent: int = 0
    before: int = 0
    refused: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def plan(context: Context) -> str:
    """One line for the dry run."""
    options = _options(context)
    places = " and ".join(archive.place for archive in options.to)
    held = f", except those to {' or '.join(options.hold_on)}" if options.hold_on else ""
    return f"{', '.join(options.send)} of the {which(context)} cases{held}, to {places}"


def require(context: Context) -> None:
    """Raise now for what would stop the sending after the training.

    Raises
    ------
    MissingPackageError
        The extra `pacs` is not installed.
    ConfigError
        A certificate or secret cannot be used.
    """
    if context.settings.pacs is not None:
        for archive in context.settings.pacs.to:
            _sender(archive)


def run(context: Context) -> dict[str, Any]:
    """Send what was not sent before, and write sent.json after each batch.

    Raises
    ------
    InputError
        No case has any of the files.
    PacsUnreachableError, PacsRejectedError
        Some objects are left; the next run goes on with them.
    """
    options, chosen = _options(context), _choose(context)
    if not chosen.files and not chosen.held:
        raise InputError(
            f"nothing to send: no case has {' or '.join(options.send)}; exports.json says why for each"
        )
    for case_id in chosen.held:
        context.reporter.note(
            f"{case_id}: held for its verdict; look at it, then send its files by medseg send"
        )
    tally = _Tally()
    for archive in options.to:
        _send(context, archive, chosen, tally)
    if tally.refused or tally.waiting:
        raise _failure(tally)
    text = _text(tally, chosen, options)
    return {"text": text, "sent": tally.sent, "held": list(chosen.held), "without": list(chosen.without)}


def _options(context: Context) -> SendOptions:
    options = context.settings.pacs
    if options is None:
        raise RuntimeError("no section pacs")
    return options


def _choose(context: Context) -> _Chosen:
    """The files of the exported cases; a case that failed has none."""
    options, exported = _options(context), _read(context.run.path / "exports.json").get("files", {})
    names = [name for kind in options.send for name in case_files.FILES[kind]]
    files: dict[str, Path] = {}
    held, without = [], []
    for case_id, written in exported.items():
        folder = context.run.cases / safe_name(case_id)
        record, mine = case_files.read_record(folder) or {}, [name for name in names if name in written]
        if not mine:
            without.append(case_id)
        elif record.get("verdict") in options.hold_on:
            held.append(case_id)
        else:
            files |= {_uid(folder / name): folder / name for name in mine}
    return _Chosen(files=files, held=tuple(held), without=tuple(without))


def _uid(path: Path) -> str:
    return DicomHeader.of(scan_file(path, DEFAULT_LIMITS).dataset, path).uid("SOPInstanceUID")


def _send(context: Context, archive: DimseArchive | DicomwebArchive, chosen: _Chosen, tally: _Tally) -> None:
    """Deliver to one archive what it has not got; a file is on record once it is sent."""
    from medseg.pacs.send_files import deliver

    record = _read(context.run.path / RECORD)
    place = archive.place
    known = record.setdefault(place, {})
    left = {path: uid for uid, path in chosen.files.items() if uid not in known}
    tally.before += len(chosen.files) - len(left)
    deadline, done = time.monotonic() + _options(context).retry_for, 0
    for batch in deliver(list(left), _sender(archive), waits=_Waits(), deadline=deadline):
        for file in batch:
            if file.state == "sent":
                known[left[file.path]] = {"file": _name(context, file.path), "at": now(), "note": file.reason}
                tally.sent += 1
            else:
                kept = tally.refused if file.state == "refused" else tally.waiting
                kept.append(f"{_name(context, file.path)}: {file.reason}")
        write_json(context.run.path / RECORD, record)
        done += len(batch)
        context.reporter.advanced(STAGE, done, len(left), place)


def _sender(archive: DimseArchive | DicomwebArchive) -> Any:
    try:
        from medseg.pacs.senders import sender_for
    except ImportError as err:
        raise MissingPackageError(f"`pacs` needs {err.name}; pip install 'medseg[pacs]'") from err
    return sender_for(archive)


def _name(context: Context, path: Path) -> str:
    return path.relative_to(context.run.path).as_posix()


def _failure(tally: _Tally) -> MedsegError:
    """One sentence: what was sent, what is left and why, what to do next."""
    count = tally.sent + tally.before + len(tally.refused) + len(tally.waiting)
    begin = f"{tally.sent + tally.before} of {count} objects are sent"
    again = "the same command goes on with the others"
    if tally.refused:
        return PacsRejectedError(f"{begin}, {len(tally.refused)} were refused; {tally.refused[0]}; {again}")
    return PacsUnreachableError(f"{begin}, {len(tally.waiting)} wait; {tally.waiting[0]}; {again}")


def _text(tally: _Tally, chosen: _Chosen, options: SendOptions) -> str:
    places = " and ".join(archive.place for archive in options.to)
    parts = [f"{counted(tally.sent, 'object')} to {places}"]
    parts += [f"{tally.before} were sent before"] if tally.before else []
    parts += [f"held for their verdict: {_list(chosen.held)}"] if chosen.held else []
    parts += [f"without such a file: {_list(chosen.without)}"] if chosen.without else []
    return "; ".join(parts)


def _list(case_ids: Sequence[str]) -> str:
    more = f" and {len(case_ids) - _NAMED} more" if len(case_ids) > _NAMED else ""
    return ", ".join(case_ids[:_NAMED]) + more


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise StorageError(f"{path} is damaged: {err}; remove it and run again") from err
    return value
