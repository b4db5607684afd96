"""Is the spacing of a volume one that the model was trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from medseg.quality.finding import Finding, GateCheck
from medseg.quality.input_ranges import COARSEST, FINEST
from medseg.quality.options import GateOptions

_NAMES = {FINEST: "finest", COARSEST: "coarsest"}


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
        From `fit_input_ranges`; nothing is found where it is empty.
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
    for name, value in ((FINEST, min(spacing_mm)), (COARSEST, max(spacing_mm))):
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


def spacing_checks(
    spacing_mm: Sequence[float] | None,
    ranges: Mapping[str, tuple[float, float]],
    options: GateOptions | None = None,
) -> tuple[GateCheck, ...]:
    """`check_spacing` with what passed and what could not be judged; nothing where it is turned off."""
    options = options or GateOptions()
    if options.spacing == "off":
        return ()
    if not set(ranges) & set(_NAMES):
        return (
            GateCheck(name="spacing", reason="the model does not tell the spacing of its training images"),
        )
    found = check_spacing(spacing_mm, ranges, options)
    if found:
        return tuple(GateCheck(name="spacing", finding=f, measured=f.measured, limit=f.limit) for f in found)
    return (GateCheck(name="spacing", measured=None if spacing_mm is None else float(max(spacing_mm))),)
