"""Preprocessing and augmentation that fit the images, as the YAML would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from medseg.labels import LabelTable
from medseg.planning.decision import Decision, chosen
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.grids import Grid, coarse_axis, median_shape, target_spacing
from medseg.planning.machine import Machine
from medseg.planning.network_plan import CPU_PATCH_VOXELS

Kind = Literal["ct", "radiograph", "picture", "other"]
VOLUME_ORIENTATION = "RAS"
FILM_ORIENTATION = "LF"
_FILMS = frozenset({"CR", "DX", "RG", "MG"})
# Air is -1000 HU; a scan of a body has some, and scanners pad with values down to -3024.
_AIR_HU = -900.0
_LEAST_HU = -4096.0
_CT_SHARE = 0.8
# Above it the background was set to zero, and its size would decide mean and deviation.
_ZEROED = 0.4
_EDGE = {"cpu": 512, "cuda": 1024}


def image_kind(fingerprint: Fingerprint, declared: Sequence[str] = ()) -> tuple[Kind, str]:
    """What the images are, by their modality, the settings' `data.modality`, or their values; and why."""
    modalities = {case.modality for case in fingerprint.cases if case.modality}
    source = "the files say"
    if not modalities:
        modalities, source = {name for name in declared if name}, "data.modality says"
    if modalities == {"CT"}:
        return "ct", f"{source} CT"
    if modalities and modalities <= _FILMS:
        return "radiograph", f"{source} {', '.join(sorted(modalities))}"
    if modalities:
        return "other", f"{source} {', '.join(sorted(modalities))}"
    cases = fingerprint.cases
    if fingerprint.spatial_dims == 2:
        return "picture", "pictures"
    air = [case.whole and _LEAST_HU <= case.low <= _AIR_HU for case in cases]
    if sum(air) >= _CT_SHARE * len(air):
        low, high = min(case.low for case in cases), max(case.high for case in cases)
        return "ct", f"no modality is told, but whole numbers from {low:g} to {high:g} look like HU"
    return "other", "no modality is told; values have no fixed scale"


def plan_orientation(fingerprint: Fingerprint) -> tuple[dict[str, Any] | None, str]:
    """The step that turns all images alike, or None where they do not know their directions; and why."""
    if fingerprint.spatial_dims == 3:
        return {"use": "orient", "to": VOLUME_ORIENTATION}, "volumes: axes grow to right, front and head"
    if any(case.patient_orientation for case in fingerprint.cases):
        return {"use": "orient", "to": FILM_ORIENTATION}, "films: as on display"
    return None, "pictures have no patient directions"


def plan_preprocess(
    fingerprint: Fingerprint, oriented: Sequence[Grid], *, machine: Machine, declared: Sequence[str] = ()
) -> Decision:
    """Orientation, spacing or size, and values.

    Parameters
    ----------
    fingerprint : Fingerprint
    oriented : sequence of Grid
        Grids of the training images after the orientation step.
    machine : Machine
    declared : sequence of str, optional
        `data.modality` of the settings.
    """
    orient, why = plan_orientation(fingerprint)
    values, why_values = plan_values(fingerprint, declared)
    steps = [orient] if orient is not None else []
    if fingerprint.spatial_dims == 3:
        smallest = fingerprint.smallest
        target, why_grid = target_spacing(
            oriented,
            patch_voxels=CPU_PATCH_VOXELS if machine.device == "cpu" else None,
            structure_mm3=None if smallest is None else fingerprint.structures[smallest].mm3_median,
        )
        change = None if target is None else {"use": "resample", "spacing_mm": list(target)}
    else:
        change, why_grid = _plan_size(oriented, edge=_EDGE[machine.device])
    kept = "not resampled: " if change is None else ""
    reason = f"{why}; {kept}{why_grid}; {why_values}"
    return chosen("preprocess", [*steps, *([change] if change else []), *values], reason)


def _plan_size(grids: Sequence[Grid], *, edge: int) -> tuple[dict[str, Any] | None, str]:
    """Pictures of one size that is not too large stay; others get the median shape, at most `edge` long."""
    shape, same = median_shape(grids), len({grid.shape for grid in grids}) == 1
    if same and max(shape) <= edge:
        return None, f"all images have {' x '.join(map(str, shape))} pixels"
    factor = min(1.0, edge / max(shape))
    size = [max(32, round(n * factor / 32) * 32) for n in shape]
    why = f"one size for all, near their median {' x '.join(map(str, shape))}, at most {edge} pixels long"
    return {"use": "resize", "size": size, "keep_aspect": True}, why


def plan_values(fingerprint: Fingerprint, declared: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Steps that bring image values to a common scale, and why these."""
    kind, why = image_kind(fingerprint, declared)
    if kind == "ct":
        return _ct_window(fingerprint, why)
    cases = fingerprint.cases
    if kind == "picture" and all(case.low >= 0 and case.high <= 255 and case.whole for case in cases):
        return [
            {"use": "normalise", "method": "window", "low": 0, "high": 255}
        ], "pictures of 8 bits: 0..255 becomes 0..1"
    if kind in ("picture", "radiograph"):
        return [{"use": "normalise", "method": "percentile", "low": 0.5, "high": 99.5}], (
            f"{why}: percentiles 0.5 and 99.5 of each image become 0 and 1"
        )
    zeroed = sum(case.zero_share > _ZEROED for case in cases) > len(cases) / 2
    if zeroed and all(case.low >= 0 for case in cases):
        return [{"use": "standardise", "method": "masked", "threshold": 0.0}], (
            f"{why}, zeros outside of the body: mean 0 and deviation 1 of the voxels above 0 of each image"
        )
    return [{"use": "standardise", "method": "zscore"}], f"{why}: mean 0 and deviation 1 of each image"


def _ct_window(fingerprint: Fingerprint, why: str) -> tuple[list[dict[str, Any]], str]:
    """Window and standardisation in one linear step; ends are the percentiles of the foreground."""
    channels = fingerprint.intensities
    low, high = min(c.low for c in channels), max(c.high for c in channels)
    if high - low < 1:
        low, high = low - 50.0, high + 50.0
    mean = sum(c.mean for c in channels) / len(channels)
    std = max(1.0, sum(c.std for c in channels) / len(channels))
    ends = [round((end - mean) / std, 4) for end in (low, high)]
    step = {"use": "normalise", "method": "window", "low": round(low, 2), "high": round(high, 2), "to": ends}
    return [step], (
        f"{why}: window {low:.0f} to {high:.0f} HU (percentiles 0.5 and 99.5 of the foreground), then mean "
        f"{mean:.0f} and deviation {std:.0f} of the foreground become 0 and 1"
    )


def plan_augment(
    fingerprint: Fingerprint, table: LabelTable, *, spacing_mm: Sequence[float] | None
) -> Decision:
    """Random changes that training images may undergo and stay what they are.

    Parameters
    ----------
    spacing_mm : sequence of float or None
        Of the prepared images.
    """
    sided = any(label.side in ("left", "right") for label in table.labels)
    coarse = spacing_mm is not None and len(spacing_mm) == 3 and coarse_axis(spacing_mm) is not None
    even_volume = fingerprint.spatial_dims == 3 and not coarse
    steps: list[dict[str, Any]] = [
        {"use": "rotate", "degrees": 8 if coarse else 20 if even_volume else 15, "probability": 0.5},
        {"use": "scale", "low": 0.78, "high": 1.28, "probability": 0.5},
        {"use": "shift", "fraction": 0.05, "probability": 0.3},
    ]
    if even_volume:
        steps.append({"use": "elastic", "sigma": 8, "magnitude": 1.2, "probability": 0.3})
    if not sided:
        steps.append({"use": "flip", "axes": [0], "probability": 0.5})
    steps += [
        {"use": "gamma", "low": 0.65, "high": 1.6, "probability": 0.4},
        {"use": "contrast", "low": 0.7, "high": 1.3, "probability": 0.4},
        {"use": "brightness", "shift": 0.1, "probability": 0.3},
        {"use": "noise", "std": 0.05, "probability": 0.15},
        {"use": "blur", "low": 0.5, "high": 1.0, "probability": 0.1},
        {"use": "low_resolution", "low": 1, "high": 2, "probability": 0.15},
    ]
    flips = "no flips, as labels have sides" if sided else "flips between left and right"
    small = ", small turns for the coarse axis" if coarse else ""
    bends = ", bends" if even_volume else ""
    return chosen("augment", steps, f"turns, sizes{bends}, {flips}{small}; contrast, noise and resolution")
