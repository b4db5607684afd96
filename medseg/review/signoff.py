"""Sign-offs that a reader saved from a report page: accept, edit or reject, with a note, case by case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg.errors import InputError, StorageError
from medseg.pipeline import case_files

SCHEMA = "medseg.review/1"
Decision = Literal["accept", "edit", "reject"]
_MAX_BYTES = 64 << 20


class _Review(BaseModel):
    """What the page says of a case; what else it may say is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: Annotated[str, Field(min_length=1)]
    decision: Decision | None = None
    note: Annotated[str, Field(max_length=100_000)] = ""
    reader: Annotated[str, Field(max_length=1000)] = ""
    files: dict[str, str] = Field(default_factory=dict)


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_name: Literal["medseg.review/1"] = Field(alias="schema")
    run: str | None = None
    reviews: tuple[_Review, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOff:
    """What a reader decided of a case.

    Parameters
    ----------
    decision : {"accept", "edit", "reject"}
    note : str
    path : Path
        The file that says so.
    reader : str
        Who, as the page was told; "" where it was not.
    run : str
        Name of the run folder whose page it was; "" where the page did not say.
    mask_sha256 : str
        Of the mask that was looked at; "" where the page did not list it.
    """

    decision: Decision
    note: str
    path: Path
    reader: str = ""
    run: str = ""
    mask_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOffs:
    """Sign-offs by case id, and sentences for cases whose sign-offs cannot be used."""

    by_case: Mapping[str, SignOff] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def read_signoffs(paths: Sequence[Path]) -> SignOffs:
    """Read files that the report page saved as review.json.

    Parameters
    ----------
    paths : sequence of Path
        A case that no file decides is left out; one that two files decide differently is a problem.

    Raises
    ------
    StorageError
        A file cannot be read.
    InputError
        A file is not what the page saves.
    """
    found: dict[str, SignOff] = {}
    problems: dict[str, str] = {}
    for path in paths:
        saved = _read(path)
        for review in saved.reviews:
            if review.decision is None:
                continue
            said = SignOff(
                decision=review.decision,
                note=review.note.strip(),
                path=path,
                reader=review.reader.strip(),
                run=saved.run or "",
                mask_sha256=review.files.get(case_files.MASK, ""),
            )
            other = found.setdefault(review.case_id, said)
            if other.decision != said.decision:
                problems[review.case_id] = (
                    f"{other.path.name} says {other.decision}, {path.name} says {said.decision}; keep one of them"
                )
    return SignOffs(by_case={k: v for k, v in found.items() if k not in problems}, problems=problems)


def _read(path: Path) -> _Saved:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: more than {_MAX_BYTES >> 20} MiB, no sign-off")
        value = json.loads(path.read_text(encoding="utf-8"))
        return _Saved.model_validate(value)
    except OSError as err:
        raise StorageError(f"{path} cannot be read: {err.strerror or err}") from err
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{path}: expected the sign-offs that the report page saves ({SCHEMA}): {where}: {first['msg']}"
        ) from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: expected the JSON that the report page saves: {err}") from err
