"""Numbers and settings in words: quantities with unit and caveats, statistics with intervals, the methods text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.report.language import Language, text

_METHODS = "methods."
_SPLIT = "cohort_page.split."
_SIGNS = {"exact": "", "lower": "> ", "unknown": "about "}


def number(value: float | None, digits: int = 3) -> str:
    """A number with about `digits` significant digits, an en dash for None."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 10**digits or value == int(value):
        return f"{value:.0f}".replace("-", "−")
    text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def quantity_text(quantity: Mapping[str, Any]) -> str:
    """A measurement for people: areas in cm², "> " where cut off, the reason where there is no value."""
    value, unit = quantity["value"], quantity["unit"]
    if value is None:
        return str(quantity["reason"] or "not defined")
    if unit == "mm2":
        value, unit = value / 100, "cm²"
    size = abs(value)
    shown = f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"
    bound = quantity.get("bound", "exact")
    words = {"ml": " mL", "1": "", "%": " %"}.get(unit, f" {unit}")
    return f"{_SIGNS[bound]}{shown}{words}{' (cut off)' if bound != 'exact' else ''}".replace("-", "−")


def metric_text(metric: Mapping[str, Any]) -> str:
    """A metric of one case, or why it is not defined."""
    value, unit = metric["value"], metric["unit"]
    if value is None:
        return f"not defined: {metric['reason']}"
    if unit == "1":
        return f"{value:.3f}"
    if unit == "mm2":
        return f"{value / 100:+.1f} cm²".replace("-", "−")
    return f"{value:.{_digits(unit, [value])}f} {unit.replace('ml', 'mL')}".replace("-", "−")


def _digits(unit: str, values: Sequence[float]) -> int:
    """Decimals: three for ratios and for volumes below a millilitre, one for lengths and areas."""
    if unit == "1":
        return 3
    largest = max(map(abs, values))
    return (3 if largest < 1 else 2 if largest < 10 else 1) if unit == "ml" else 1


def statistic_cell(statistic: Mapping[str, Any] | None) -> dict[str, str]:
    """Mean, interval and counts of a statistic for a table cell; areas in cm²."""
    if statistic is None:
        return {"mean": "–", "interval": "", "more": ""}
    mean, interval = statistic["mean"], statistic["mean_interval"]
    if mean is None:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in statistic["undefined"].items())
        return {"mean": "not defined", "interval": "", "more": reasons}
    digits = _digits(statistic["unit"], [mean, statistic["median"], *(interval or ())])
    scale = 0.01 if statistic["unit"] == "mm2" else 1.0

    def show(value: float) -> str:
        return f"{value * scale:.{digits}f}".replace("-", "−")

    more = f"median {show(statistic['median'])} · n {statistic['count']}, {statistic['patients']} patients"
    if statistic["undefined"]:
        more += f" · {sum(statistic['undefined'].values())} not defined"
    return {
        "mean": show(mean),
        "interval": "" if interval is None else f"{show(interval[0])} to {show(interval[1])}",
        "more": more,
    }


def methods_text(
    settings: Mapping[str, Any],
    *,
    version: str,
    splits: Mapping[str, int],
    parameters: int | None,
    trained: Mapping[str, Any] | None,
    tuned_on: str = "",
    language: Language = "en",
) -> str:
    """A paragraph for a paper, made from what the run did; free to copy.

    Parameters
    ----------
    settings : mapping
        Resolved settings as JSON.
    version : str
        Of medseg.
    splits : mapping of str to int
        Usable cases by split.
    parameters : int or None
        Of the network.
    trained : mapping or None
        Summary of the training stage; None where a finished model was used.
    tuned_on : str
        Predictions that the clean-up was tuned on; empty where the settings name its steps.
    language : Language, optional
        Names of steps, networks and metrics stay as the settings have them.
    """
    words = {key.removeprefix(_METHODS): said for key, said in text(language).items()}
    network = settings["model"]["use"]
    if parameters:
        network += words["parameters"].format(millions=f"{parameters / 1e6:.2f}")
    parts = [words["prepared"].format(steps=_steps(settings["preprocess"], words))]
    if trained is not None and settings["training"] is not None:
        parts.append(_training(settings, trained, splits, network=network, words=words))
    else:
        parts.append(words["used"].format(start=settings["model"]["start_from"], network=network))
    tta, options = settings["inference"]["tta"], settings["evaluation"]
    parts.append(
        words["restored"].format(
            tta="" if tta in ("none", None) else words["tta"].format(kind=tta),
            tuned=words["tuned"].format(data=tuned_on) if tuned_on else "",
            steps=_steps(settings["postprocess"], words),
        )
    )
    parts.append(
        words["agreement"].format(
            metrics=", ".join(metric["use"] for metric in options["metrics"]),
            cases=_evaluated(settings, words),
            level=f"{options['level']:.0%}",
            samples=options["samples"],
        )
    )
    if options.get("detection") is not None:
        parts.append(words["targets"].format(match=options["detection"]["match"]))
    parts.append(words["software"].format(version=version))
    return words["sentence_break"].join(parts)


def _steps(steps: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    return words["step_break"].join(step_text(step) for step in steps) or words["none"]


def _evaluated(settings: Mapping[str, Any], words: Mapping[str, str]) -> str:
    split = settings["data"]["split"]
    if split.get("fold") == "all":
        return words["all_folds"].format(count=split["count"])
    cases = settings["evaluation"]["cases"]
    return words["the_cases"].format(split=words.get(f"{_SPLIT}{cases}", cases))


def _training(
    settings: Mapping[str, Any],
    trained: Mapping[str, Any],
    splits: Mapping[str, int],
    *,
    network: str,
    words: Mapping[str, str],
) -> str:
    options, split = settings["training"], settings["data"]["split"]
    start, by = settings["model"]["start_from"], split.get("by")
    folds = split.get("fold") == "all"
    kept = words["kept_last"]
    if options["keep"] == "best":
        count = splits.get("validation", 0)
        chosen = words["following_fold"] if folds else words["images"].format(count=count)
        kept = words["kept_best"].format(metric=options["metric"], chosen=chosen)
    return words["trained"].format(
        network=network,
        begin=words["from_weights"].format(start=start) if start else words["from_random"],
        images=words["fold_images"].format(count=split["count"])
        if folds
        else words["images"].format(count=splits.get("train", 0)),
        epochs=trained.get("epochs", options["epochs"]),
        batch=options["batch_size"],
        optimiser=options["optimiser"]["use"],
        rate=f"{options['learning_rate']:g}",
        schedule=options["schedule"]["use"],
        loss=options["loss"]["use"],
        kept=kept,
        by=words["by"].format(column=by) if by else "",
    )


def step_text(step: Mapping[str, Any]) -> str:
    """A step of preparation or clean-up with its numbers, in words."""
    said = [
        f"{k} {_plain(v)}"
        for k, v in step.items()
        if k != "use" and v is not None and not isinstance(v, bool)
    ]
    text = f" ({', '.join(said)})" if said else ""
    return f"{step['use']}{text}".replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return (
            " × ".join(str(v) for v in value)
            if all(isinstance(v, int) for v in value)
            else ", ".join(map(str, value))
        )
    return str(value)
