"""Numbers and settings in words: quantities with unit and caveats, statistics with intervals, the methods text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    """
    steps = "; ".join(step_text(step) for step in settings["preprocess"]) or "none"
    size = f", {parameters / 1e6:.2f} million parameters" if parameters else ""
    parts = [f"Images were prepared by these steps: {steps}."]
    network = settings["model"]["use"]
    if trained is not None and settings["training"] is not None:
        parts.append(_training(settings, trained, splits, network=f"{network}{size}"))
    else:
        parts.append(f"The model {settings['model']['start_from']} ({network}{size}) was used as it is.")
    inference = settings["inference"]
    tta = inference["tta"]
    clean = "; ".join(step_text(step) for step in settings["postprocess"]) or "none"
    parts.append(
        f"Probabilities were brought back to the grid of the image before the largest was taken"
        f"{'' if tta in ('none', None) else f', with test-time augmentation ({tta})'}; clean-up"
        f"{f', chosen by Dice on {tuned_on}' if tuned_on else ''}: {clean}."
    )
    options = settings["evaluation"]
    names = ", ".join(metric["use"] for metric in options["metrics"])
    parts.append(
        f"Agreement ({names}) was computed on the grid of the image over {_evaluated(settings)}; "
        f"intervals are {options['level']:.0%} bootstrap intervals over patients ({options['samples']} resamples)."
    )
    if options.get("detection") is not None:
        parts.append(
            "Targets (connected objects) were matched one to one to those of the reference by "
            f"{options['detection']['match']}; precision, recall, F1, panoptic quality, average precision and FROC are "
            "of all cases together."
        )
    parts.append(f"Software: medseg {version}.")
    return " ".join(parts)


def _evaluated(settings: Mapping[str, Any]) -> str:
    split = settings["data"]["split"]
    if split.get("fold") == "all":
        return f"all cases, each predicted by the network of its fold ({split['count']} folds)"
    return f"the {settings['evaluation']['cases']} cases"


def _training(
    settings: Mapping[str, Any], trained: Mapping[str, Any], splits: Mapping[str, int], *, network: str
) -> str:
    options, split = settings["training"], settings["data"]["split"]
    start = settings["model"]["start_from"]
    begin = f"starting from the weights of {start}" if start else "from random weights"
    by = split.get("by")
    folds = split.get("fold") == "all"
    images = (
        f"the images of all but one of {split['count']} folds in turn"
        if folds
        else f"{splits.get('train', 0)} images"
    )
    kept = "the weights of the last epoch were kept."
    if options["keep"] == "best":
        chosen = "of the following fold" if folds else f"{splits.get('validation', 0)} images"
        kept = f"the weights with the best validation {options['metric']} ({chosen}) were kept."
    return (
        f"A network ({network}) was trained {begin} on {images} for "
        f"{trained.get('epochs', options['epochs'])} epochs with batches of {options['batch_size']}, "
        f"{options['optimiser']['use']} at a learning rate of {options['learning_rate']:g} "
        f"({options['schedule']['use']} schedule) and the loss {options['loss']['use']}; "
        f"{kept}{f' Splits are by {by}.' if by else ''}"
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
