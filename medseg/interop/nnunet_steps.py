"""What nnU-Net does to an image, as steps of medseg: axes, crop, intensities, resampling, windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from medseg.errors import BundleError
from medseg.interop.nnunet_plans import Channel, NnunetPlans
from medseg.models.nnunet import by_axis

# nnunetv2/configuration.py, ANISO_THRESHOLD.
_ANISOTROPY = 3.0
_LEAST_STD = 1e-8


def preprocess_steps(plans: NnunetPlans) -> list[dict[str, Any]]:
    """Preprocessing steps as JSON values, in order.

    Raises
    ------
    BundleError
        A normalisation that medseg does not know, or one that lacks its numbers.
    """
    steps: list[dict[str, Any]] = [{"use": "orient", "to": "RAS"}] if plans.reader == "ras" else []
    steps.append({"use": "transpose", "axes": _axes(plans)})
    steps.append({"use": "crop", "method": "nonzero"})
    steps += normalisation_steps(plans.channels)
    if plans.reader != "picture":
        spacing = [None] * plans.flat + list(plans.spacing_mm)
        steps.append(
            {
                "use": "resample",
                "spacing_mm": spacing,
                "interpolation": "cubic",
                "fit": "extent",
                "separate_above": _ANISOTROPY,
            }
        )
    elif set(plans.spacing_mm) != {1.0}:
        _refuse(f"pictures are resampled to {list(plans.spacing_mm)}, but their pixels have no size")
    return steps


def inference_options(plans: NnunetPlans, mirror_axes: Sequence[int]) -> dict[str, Any]:
    """Inference options as JSON values: windows, weights, mirroring and sums of nnU-Net's predictor."""
    mirrored = [axis + plans.flat for axis in mirror_axes]
    return {
        "window": list(by_axis(plans.patch_size, flat=plans.flat)),
        "overlap": 0.5,
        "steps": "even",
        "filling": 0.0,
        "batch_size": 1,
        "average": "logits",
        "sums": "float16",
        "layout": "contiguous",
        **({"tta": "flip", "flip_axes": mirrored} if mirrored else {}),
    }


def normalisation_steps(channels: Sequence[Channel]) -> list[dict[str, Any]]:
    """Steps of all channels; those that look for zeros come first, before any zero has moved."""
    masked = [
        n for n, channel in enumerate(channels) if channel.scheme == "ZScoreNormalization" and channel.masked
    ]
    steps: list[dict[str, Any]] = []
    if masked:
        steps.append({"use": "standardise", "method": "nonzero"} | _on(masked, channels))
    alike: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for number, channel in enumerate(channels):
        if number not in masked:
            for step in _normalised(number, channel):
                alike.setdefault(repr(step), (step, []))[1].append(number)
    return steps + [step | _on(numbers, channels) for step, numbers in alike.values()]


def _normalised(number: int, channel: Channel) -> list[dict[str, Any]]:
    """One step or none for a channel, whose number only messages need."""
    match channel.scheme:
        case "ZScoreNormalization":
            return [{"use": "standardise", "method": "zscore"}]
        case "NoNormalization":
            return []
        case "RescaleTo01Normalization":
            return [{"use": "normalise", "method": "range"}]
        case "RGBTo01Normalization":
            return [{"use": "normalise", "method": "window", "low": 0.0, "high": 255.0}]
        case "CTNormalization":
            keys = ("mean", "std", "percentile_00_5", "percentile_99_5")
            lacking = [key for key in keys if key not in channel.intensities]
            if lacking:
                _refuse(f"CTNormalization of channel {number} lacks {', '.join(lacking)} in plans.json")
            mean, std, low, high = (channel.intensities[key] for key in keys)
            given = {"use": "standardise", "method": "given", "mean": mean, "std": max(std, _LEAST_STD)}
            return [given | {"clip": [low, high]}]
    _refuse(
        f"channel {number} ({channel.name}) has the normalisation {channel.scheme!r}; expected ZScoreNormalization, "
        "CTNormalization, NoNormalization, RescaleTo01Normalization or RGBTo01Normalization"
    )


def _on(numbers: Sequence[int], channels: Sequence[Channel]) -> dict[str, Any]:
    return {} if len(numbers) == len(channels) else {"channels": list(numbers)}


def _axes(plans: NnunetPlans) -> list[int]:
    """For each axis of nnU-Net's array that of the file: it reads k, j, i, and pictures by rows."""
    forward = plans.transpose_forward[1:] if plans.reader == "picture" else plans.transpose_forward
    return [2 - axis for axis in forward]


def _refuse(text: str) -> NoReturn:
    raise BundleError(f"nnU-Net model: {text}")
