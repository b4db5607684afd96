"""Transforms of a MONAI bundle -> preprocessing and clean-up steps of medseg, as JSON, and what became of each.

What reads a file or changes its container is done by medseg's own readers. Of the rest only transforms are taken whose
numbers our steps give, too; where they differ by a rim or a part of a voxel, the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from medseg.interop.monai_config import MonaiConfig, class_name, is_monai

_READING = frozenset(
    {
        *("LoadImaged", "EnsureChannelFirstd", "AddChanneld", "AsChannelFirstd", "EnsureTyped", "ToTensord"),
        *(
            "CastToTyped",
            "ToDeviced",
            "DeleteItemsd",
            "SelectItemsd",
            "DataStatsd",
            "ConcatItemsd",
            "Identityd",
        ),
    }
)
_WRITING = frozenset(
    {"Invertd", "SaveImaged", "EnsureTyped", "ToTensord", "CastToTyped", "DeleteItemsd", "SelectItemsd"}
)
# They change no number, or none of the image.
_HARMLESS = frozenset(
    {
        *(
            "_target_",
            "_desc_",
            "_mode_",
            "_requires_",
            "_disabled_",
            "keys",
            "allow_missing_keys",
            "dtype",
            "lazy",
        ),
        *(
            "recompute_affine",
            "start_coord_key",
            "end_coord_key",
            "source_key",
            "labels",
            "meta_keys",
            "image_key",
        ),
    }
)
_SETTINGS = "give these steps under preprocess: in a file of your own (--settings)"
Step = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Steps, and one line for each transform that says what it became."""

    steps: tuple[Step, ...]
    lines: tuple[str, ...]


class _Transform:
    """One transform whose arguments are read when they are needed."""

    def __init__(self, config: MonaiConfig, place: str, raw: Mapping[str, Any]) -> None:
        self.config, self.place, self.raw = config, place, raw
        # The same name in a module of the bundle's own is another class.
        self.name = class_name(raw) if is_monai(raw, "monai.transforms") else str(raw["_target_"])
        self._taken: set[str] = set()

    def take(self, key: str, default: Any = None) -> Any:
        self._taken.add(key)
        return self.config.resolve(self.raw[key], f"{self.place}::{key}") if key in self.raw else default

    def only(self, key: str, allowed: Any) -> None:
        """An argument that we have in one form alone."""
        found = self.take(key, allowed)
        first = found[0] if isinstance(found, list) and found and not isinstance(allowed, list) else found
        if first != allowed:
            self.refuse(
                f"{self.name} with {key} {found!r}: medseg has it with {allowed!r} alone; {_SETTINGS}"
            )

    def number(self, key: str, default: float | None = None) -> float:
        found = self.take(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.refuse(f"{self.name} with {key} {found!r}: expected one number; {_SETTINGS}")
        return found

    def numbers(self, key: str) -> list[Any]:
        found = self.take(key)
        row = found if isinstance(found, list) else [found]
        if not row or not all(isinstance(n, int | float) and not isinstance(n, bool) and n > 0 for n in row):
            self.refuse(f"{self.name} with {key} {found!r}: expected numbers above 0; {_SETTINGS}")
        return row

    def finish(self) -> None:
        left = sorted(set(self.raw) - self._taken - _HARMLESS)
        if left:
            self.refuse(f"{self.name}: medseg does not know its arguments {', '.join(left)}; {_SETTINGS}")

    def refuse(self, text: str) -> NoReturn:
        self.config.refuse(self.place, text)


def preprocessing(config: MonaiConfig, *, spatial_dims: int, key: str = "preprocessing") -> Taken:
    """Preprocessing steps of a bundle.

    Parameters
    ----------
    config : MonaiConfig
    spatial_dims : int
        Axes of the images.
    key : str, optional
        Where the transforms stand.

    Raises
    ------
    BundleError
        Transforms that no step stands for; all of them are named.
    """
    if not config.has(key):
        config.refuse(key, f"is missing; {_SETTINGS}")
    found = [_Transform(config, place, raw) for place, raw in config.components(key)]
    image = _image_key(found)
    found = [t for t in found if _concerns(t, image)]
    unknown = list(dict.fromkeys(t.name for t in found if t.name not in _READING and t.name not in _STEPS))
    if unknown:
        config.refuse(key, f"medseg has no step that gives the numbers of {', '.join(unknown)}; {_SETTINGS}")
    steps: list[Step] = []
    lines: list[str] = []
    for transform in found:
        if transform.name in _READING:
            lines.append(f"{transform.name}: medseg reads the file by itself")
            continue
        step, note = _STEPS[transform.name](transform, spatial_dims)
        transform.finish()
        steps.append(step)
        lines.append(f"{transform.name}: {_said(step)}{f'; {note}' if note else ''}")
    return Taken(steps=tuple(steps), lines=tuple(lines))


def postprocessing(config: MonaiConfig, *, names: Sequence[str], key: str = "postprocessing") -> Taken:
    """Clean-up steps of a bundle; refuses networks whose classes may overlap.

    Parameters
    ----------
    config : MonaiConfig
    names : sequence of str
        Labels by class index, background first.

    Raises
    ------
    BundleError
        A sigmoid or a threshold, or a transform that no step stands for.
    """
    steps: list[Step] = []
    lines: list[str] = []
    for place, raw in config.components(key):
        transform = _Transform(config, place, raw)
        if transform.name in ("Activationsd", "AsDiscreted"):
            lines.append(_exclusive(transform))
        elif transform.name == "KeepLargestConnectedComponentd":
            step = _keep_largest(transform, names)
            transform.finish()
            steps.append(step)
            lines.append(
                f"{transform.name}: {_said(step)}; on the grid of the image, where MONAI has that of the network"
            )
        elif transform.name in _WRITING:
            lines.append(f"{transform.name}: medseg brings masks back and writes them by itself")
        else:
            transform.refuse(
                f"medseg has no clean-up step like {transform.name}; give the steps under postprocess: in "
                "a file of your own "
                "(--settings), postprocess: [] for none"
            )
    return Taken(steps=tuple(steps), lines=tuple(lines))


def _image_key(found: Sequence[_Transform]) -> str:
    """The key that images are loaded under."""
    first = next((t for t in found if t.name == "LoadImaged"), None)
    keys = first.take("keys") if first is not None else None
    keys = keys if isinstance(keys, list) else [keys]
    return str(keys[0]) if keys and keys[0] else "image"


def _concerns(transform: _Transform, image: str) -> bool:
    if "keys" not in transform.raw or transform.name in _READING:
        return True
    keys = transform.take("keys")
    return image in (keys if isinstance(keys, list) else [keys])


def _said(step: Step) -> str:
    values = ", ".join(f"{key} {value}" for key, value in step.items() if key != "use")
    return f"{step['use']} ({values})" if values else str(step["use"])


def _orient(t: _Transform, dims: int) -> tuple[Step, str]:
    closest = t.take("as_closest_canonical", False)
    codes = "RAS" if closest else t.take("axcodes")
    codes = "".join(codes) if isinstance(codes, list) else codes
    if not isinstance(codes, str):
        t.refuse(f"Orientationd with axcodes {codes!r}: expected letters such as RAS")
    return {"use": "orient", "to": codes[:dims]}, ""


def _resample(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("mode", "bilinear")
    for key in ("min_pixdim", "max_pixdim"):
        t.only(key, None)
    for key in ("align_corners", "padding_mode", "scale_extent", "diagonal"):
        # Where its samples lie by a part of a voxel; the note says that ours lie elsewhere.
        t.take(key)
    pixdim = [float(n) for n in t.numbers("pixdim")]
    spacing = pixdim * dims if len(pixdim) == 1 else pixdim[:dims]
    note = "about the image's centre, smoothed where it shrinks; MONAI begins at the first voxel and picks values"
    return {"use": "resample", "spacing_mm": spacing}, note


def _scale_range(t: _Transform, dims: int) -> tuple[Step, str]:
    low, high = t.number("a_min"), t.number("a_max")
    to = [t.number("b_min", 0.0), t.number("b_max", 1.0)]
    clip = bool(t.take("clip", False))
    return {"use": "normalise", "method": "window", "low": low, "high": high, "to": to, "clip": clip}, ""


def _scale(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("factor", None)
    to = [t.number("minv", 0.0), t.number("maxv", 1.0)]
    return {
        "use": "normalise",
        "method": "range",
        "to": to,
        "channelwise": bool(t.take("channel_wise", False)),
    }, ""


def _percentiles(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("relative", False)
    step = {
        "use": "normalise",
        "method": "percentile",
        "low": t.number("lower"),
        "high": t.number("upper"),
        "to": [t.number("b_min"), t.number("b_max")],
        "clip": bool(t.take("clip", False)),
        "channelwise": bool(t.take("channel_wise", False)),
    }
    return step, ""


def _normalise(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("nonzero", False)
    channelwise = bool(t.take("channel_wise", False))
    mean, deviation = t.take("subtrahend"), t.take("divisor")
    if mean is None and deviation is None:
        return {"use": "standardise", "method": "zscore", "channelwise": channelwise}, ""
    low, width = t.number("subtrahend"), t.number("divisor")
    if width <= 0:
        t.refuse(f"NormalizeIntensityd with divisor {width}: expected a number above 0")
    step = {
        "use": "normalise",
        "method": "window",
        "low": low,
        "high": low + width,
        "to": [0.0, 1.0],
        "clip": False,
    }
    return step, ""


def _crop(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("k_divisible", 1)
    t.only("channel_indices", None)
    t.only("mode", "constant")
    if "select_fn" in t.raw:
        t.take("select_fn")
        t.refuse(f"CropForegroundd with a select_fn of its own; {_SETTINGS}")
    t.take("allow_smaller")
    margin = t.take("margin", 0)
    margin = margin[0] if isinstance(margin, list) and len(set(margin)) == 1 else margin
    if not isinstance(margin, int):
        t.refuse(f"CropForegroundd with margin {margin!r}: medseg has one number for all axes; {_SETTINGS}")
    note = "the margin ends with the image" if margin else ""
    return {"use": "crop", "method": "foreground", "threshold": 0.0, "margin": margin}, note


def _pad(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("method", "symmetric")
    t.only("mode", "constant")
    value = t.number("value", 0.0)
    if t.name == "DivisiblePadd":
        multiple = set(t.numbers("k"))
        if len(multiple) > 1:
            t.refuse(
                f"DivisiblePadd with k {sorted(multiple)}: medseg has one number for all axes; {_SETTINGS}"
            )
        return {"use": "pad", "multiple": multiple.pop(), "value": value}, ""
    size = t.numbers("spatial_size")
    return {"use": "pad", "size": size * dims if len(size) == 1 else size[:dims], "value": value}, ""


def _resize(t: _Transform, dims: int) -> tuple[Step, str]:
    t.only("size_mode", "all")
    t.take("mode")
    t.take("anti_aliasing")
    size = t.numbers("spatial_size")
    size = size * dims if len(size) == 1 else size[:dims]
    note = "linear, smoothed where it shrinks; MONAI's result differs by its interpolation"
    return {"use": "resize", "size": size, "keep_aspect": False}, note


_STEPS: dict[str, Callable[[_Transform, int], tuple[Step, str]]] = {
    "Orientationd": _orient,
    "Spacingd": _resample,
    "ScaleIntensityRanged": _scale_range,
    "ScaleIntensityd": _scale,
    "ScaleIntensityRangePercentilesd": _percentiles,
    "NormalizeIntensityd": _normalise,
    "CropForegroundd": _crop,
    "SpatialPadd": _pad,
    "DivisiblePadd": _pad,
    "Resized": _resize,
}


def _exclusive(t: _Transform) -> str:
    if t.take("sigmoid", False) or t.take("threshold", None) is not None:
        t.refuse(
            f"{t.name} with a sigmoid or a threshold: its classes may overlap, while masks of medseg have "
            "one class for each "
            "voxel; such a network cannot be imported"
        )
    return f"{t.name}: the most probable class, as ever here"


def _keep_largest(t: _Transform, names: Sequence[str]) -> Step:
    t.only("independent", True)
    t.only("connectivity", None)
    t.take("is_onehot")
    count, labels = t.take("num_components", 1), t.take("applied_labels")
    step: Step = {"use": "keep_largest", "labels": "all", "count": count}
    if labels is not None:
        wanted = labels if isinstance(labels, list) else [labels]
        if not all(isinstance(n, int) and 0 < n < len(names) for n in wanted):
            t.refuse(
                f"{t.name} with applied_labels {labels!r}: the network has the classes 1 to {len(names) - 1}"
            )
        step["labels"] = [names[n] for n in wanted]
    return step
