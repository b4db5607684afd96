"""The part of the cohort page on recognised targets: counts, numbers with intervals, FROC curves, who was missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medseg.report import svg
from medseg.report.cohort_text import Words, named, said
from medseg.report.language import Language
from medseg.report.page import Json

COLUMNS = ("precision", "recall", "f1", "pq", "sq", "rq")
CURVES = (("ap", "targets_ap"), ("froc", "targets_share"))
MAX_LISTED = 100
_LEAST_INVENTED = 0.25


def targets_part(detection: Json, words: Words, language: Language) -> dict[str, Any]:
    """What the template shows of evaluation/detection_summary.json.

    Parameters
    ----------
    detection, words : mapping
    language : Language
        Of the words.

    Returns
    -------
    dict
        `intro`; `columns` and `curves` (title, definition);
        `rows` of structures with counts and cells; `reasons` why a number is not defined; `precisions` and `shares`,
        tables by threshold; `figures`; `lists` of missed and invented targets (title, first ones, how many);
        `not_judged`.
    """
    structures: Mapping[str, Json] = detection["structures"]
    reasons = dict.fromkeys(
        rate["reason"] for s in structures.values() for rate in s["rates"].values() if rate["reason"]
    )
    titles = {key: words.get(f"measure.{key}", key.upper()) for key in COLUMNS}
    return {
        "intro": words["targets_intro"].format(
            cases=detection["cases"],
            patients=detection["patients"],
            match=said(detection["match"], language),
            level=f"{detection['level']:.0%}",
        ),
        "columns": [(titles[key], said(detection["definitions"][key], language)) for key in COLUMNS],
        "curves": [(words[title], said(detection["definitions"][key], language)) for key, title in CURVES],
        "rows": [(name, s, [_cell(s["rates"][key]) for key in COLUMNS]) for name, s in structures.items()],
        "reasons": [said(reason, language) for reason in reasons],
        "precisions": _by_threshold(structures, "ap", words),
        "shares": _by_threshold(structures, "froc", words),
        "figures": [
            plot
            for name, s in structures.items()
            if (plot := froc_plot(s["curve"], title=named(name, language), words=words))
        ],
        "lists": [
            (words[f"targets_{key}"], detection[key][:MAX_LISTED], len(detection[key]))
            for key in ("missed", "invented")
        ],
        "not_judged": detection["not_judged"],
    }


def _cell(rate: Json) -> tuple[str, str]:
    """Value and interval in words."""
    if rate["value"] is None:
        return "–", ""
    interval = rate["interval"]
    return f"{rate['value']:.3f}", "" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"


def _by_threshold(structures: Mapping[str, Json], name: str, words: Words) -> dict[str, Any]:
    """Thresholds, `mean` the last, and the cells of each structure."""
    keys = dict.fromkeys(key for s in structures.values() for key in s["rates"] if key.startswith(f"{name}_"))
    columns = [*keys, f"mean_{name}"]
    return {
        "thresholds": [*(key.removeprefix(f"{name}_") for key in keys), words["targets_mean"]],
        "rows": [
            (structure, [_cell(s["rates"][key]) for key in columns]) for structure, s in structures.items()
        ],
    }


def froc_plot(curve: Sequence[Sequence[float]], *, title: str, words: Words) -> Markup | None:
    """Share of the reference instances found over invented instances per case; None without a curve.

    Parameters
    ----------
    curve : sequence of (confidence, invented per case, share found)
        From the highest confidence down.
    title : str
        Name of the structure.
    words : mapping
    """
    if not curve:
        return None
    most = max(_LEAST_INVENTED, *(point[1] for point in curve))
    along, down = svg.ticks(0.0, most, 3), (0.0, 0.25, 0.5, 0.75, 1.0)
    left, right, top, bottom = 46, 322, 26, 156

    def place(invented: float, share: float) -> tuple[float, float]:
        return left + (right - left) * invented / along[-1], bottom - (bottom - top) * share

    parts = [svg.text(left, 14, title, anchor="start", style="name")]
    for mark in down:
        height = place(0.0, mark)[1]
        parts += [
            svg.line(left, height, right, height, "grid"),
            svg.text(left - 6, height + 4, f"{mark:g}", anchor="end", style="tick"),
        ]
    parts += [svg.text(place(mark, 0)[0], bottom + 16, f"{mark:g}", style="tick") for mark in along]
    parts.append(svg.text((left + right) / 2, bottom + 33, words["targets_per_case"], style="tick"))
    # With each further instance the curve goes up or to the right.
    steps, share = [place(0.0, 0.0)], 0.0
    for _, invented, found in curve:
        steps += [place(invented, share), place(invented, found)]
        share = found
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    parts.append(Markup('<polyline points="{}" class="curve dice"/>').format(line))
    for confidence, invented, found in _few(curve):
        x, y = place(invented, found)
        parts.append(
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="3.5" class="dot dice"><title>{}</title></circle>'
            ).format(
                x,
                y,
                words["targets_point_said"].format(
                    confidence=f"{confidence:.3f}", share=f"{found:.1%}", invented=f"{invented:.3g}"
                ),
            )
        )
    last = curve[-1]
    told = words["targets_curve_said"].format(
        structure=title, share=f"{last[2]:.1%}", invented=f"{last[1]:.3g}"
    )
    return svg.drawing(334, 194, told, parts)


def _few(curve: Sequence[Sequence[float]], count: int = 15) -> Sequence[Sequence[float]]:
    """At most about so many points of a curve, the last one among them."""
    step = max(1, len(curve) // count)
    return [*curve[:-1:step], curve[-1]]
