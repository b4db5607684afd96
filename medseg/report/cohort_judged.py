"""Parts of the cohort page on recognised targets, calibration, and the comparison of two evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medseg.report.cohort_figures import Bar, forest, unit_curve
from medseg.report.cohort_series import decimals, shown_unit
from medseg.report.cohort_text import Words, measure_title, named, pixel_words
from medseg.report.language import Language
from medseg.report.page import Json

_MAX_POINTS = 60


def precision_recall(detection: Json, words: Words, language: Language) -> list[Markup]:
    """Precision over recall of each structure that has a FROC curve, as the least confidence falls.

    Parameters
    ----------
    detection : mapping
        evaluation/detection_summary.json; its curves hold (confidence, invented per case, share found).
    """
    return [
        unit_curve(
            [(recall, precision) for _, recall, precision in points],
            title=named(name, language),
            said=words["pr_said"].format(structure=named(name, language)),
            axes=(words["recall"], words["precision"]),
            names=[
                f"{words['precision']} {p:.3f}, {words['recall']} {r:.3f} (≥ {c:.3f})" for c, r, p in points
            ],
        )
        for name, found in detection["structures"].items()
        if (points := pr_points(found))
    ]


def pr_points(found: Json) -> list[tuple[float, float, float]]:
    """(confidence, recall, precision) from a FROC curve and the numbers of reference instances and cases."""
    points = []
    for confidence, invented, share in found["curve"]:
        hits, false = share * found["references"], invented * found["cases"]
        if hits + false > 0:
            points.append((float(confidence), float(share), hits / (hits + false)))
    step = max(1, len(points) // _MAX_POINTS)
    return [*points[:-1:step], points[-1]] if points else []


def calibration_part(calibration: Json, words: Words, language: Language) -> dict[str, Any]:
    """Reliability curves and the numbers beside them.

    Parameters
    ----------
    calibration : mapping
        `bins` (confidence, accuracy, count), `ece`, `brier`, `temperature`; or `structures` of such.

    Returns
    -------
    dict
        `plots`, and `rows` of (structure, ece, brier, temperature).
    """
    entries = dict(calibration.get("structures") or {})
    if calibration.get("bins"):
        entries = {"": calibration, **entries}
    plots, rows = [], []
    for name, entry in entries.items():
        title = named(name, language) if name else words["calibration_all"]
        if entry.get("bins"):
            plots.append(_reliability(title, entry, words))
        rows.append((title, *(_measured(entry, key) for key in ("ece", "brier", "temperature"))))
    return {"plots": plots, "rows": rows, "note": str(calibration.get("note", ""))}


def _measured(entry: Json, key: str) -> str:
    """A number, with its interval where it has one."""
    interval = entry.get(f"{key}_interval")
    more = "" if not interval else f" ({_number(interval[0])} … {_number(interval[1])})"
    return f"{_number(entry.get(key))}{more}"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def _reliability(title: str, entry: Json, words: Words) -> Markup:
    """Bins with something in them, by confidence."""
    bins = sorted(
        (b for b in entry["bins"] if b["count"] and b["accuracy"] is not None), key=lambda b: b["confidence"]
    )
    return unit_curve(
        [(b["confidence"], b["accuracy"]) for b in bins],
        title=title,
        said=words["calibration_said"].format(structure=title, ece=_number(entry.get("ece"))),
        axes=(words["stated"], words["observed"]),
        names=[
            words["bin_said"].format(
                confidence=f"{b['confidence']:.3f}", accuracy=f"{b['accuracy']:.3f}", n=f"{b['count']:.0f}"
            )
            for b in bins
        ],
        diagonal=True,
        weights=[b["count"] for b in bins],
    )


def comparison_part(comparison: Json, words: Words, language: Language) -> dict[str, Any]:
    """Two evaluations of the same cases: a table of paired differences and a figure for each metric.

    Parameters
    ----------
    comparison : mapping
        comparison.json; `names` of the two where it has them.
    """
    first, second = comparison.get("names") or (words["first"], words["second"])
    differences: Sequence[Json] = comparison["differences"]
    metrics = list(dict.fromkeys((d["metric"], d["unit"]) for d in differences))
    return {
        "intro": words["comparison_intro"].format(
            first=first,
            second=second,
            n=comparison["cases"],
            patients=comparison["patients"],
            level=f"{comparison['level']:.0%}",
        ),
        "rows": [_difference(d, comparison["level"], words, language) for d in differences],
        "figures": [
            figure
            for metric, unit in metrics
            if (
                figure := _differences(
                    [d for d in differences if (d["metric"], d["unit"]) == (metric, unit)], words, language
                )
            )
        ],
        "alone": [
            words[key].format(cases=", ".join(comparison[key]))
            for key in ("only_first", "only_second")
            if comparison[key]
        ],
    }


def _difference(d: Json, level: float, words: Words, language: Language) -> dict[str, Any]:
    scale = 0.01 if d["unit"] == "mm2" else 1.0
    sure = d["wilcoxon_holm"] is not None and d["wilcoxon_holm"] < 1 - level
    better = (d.get("share_better") or 0.0) > 0.5
    unit = pixel_words(shown_unit(d["unit"]), language)
    title = measure_title(d["metric"], language)
    interval = (
        "" if d["interval"] is None else " … ".join(decimals(v * scale, d["unit"]) for v in d["interval"])
    )
    return {
        "structure": d["structure"],
        "metric": f"{title}, {unit}" if unit else title,
        "first": decimals(d["mean_first"] * scale, d["unit"]),
        "second": decimals(d["mean_second"] * scale, d["unit"]),
        "difference": signed(d["mean_difference"] * scale, d["unit"]),
        "interval": interval,
        "p": "–" if d["wilcoxon_holm"] is None else f"{d['wilcoxon_holm']:.2g}",
        "n": d["count"],
        "sure": sure,
        "finding": words["no_difference" if not sure else "better_second" if better else "better_first"],
    }


def signed(value: float, unit: str) -> str:
    """A difference with its sign."""
    text = decimals(value, unit)
    return text if text.startswith("−") or value == 0 else f"+{text}"


def _differences(own: Sequence[Json], words: Words, language: Language) -> Markup | None:
    """Differences of one metric, structure by structure."""
    scale = 0.01 if own[0]["unit"] == "mm2" else 1.0
    title = measure_title(own[0]["metric"], language)
    bars = [
        Bar(
            name=named(d["structure"], language),
            value=d["mean_difference"] * scale,
            interval=None if d["interval"] is None else (d["interval"][0] * scale, d["interval"][1] * scale),
            said=f"{named(d['structure'], language)}: {signed(d['mean_difference'] * scale, d['unit'])}",
        )
        for d in own
    ]
    unit = pixel_words(shown_unit(own[0]["unit"]), language)
    return forest(
        bars,
        said=words["comparison_said"].format(metric=title),
        zero=True,
        title=f"{title}, {unit}" if unit else title,
    )


def cleaned_rows(cleaning: Mapping[str, Any]) -> list[tuple[str, int, str, str]]:
    """Structure, cases, Dice before and after a tuned clean-up."""
    return [
        (name, item["cases"], f"{item['before']:.4f}", f"{item['after']:.4f}")
        for name, item in cleaning["structures"].items()
    ]
