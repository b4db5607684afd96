"""What `medseg deidentify` does: settings, secret, all files, a report."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medseg.amounts import counted
from medseg.deidentification.key_table import KeyTable
from medseg.deidentification.many_files import Outcome, Work, clean_files
from medseg.deidentification.one_file import PIXELS
from medseg.deidentification.options import BlankRule, ProfileOptions
from medseg.deidentification.profile import CLEAN_PIXELS, Profile
from medseg.errors import ConfigError, InputError
from medseg.pacs.options import SecretOptions
from medseg.pacs.secret import read_secret
from medseg.pipeline.result import Result

Progress = Callable[[int, str], None]
RANDOM_KEY = (
    "no key was given: a random one was used and thrown away, so another run gives other pseudonyms, UIDs and dates, "
    "and what comes later does not fit these files (--key-file)"
)


class FilesOptions(ProfileOptions):
    """Settings of `medseg deidentify`, as YAML with `medseg_deidentify: 1`."""

    medseg_deidentify: Literal[1] = Field(default=1, description="Version of these settings.")
    key: SecretOptions | None = Field(
        default=None,
        description="Secret of 16 characters or more that UIDs, patients and dates are mapped with; null: a random "
        "one, for this run alone.",
    )
    blank: tuple[BlankRule, ...] = Field(
        default=(), description="What is blanked in pixels; the first rule that matches is taken."
    )


@dataclass(slots=True)
class _Tally:
    states: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)
    size: int = 0

    def add(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        self.notes.update(outcome.notes)
        self.size += outcome.size
        self.patients.update(stand_in for kind, _, stand_in in outcome.identities if kind == "patient")
        if outcome.state == "refused":
            self.refused.append((outcome.path, outcome.reason))


def deidentify_files(
    inputs: Sequence[Path],
    output: Path,
    options: FilesOptions,
    *,
    dry_run: bool = False,
    key_table: Path | None = None,
    workers: int = 1,
    progress: Progress = lambda done, text: None,
) -> Result:
    """Clean DICOM files into a folder.

    Parameters
    ----------
    inputs : sequence of Path
        Files, or folders with all that lies in them; they are only read.
    output : Path
        Folder; what is there stays.
    options : FilesOptions
    dry_run : bool, optional
        Do everything but write.
    key_table : Path, optional
        CSV that leads back, readable by its owner alone.
    workers : int, optional
        Processes.
    progress : callable, optional
        Called with the number of files that are done, and a text.

    Returns
    -------
    Result
        Exit code 1 where some files were refused, 3 where all were.

    Raises
    ------
    ConfigError
        The key is short or cannot be read; input and output lie in each other; the key table exists.
    InputError
        There is no file.
    StorageError
        The output cannot be written.
    """
    _check_folders(inputs, output)
    work = Work(
        options=ProfileOptions(**{name: getattr(options, name) for name in ProfileOptions.model_fields}),
        blank=options.blank,
        key=_key(options),
        output=None if dry_run else output,
    )
    tally = _Tally()
    with KeyTable(key_table) if key_table and not dry_run else nullcontext() as table:
        for outcome in clean_files(inputs, work, workers=workers):
            tally.add(outcome)
            if table is not None:
                table.add(outcome.identities)
            progress(tally.states.total(), f"{tally.states['refused']} refused")
    if not tally.states:
        raise InputError(f"{', '.join(map(str, inputs))}: there is no file")
    return _result(tally, output, options, dry_run=dry_run)


def _check_folders(inputs: Sequence[Path], output: Path) -> None:
    target = output.resolve()
    for path in inputs:
        source = path.resolve()
        if target == source or source in target.parents or target in source.parents:
            raise ConfigError(
                f"--output {output} and the input {path} lie in each other; choose a folder outside"
            )


def _key(options: FilesOptions) -> bytes:
    if options.key is None:
        return secrets.token_bytes(32)
    return read_secret(options.key, field="key").encode()


def _result(tally: _Tally, output: Path, options: FilesOptions, *, dry_run: bool) -> Result:
    done = tally.states.total() - tally.states["refused"]
    methods = [*Profile(options).methods, *((CLEAN_PIXELS,) if tally.notes[PIXELS] else ())]
    facts: dict[str, Any] = {
        "files": tally.states.total(),
        **{state: tally.states[state] for state in ("written", "same", "checked")},
        "refused": [{"path": str(path), "reason": reason} for path, reason in tally.refused],
        "patients": len(tally.patients),
        "bytes": tally.size,
        "removed_or_cleaned": dict(sorted(tally.notes.items())),
        "methods": [{"code": code, "meaning": meaning} for code, meaning in methods],
        "key": "given" if options.key else "random",
        "dry_run": dry_run,
    }
    code = 0 if not tally.refused else 1 if done else InputError.exit_code
    path = output if done and not dry_run else None
    return Result(exit_code=code, path=path, lines=_lines(tally, options, dry_run=dry_run), facts=facts)


def _lines(tally: _Tally, options: FilesOptions, *, dry_run: bool) -> tuple[str, ...]:
    total, states = tally.states.total(), tally.states
    done = (
        f"{states['checked']} would be written"
        if dry_run
        else f"{states['written']} written, {states['same']} were there"
    )
    lines = [reason for _, reason in tally.refused]
    lines += [
        f"{name}: removed or cleaned in {counted(count, 'file')}"
        for name, count in sorted(tally.notes.items())
    ]
    lines += [] if options.key else [RANDOM_KEY]
    whose = f"{counted(total, 'file')} of {counted(len(tally.patients), 'patient')}"
    nothing = "; nothing was written" if dry_run else ""
    return (*lines, f"{whose}: {done}, {states['refused']} refused{nothing}")
