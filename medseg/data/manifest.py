"""Manifests: one CSV row per case. Read strictly, with every problem in one error."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.data.tables import restore_text, write_csv
from medseg.errors import ManifestError, MedsegError
from medseg.io.series_rule import SeriesRule
from medseg.privacy import safe_name

Split = Literal["train", "validation", "test"]
SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
MAX_SHOWN = 50
_MAX_BYTES = 256 << 20
_KNOWN = ("case_id", "patient_id", "image", "series", "label", "label_scheme", "split", "fold", "sha256")
_REQUIRED = ("case_id", "patient_id", "image")
_CHANNEL = re.compile(r"image_(0|[1-9][0-9]{0,2})")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case of a task.

    Parameters
    ----------
    case_id, patient_id : str
        A patient may have several cases; splits keep them together.
    images : tuple of Path
        One file, one per channel on the same grid, or the slices of a DICOM series.
    label : Path or None
        Mask; None for a case that is only predicted.
    scheme : str or None
        Entry of the label schemes that the mask follows; None: the label table itself.
    split, fold : str or None, int or None
        What the manifest says, if anything.
    sha256 : str or None
        Expected SHA-256 of the image file; of several, joined by ";" in their order.
    columns : dict
        All other columns, for stratified splits and results.
    """

    case_id: str
    patient_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    scheme: str | None = None
    split: Split | None = None
    fold: int | None = None
    sha256: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


def read_manifest(path: Path, *, root: Path | None = None, check_files: bool = True) -> tuple[Case, ...]:
    """Read a CSV manifest; data_manifests/README.md describes the columns.

    Parameters
    ----------
    path : Path
        UTF-8, comma separated, one header line.
    root : Path, optional
        Folder that relative paths start from and that no path may leave (`..` and absolute paths
        included; links inside it are followed). Without it paths are relative to the manifest's
        folder and may lead anywhere: the manifest is the user's own word.
    check_files : bool, optional
        Whether a file that does not exist is a problem here. `checks.check_cases` finds it too,
        and lets the other cases go on.

    Returns
    -------
    tuple of Case
        In the order of the rows.

    Raises
    ------
    ManifestError
        With all problems and their line numbers, the first 50 written out.
    """
    reading = _Reading(path=path, folder=root if root is not None else path.parent, confined=root is not None)
    cases = [case for line, row in reading.rows() if (case := reading.case(line, row)) is not None]
    if check_files:
        for line, case in zip(reading.case_lines, cases, strict=True):
            reading.check_files(line, case)
    if not cases and not reading.problems:
        reading.add(1, "no cases below the header")
    if reading.problems:
        raise manifest_error(
            f"manifest {path}", [f"line {line}: {text}" for line, text in sorted(reading.problems)]
        )
    return tuple(cases)


def write_manifest(path: Path, cases: Sequence[Case], *, root: Path | None = None) -> None:
    """Write cases as a manifest that `read_manifest` reads back equal, whole or not at all.

    Parameters
    ----------
    root : Path, optional
        Paths inside it are written relative to it; the manifest's folder unless given.
    """
    base = root if root is not None else path.parent
    extra = list(dict.fromkeys(name for case in cases for name in case.columns))
    paths = [image.name for case in cases for image in case.images]
    channels = max((len(case.images) for case in cases), default=1) if any(";" in p for p in paths) else 0
    rows = [_row(case, base, channels) for case in cases]
    columns = list(dict.fromkeys(n for row in rows for n in row))
    used = [n for n in columns if n in _REQUIRED or any(row.get(n) is not None for row in rows)]
    table = [{n: row.get(n) for n in used} | case.columns for row, case in zip(rows, cases, strict=True)]
    write_csv(path, table, columns=[*(used or _REQUIRED), *extra])


def manifest_error(what: str, problems: Sequence[str]) -> ManifestError:
    """One error for many problems: their number, the first 50, and how many more there are."""
    count = len(problems)
    shown = [f"  {problem}" for problem in problems[:MAX_SHOWN]]
    if count > MAX_SHOWN:
        shown.append(f"  ... and {count - MAX_SHOWN} more")
    return ManifestError(f"{what}: {count} problem{'' if count == 1 else 's'}\n" + "\n".join(shown))


def _row(case: Case, base: Path, channels: int) -> dict[str, object]:
    """The cells of the known columns; `channels` above 0 gives each image a column of its own."""
    written = [_written(image, base) for image in case.images]
    images: dict[str, object] = {f"image_{n}": text for n, text in enumerate(written)}
    return {
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        **(images if channels else {"image": ";".join(written)}),
        "label": None if case.label is None else _written(case.label, base),
        "label_scheme": case.scheme,
        "split": case.split,
        "fold": case.fold,
        "sha256": case.sha256,
    }


def _written(path: Path, base: Path) -> str:
    """A path as a cell, relative to `base` where it lies inside."""
    absolute, folder = Path(os.path.abspath(path)), Path(os.path.abspath(base))
    inside = absolute.is_relative_to(folder)
    text = absolute.relative_to(folder).as_posix() if inside else absolute.as_posix()
    if text != text.strip() or _CONTROL.search(text):
        raise ManifestError(f"the file name {text!r} cannot stand in a manifest; rename the file")
    return text


@dataclass(slots=True)
class _Reading:
    """One pass over a manifest, collecting problems by line."""

    path: Path
    folder: Path
    confined: bool
    problems: list[tuple[int, str]] = field(default_factory=list)
    case_lines: list[int] = field(default_factory=list)
    _ids: dict[str, tuple[int, str]] = field(default_factory=dict)
    _folders: dict[Path, str] = field(default_factory=dict)

    def add(self, line: int, text: str) -> None:
        self.problems.append((line, text))

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, column -> cell) of each row that has as many fields as the header."""
        reader = csv.reader(io.StringIO(self._text(), newline=""), strict=True)
        header = self._header(reader)
        if header is None:
            return
        line = reader.line_num + 1
        try:
            for fields in reader:
                if len(fields) != len(header) and fields:
                    self.add(line, f"expected {len(header)} fields as in the header, found {len(fields)}")
                elif any(cell.strip() for cell in fields):
                    yield line, dict(zip(header, fields, strict=True))
                line = reader.line_num + 1
        except csv.Error as err:
            self.add(line, f"cannot be read as CSV: {err}")

    def _text(self) -> str:
        try:
            data = self.path.read_bytes() if self.path.stat().st_size <= _MAX_BYTES else None
        except OSError as err:
            raise ManifestError(f"manifest {self.path} cannot be read: {err.strerror or err}") from err
        if data is None:
            raise ManifestError(f"manifest {self.path} is larger than {_MAX_BYTES >> 20} MiB")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            line = data[: err.start].count(b"\n") + 1
            raise ManifestError(
                f"manifest {self.path}: line {line} is not UTF-8 (byte 0x{data[err.start]:02x}); "
                "save it as CSV UTF-8"
            ) from err

    def _header(self, reader: Iterator[list[str]]) -> list[str] | None:
        """The column names, or None with the problems noted."""
        try:
            header = [restore_text(name.strip()) for name in next(reader, [])]
        except csv.Error as err:
            self.add(1, f"cannot be read as CSV: {err}")
            return None
        before = len(self.problems)
        if not any(header):
            self.add(1, f"the file is empty; expected a header with {', '.join(_REQUIRED)}")
            return None
        for name in sorted({n for n in header if header.count(n) > 1}):
            self.add(1, f"the column {name or '(no name)'} stands {header.count(name)} times")
        for name in _REQUIRED:
            if name not in header and not (name == "image" and _channels(header)):
                self.add(1, f"no column {name}{_other_names(name, header)}")
        if "image" in header and _channels(header):
            self.add(1, "columns image and image_0.. say the same; keep one of them")
        missing = [n for n in range(len(_channels(header))) if f"image_{n}" not in header]
        if missing:
            self.add(1, f"no column image_{missing[0]}; channels are counted from image_0 without gaps")
        return header if len(self.problems) == before else None

    def case(self, line: int, row: dict[str, str]) -> Case | None:
        """The case of a row, or None with its problems noted."""
        before = len(self.problems)
        known = {name: restore_text(row.get(name, "").strip()) for name in _KNOWN}
        self._check_id(line, known["case_id"])
        if not known["patient_id"]:
            self.add(line, "patient_id is empty; splits are made by patient")
        written = self._images(line, row)
        images = tuple(p for text in written if (p := self._path(line, "image", text)) is not None)
        if known["series"] or any(path.is_dir() for path in images):
            images = self._series(images, known["series"] or None)
        label = self._path(line, "label", known["label"]) if known["label"] else None
        if label is not None and label in images:
            self.add(line, f"image and label are the same file, {known['label']}")
        split, fold = self._split(line, known["split"]), self._fold(line, known["fold"])
        digest = self._sha256(line, known["sha256"], len(images))
        if len(self.problems) > before:
            return None
        self.case_lines.append(line)
        others = {n: restore_text(v) for n, v in row.items() if n not in _KNOWN and not _CHANNEL.fullmatch(n)}
        return Case(
            case_id=known["case_id"],
            patient_id=known["patient_id"],
            images=images,
            label=label,
            scheme=known["label_scheme"] or None,
            split=split,
            fold=fold,
            sha256=digest,
            columns=others,
        )

    def _check_id(self, line: int, case_id: str) -> None:
        if not case_id or _CONTROL.search(case_id):
            self.add(line, f"case_id must be text without control characters, found {case_id!r}")
            return
        # Folders are named by case; some file systems do not tell upper from lower case.
        key = safe_name(case_id).casefold()
        first, other = self._ids.setdefault(key, (line, case_id))
        if first != line:
            again = "again" if other == case_id else f"next to {other!r}: both would be the folder {key!r}"
            self.add(line, f"case_id {case_id!r} {again}, first in line {first}")

    def _images(self, line: int, row: dict[str, str]) -> list[str]:
        channels = _channels(row)
        cells = [row[name] for name in channels] if channels else row.get("image", "").split(";")
        written = [restore_text(cell.strip()) for cell in cells]
        empty = [number for number, text in enumerate(written) if not text]
        if empty:
            self.add(
                line,
                "image is empty" if len(written) == 1 else f"image {empty[0]} of {len(written)} is empty",
            )
        return [text for text in written if text]

    def _series(self, images: tuple[Path, ...], series: str | None) -> tuple[Path, ...]:
        """The files of the one DICOM volume that a folder holds, or that the column `series` names in it.

        Where there is no such volume the folder stays what it is: `check_files` tells why, or reading it does.
        """
        # Settings import this module, and most manifests name files: the DICOM parser loads for folders alone.
        from medseg.io.discover import Found, discover
        from medseg.io.select import choose_one

        volumes: list[Found] = []
        try:
            found = discover(images)
            volumes = [image for image in found.images if image.volume is not None]
            chosen = choose_one(volumes, SeriesRule(series=series), where=images[0])
        except MedsegError as err:
            self._folders[images[0]] = str(err) if volumes else "no DICOM volume is in it"
            return images
        if chosen.volume is not None and chosen.volume.parts > 1 and len(chosen.paths) == 1:
            self._folders[images[0]] = (
                "one file holds several volumes; write the one meant with medseg convert"
            )
            return images
        return chosen.paths

    def _path(self, line: int, column: str, text: str) -> Path | None:
        if "\0" in text:
            self.add(line, f"{column} holds a NUL character")
            return None
        folder = os.path.abspath(self.folder)
        found = Path(os.path.normpath(os.path.join(folder, text)))
        if self.confined and not found.is_relative_to(folder):
            self.add(
                line, f"{column} {text} leads out of root {self.folder}; choose a root that holds all files"
            )
            return None
        return found

    def _split(self, line: int, text: str) -> Split | None:
        word = text.casefold()
        if word and word not in SPLIT_WORDS:
            near = difflib.get_close_matches(word, SPLIT_WORDS, n=1)
            guess = f", did you mean {near[0]}?" if near else ""
            self.add(line, f"split must be train, validation or test, found {text!r}{guess}")
        return SPLIT_WORDS.get(word)

    def _fold(self, line: int, text: str) -> int | None:
        if text and not (text.isascii() and text.isdigit() and len(text) < 5):
            self.add(line, f"fold must be a whole number from 0, found {text!r}")
            return None
        return int(text) if text else None

    def _sha256(self, line: int, text: str, count: int) -> str | None:
        parts = [part.strip().lower() for part in text.split(";")] if text else []
        if parts and (len(parts) != count or not all(_SHA256.fullmatch(part) for part in parts)):
            wanted = "64 hex digits" if count == 1 else f"{count} times 64 hex digits, joined by ;"
            self.add(line, f"sha256 must be {wanted}, found {text[:70]!r}")
        return ";".join(parts) or None

    def check_files(self, line: int, case: Case) -> None:
        named = [("image", image) for image in case.images]
        named += [("label", case.label)] if case.label is not None else []
        for column, file in named:
            if not file.is_file():
                why = self._folders.get(file, "")
                self.add(
                    line, f"{column} {file} {f'is a folder: {why}' if file.is_dir() else 'does not exist'}"
                )


def _channels(names: Iterable[str]) -> list[str]:
    """The columns image_0, image_1, ... by number."""
    found = [name for name in names if _CHANNEL.fullmatch(name)]
    return sorted(found, key=lambda name: int(name.removeprefix("image_")))


def _other_names(name: str, header: Sequence[str]) -> str:
    """What a header without the column may mean instead."""
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "; columns are separated by commas here, not by semicolons or tabs"
    near = difflib.get_close_matches(name, [n for n in header if n not in _KNOWN], n=1, cutoff=0.6)
    return (
        f", did you mean {near[0]}? (found: {', '.join(header)})"
        if near
        else f" (found: {', '.join(header)})"
    )
