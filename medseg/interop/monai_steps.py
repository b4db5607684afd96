"""Our preprocessing steps as transforms of MONAI, where it has one that gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEY = "image"
_MODULE = "monai.transforms"
Transform = dict[str, Any]
Step = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Transforms as JSON, a line for each step, and steps that MONAI has nothing like."""

    transforms: tuple[Transform, ...]
    lines: tuple[str, ...]
    missing: tuple[str, ...]


def transforms_of(steps: Sequence[Step], *, spatial_dims: int, statistics: Mapping[str, float]) -> Written:
    """Transforms for preprocessing steps.

    Parameters
    ----------
    steps : sequence of dict
        Preprocessing steps as JSON, all fields given.
    spatial_dims : int
    statistics : mapping
        `mean` and `std` of the training data, for ``standardise: dataset``.
    """
    found = [transform("LoadImaged", image_only=False), transform("EnsureChannelFirstd")]
    lines, missing = [], []
    for step in steps:
        made = _MAKERS[step["use"]](step, spatial_dims, statistics) if step["use"] in _MAKERS else None
        if made is None:
            missing.append(_named(step))
            continue
        found.append(made[0])
        lines.append(
            f"{_named(step)}: {made[0]['_target_'].rpartition('.')[2]}{f'; {made[1]}' if made[1] else ''}"
        )
    return Written(transforms=(*found, transform("EnsureTyped")), lines=tuple(lines), missing=tuple(missing))


def transform(name: str, *, keys: str = _KEY, **arguments: Any) -> Transform:
    """One transform."""
    return {"_target_": f"{_MODULE}.{name}", "keys": keys, **arguments}


Made = tuple[Transform, str] | None


def _named(step: Step) -> str:
    method = step.get("method")
    return f"{step['use']} {method}" if method else str(step["use"])


def _orient(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    letters = step["to"].replace("H", "S").replace("F", "I")
    made = transform("Orientationd", axcodes=letters, labels=[["L", "R"], ["P", "A"], ["I", "S"]])
    return (made, "") if dims == 3 else None


def _resample(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    note = "MONAI begins at the first voxel and does not smooth where the image shrinks"
    return transform("Spacingd", pixdim=list(step["spacing_mm"]), mode="bilinear"), note


def _normalise(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    low, high = step["to"]
    if step["method"] == "window":
        ends = {"a_min": step["low"], "a_max": step["high"], "b_min": low, "b_max": high}
        return transform("ScaleIntensityRanged", **ends, clip=step["clip"]), ""
    if step["method"] == "range":
        return transform("ScaleIntensityd", minv=low, maxv=high, channel_wise=step["channelwise"]), ""
    ends = {
        "lower": 0.5 if step["low"] is None else step["low"],
        "upper": 99.5 if step["high"] is None else step["high"],
    }
    more = {"b_min": low, "b_max": high, "clip": step["clip"], "channel_wise": step["channelwise"]}
    return transform("ScaleIntensityRangePercentilesd", **ends, **more), ""


def _standardise(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    if step["method"] == "zscore":
        return transform("NormalizeIntensityd", channel_wise=step["channelwise"]), ""
    if step["method"] == "dataset" and statistics:
        return transform("NormalizeIntensityd", subtrahend=statistics["mean"], divisor=statistics["std"]), ""
    return None


def _crop(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    if step["method"] != "foreground" or step["threshold"] != 0 or step["margin"]:
        return None
    return transform("CropForegroundd", source_key=_KEY), ""


def _pad(step: Step, dims: int, statistics: Mapping[str, float]) -> Made:
    if step["value"] is None:
        return None
    if step["multiple"] is not None:
        return transform("DivisiblePadd", k=step["multiple"], value=step["value"]), ""
    return transform("SpatialPadd", spatial_size=list(step["size"]), value=step["value"]), ""


_MAKERS: dict[str, Callable[[Step, int, Mapping[str, float]], Made]] = {
    "orient": _orient,
    "resample": _resample,
    "normalise": _normalise,
    "standardise": _standardise,
    "crop": _crop,
    "pad": _pad,
}
