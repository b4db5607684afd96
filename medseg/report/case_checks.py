"""Flags and checks on the page of one case: what was found, the matrix of all checks, what the input gate looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.report.case_data import CasePage, flag_key
from medseg.report.case_tables import Cell, Column, Content, Row, Table
from medseg.report.page import VERDICTS, Json, Verdict
from medseg.report.text import number
from medseg.report.words import Words

_SEVERITY = ("none", "pass", "note", "review", "fail")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S", "H": "F", "F": "H"}


def check_matrix(page: CasePage, words: Words) -> tuple[Table, list[tuple[str, str]]]:
    """How every check of every structure ended, and why some were not judged.

    Returns
    -------
    table : Table
        A row for each structure and one for the whole image.
    reasons : list of (str, str)
        Reason, and the checks that it holds for.
    """
    record, t = page.case.record, words.t
    flags = record["flags"]
    codes = sorted({check["code"] for check in record["checks"]})
    cells: dict[str, dict[str, Cell]] = {}
    reasons: dict[str, list[str]] = {}
    for check in record["checks"]:
        code = check["code"]
        for name in check["structure"].split("/"):
            level = _flag_level(flags, code, check["structure"]) if check["outcome"] == "flagged" else ""
            said = t[f"verdict.{level}"] if level else t[f"outcome.{check['outcome']}"]
            cell = Cell(text=said, level=level or {"passed": "pass"}.get(check["outcome"], "none"))
            row = cells.setdefault(name, {})
            # Several parts of one check: the worst of them stands for all.
            row[code] = max(row.get(code, cell), cell, key=_severity)
        if check["reason"]:
            part = check.get("part", "")
            where = f"{code} {words.said(part) if part else words.structure(check['structure'])}"
            reasons.setdefault(check["reason"], []).append(where)
    order = [name for name in record["measurements"]["structures"] if name in cells]
    order += [name for name in cells if name not in order]
    rows = [
        Row(structure=name, code="", cells=[cells[name].get(code) or Cell(text="–") for code in codes])
        for name in order
    ]
    columns = [Column(title=code, note=code_title(record, code, words), numeric=False) for code in codes]
    return Table(columns=columns, rows=rows), [
        (why, t["comma"].join(dict.fromkeys(w))) for why, w in reasons.items()
    ]


def _severity(cell: Cell) -> int:
    return _SEVERITY.index(cell.level)


def code_title(record: Json, code: str, words: Words) -> str:
    """What a code is about."""
    given = next((c["title"] for c in (*record["flags"], *record["checks"]) if c["code"] == code), code)
    return words.t.get(f"code.{code}", given)


def _flag_level(flags: Sequence[Json], code: str, structure: str) -> Verdict:
    levels = {f["level"] for f in flags if f["code"] == code and f["structure"] == structure}
    return next((v for v in VERDICTS if v in levels), "review")


def flag_rows(page: CasePage, words: Words) -> list[dict[str, Any]]:
    """Flags, the worst first, in words."""
    record, flat = page.case.record, page.flat
    order = {level: index for index, level in enumerate(VERDICTS)}
    return [
        {
            "level": flag["level"],
            "code": flag["code"],
            "title": code_title(record, flag["code"], words),
            "structure": words.structure(flag["structure"]),
            "styles": [name for name in flag["structure"].split("/") if name],
            "text": words.said(flag["text"]),
            "measured": edges_cut(page, words, flag) or words.flag_number(flag, "measured", flat=flat),
            "limit": words.flag_number(flag, "limit", flat=flat),
            "advice": words.said(flag["advice"]),
            "picture": page.thumbnails.get(flag_key(flag)),
        }
        for flag in sorted(record["flags"], key=lambda flag: order[flag["level"]])
    ]


def edges_cut(page: CasePage, words: Words, flag: Json) -> str:
    """Edges of the image that cut a structure off, as directions of the patient; "" for other flags."""
    item = page.case.record["measurements"]["structures"].get(flag["structure"])
    if flag["code"] != "Q101" or item is None or not item.get("shape"):
        return ""
    record, axes = page.case.record["image"], dict(page.geometry).get("orientation", "")
    leads = list(axes) or [o[:1] for o in record.get("patient_orientation") or ()]
    # A picture whose sides are not known still has an upper and a lower edge.
    leads = leads or (["", "F"] if page.flat else [])
    found = []
    for face in item["shape"]["touches"]:
        axis, end = "ijk".index(face[0]), face.split()[-1]
        letter = leads[axis] if axis < len(leads) else ""
        letter = letter if end == "last" else _OPPOSITE.get(letter, "")
        found.append(words.t.get(f"edge.{letter}", str(words.said(face))))
    return words.t["comma"].join(dict.fromkeys(found))


def input_rows(page: CasePage, words: Words) -> list[tuple[Content, str, str, str]]:
    """What the input gate looked at: name, level, how it ended, measured value and limit."""
    record = page.case.record
    rows: list[tuple[Content, str, str, str]] = []
    for check in record["checks"]:
        if check["code"] != "Q402" or not check.get("part"):
            continue
        found = check["outcome"] == "flagged"
        level = _flag_level(record["flags"], "Q402", check["structure"]) if found else ""
        said = words.t[f"verdict.{level}"] if level else words.t[f"outcome.{check['outcome']}"]
        measured = ""
        if check.get("measured") is not None:
            measured = number(check["measured"])
            if check.get("limit") is not None:
                measured += f" ({number(check['limit'])})"
        rows.append(
            (words.said(check["part"]), level or {"passed": "pass"}.get(check["outcome"], ""), said, measured)
        )
    return rows
