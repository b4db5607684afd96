"""Is the spacing of a volume one that the model was trained on?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from medseg.quality.finding import Finding
from medseg.quality.options import GateOptions

FINEST, COARSEST = "spacing_finest_mm", "spacing_coarsest_mm"
_NAMES = {FINEST: "finest", COARSEST: "coarsest"}
SpacingRanges = dict[str, tuple[float, float]]


def spacing_measures(spacing_mm: Sequence[float]) -> dict[str, float]:
    """The two numbers of a spacing that do not depend on the order of the axes, in mm."""
    return {FINEST: float(min(spacing_mm)), COARSEST: float(max(spacing_mm))}


def fit_spacing(spacings_mm: Iterable[Sequence[float] | None]) -> SpacingRanges:
    """Lowest and highest value of each measure over the training volumes.

    Parameters
    ----------
    spacings_mm : iterable of (float, float, float) or None
        Those without a known spacing, and pictures, which are brought to one size, are left out.

    Returns
    -------
    dict
        As `TrainingRecord.input_ranges` keeps it; empty where no volume has a spacing.
    """
    known = [
        spacing_measures(spacing) for spacing in spacings_mm if spacing is not None and len(spacing) == 3
    ]
    if not known:
        return {}
    return {name: (min(m[name] for m in known), max(m[name] for m in known)) for name in _NAMES}


def check_spacing(
    spacing_mm: Sequence[float] | None,
    ranges: Mapping[str, tuple[float, float]],
    options: GateOptions | None = None,
) -> tuple[Finding, ...]:
    """Compare the spacing of a volume with that of the training volumes.

    Parameters
    ----------
    spacing_mm : tuple of float, or None
        None where it is unknown.
    ranges : mapping
        From `fit_spacing`; nothing is found where it is empty.
    options : GateOptions, optional
        `spacing` says whether a finding refuses the image, `spacing_factor` what is let pass.

    Returns
    -------
    tuple of Finding
        One for each end that lies too far outside.
    """
    options = options or GateOptions()
    if options.spacing == "off" or not set(ranges) & set(_NAMES):
        return ()
    level: Literal["review", "refuse"] = "refuse" if options.spacing == "refuse" else "review"
    if spacing_mm is None:
        text = "the spacing of the image is unknown, and the model was trained on images of known spacing"
        return (Finding(check="spacing", level=level, text=text),)
    found = []
    for name, value in spacing_measures(spacing_mm).items():
        low, high = ranges.get(name, (value, value))
        if low / options.spacing_factor <= value <= high * options.spacing_factor:
            continue
        text = (
            f"the {_NAMES[name]} spacing of the image is {value:.3g} mm, that of training images "
            f"{low:.3g} to {high:.3g} mm"
        )
        limit = high if value > high else low
        found.append(Finding(check="spacing", level=level, text=text, measured=value, limit=limit))
    return tuple(found)
