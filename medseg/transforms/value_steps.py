"""Steps that change the values of an image view one by one, once what they need of the whole image is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import ConfigError, InputError, InputRefusedError
from medseg.transforms import intensity
from medseg.transforms.clahe import clahe
from medseg.transforms.image_view import (
    ArrayView,
    ChannelsView,
    ImageView,
    MaskedView,
    ValueView,
    channel_maxima,
    channel_minima,
    mean_and_deviation,
    percentiles,
    slab_boxes,
    slabs,
    whole,
)
from medseg.transforms.options import Binarise, Denoise, Equalise, Gray, Normalise, Standardise

_OTSU_BINS = 256

ValueStep = Gray | Binarise | Normalise | Standardise | Equalise | Denoise


def change_values(view: ImageView, step: ValueStep, statistics: Mapping[str, float] | None) -> ImageView:
    """The view after a step that moves no voxel.

    `equalise` and `denoise` look at neighbours or ranks and are computed for the whole image at once; all others as
    the view is read.

    Parameters
    ----------
    view : ImageView
    step : ValueStep
    statistics : mapping or None
        `mean` and `std` of the training data, for method dataset.

    Raises
    ------
    ConfigError
        Method dataset without statistics; a channel that the image does not have.
    InputError
        Luma of an image that has not three channels.
    InputRefusedError
        The image has no contrast, its values do not vary, or no voxel is foreground.
    """
    if isinstance(step, Normalise | Standardise) and step.channels is not None:
        missing = [channel for channel in step.channels if channel >= view.channels]
        if missing:
            raise ConfigError(
                f"{step.use}: channels names {missing[0]}, but the image has {view.channels}, counted from 0"
            )
        if getattr(step, "method", "") != "nonzero":
            return _on_channels(view, step, step.channels, statistics)
    match step:
        case Gray():
            if step.weights == "rec601" and view.channels not in (1, 3):
                raise InputError(f"gray: rec601 needs 3 channels, found {view.channels}; use weights: mean")
            return ValueView(view, lambda part: intensity.to_gray(part, step), channels=1)
        case Binarise():
            levels = [step.threshold] * view.channels if step.threshold is not None else _otsu(view)
            column = _column(levels, view)
            return ValueView(view, lambda part: (part > column).astype(np.float32))
        case Normalise():
            return _normalised(view, step)
        case Standardise():
            return _standardised(view, step, statistics)
        case Equalise():
            if step.method == "histogram":
                return ArrayView(intensity.equalise_histogram(whole(view), bins=step.bins))
            return ArrayView(clahe(whole(view), bins=step.bins, clip_limit=step.clip_limit, tiles=step.tiles))
        case Denoise():
            # SciPy's filters and SimpleITK load only for pipelines that filter, so that a prediction starts at once.
            from medseg.transforms.denoise import denoise

            return ArrayView(denoise(whole(view), step))


def _on_channels(
    view: ImageView,
    step: Normalise | Standardise,
    channels: Sequence[int],
    statistics: Mapping[str, float] | None,
) -> ImageView:
    """The view after a step that changes some channels and leaves the others."""
    chosen = list(channels)
    alone = ChannelsView(view, chosen)
    changed = change_values(alone, step.model_copy(update={"channels": None}), statistics)
    if not isinstance(changed, ValueView):
        raise TypeError(f"{step.use} does not change values one by one")
    change = changed.change

    def on_some(part: NDArray[np.float32]) -> NDArray[np.float32]:
        result = part.copy()
        result[chosen] = change(part[chosen])
        return result

    return ValueView(view, on_some)


def _otsu(view: ImageView) -> list[float]:
    """Otsu's threshold of each channel."""
    low, high = channel_minima(view), channel_maxima(view)
    _refuse_flat("otsu", zip(low.tolist(), high.tolist(), strict=True))
    counts = np.zeros((view.channels, _OTSU_BINS), np.int64)
    for slab in slabs(view):
        for index, channel in enumerate(slab):
            levels = intensity.quantise(channel, float(low[index]), float(high[index]), _OTSU_BINS)
            counts[index] += np.bincount(levels.ravel(), minlength=_OTSU_BINS)
    return [intensity.otsu_of(c, float(a), float(b)) for c, a, b in zip(counts, low, high, strict=True)]


def _normalised(view: ImageView, step: Normalise) -> ImageView:
    """Both ends that the step describes become those of ``step.to``."""
    if step.method == "window":
        ends = [step.ends] * view.channels
    elif step.method == "range":
        found = zip(channel_minima(view).tolist(), channel_maxima(view).tolist(), strict=True)
        ends = list(found) if step.channelwise else [_hull(found)] * view.channels
    elif step.channelwise:
        ends = [(float(low), float(high)) for low, high in percentiles(view, step.ends)]
    else:
        low, high = np.percentile(whole(view), step.ends)
        ends = [(float(low), float(high))] * view.channels
    _refuse_flat("normalise", ends)
    first, last = step.to
    lows = _column([low for low, _ in ends], view)
    factors = _column([(last - first) / (high - low) for low, high in ends], view)

    def change(part: NDArray[np.float32]) -> NDArray[np.float32]:
        result = (part - lows) * factors + np.float32(first)
        return np.clip(result, first, last, out=result) if step.clip else result

    return ValueView(view, change)


def _standardised(view: ImageView, step: Standardise, statistics: Mapping[str, float] | None) -> ImageView:
    """A mean is subtracted, and the rest divided by a standard deviation."""
    if step.method == "dataset":
        missing = [key for key in ("mean", "std") if key not in (statistics or {})]
        if statistics is None or missing:
            raise ConfigError(
                f"standardise: method dataset needs the training data's {' and '.join(missing)}"
            )
        numbers = [(statistics["mean"], statistics["std"])] * view.channels
    elif step.method == "given" and step.mean is not None and step.std is not None:
        return _by_given(view, mean=step.mean, std=step.std, clip=step.clip)
    elif step.method == "nonzero":
        return _within_nonzero(view, step.channels or range(view.channels))
    else:
        above = step.threshold if step.method == "masked" else None
        found = mean_and_deviation(view, above=above)
        found = found if step.channelwise else [_pooled(found)] * view.channels
        if any(count == 0 for count, _, _ in found):
            raise InputRefusedError(f"standardise: no voxel lies above the threshold {step.threshold:g}")
        numbers = [(mean, deviation) for _, mean, deviation in found]
    for mean, deviation in numbers:
        if not deviation > 0:
            raise InputRefusedError(f"standardise: the values do not vary, all are {mean:g}")
    means, deviations = (_column(column, view) for column in zip(*numbers, strict=True))
    return ValueView(view, lambda part: (part - means) / deviations)


def _by_given(view: ImageView, *, mean: float, std: float, clip: tuple[float, float] | None) -> ImageView:
    def change(part: NDArray[np.float32]) -> NDArray[np.float32]:
        cut = part if clip is None else np.clip(part, np.float32(clip[0]), np.float32(clip[1]))
        return np.asarray((cut - np.float32(mean)) / np.float32(std))

    return ValueView(view, change)


def _within_nonzero(view: ImageView, channels: Sequence[int]) -> ImageView:
    """Channels standardised within the voxels that are not zero in some channel, and those that they enclose."""
    mask = np.zeros(view.shape, dtype=np.bool_)
    for box in slab_boxes(view):
        mask[box] = (view.read(box) != 0).any(axis=0)
    mask = ndimage.binary_fill_holes(mask)
    numbers = {}
    for channel, (count, mean, deviation) in enumerate(mean_and_deviation(view, mask=mask)):
        if channel not in channels:
            continue
        if count == 0 or not deviation > 0:
            raise InputRefusedError(
                f"standardise: the values of channel {channel} do not vary where the image is not zero"
            )
        numbers[channel] = (mean, deviation)
    return MaskedView(view, mask, numbers)


def _pooled(channels: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    """Count, mean and standard deviation of all channels together."""
    counts, means, deviations = (np.array(column, dtype=np.float64) for column in zip(*channels, strict=True))
    total = max(1.0, counts.sum())
    mean = (counts * means).sum() / total
    variance = (counts * (deviations**2 + (means - mean) ** 2)).sum() / total
    return int(counts.sum()), float(mean), float(np.sqrt(variance))


def _hull(ends: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ends, strict=True)
    return min(lows), max(highs)


def _refuse_flat(step: str, ends: Iterable[tuple[float, float]]) -> None:
    for low, high in ends:
        if not low < high:
            raise InputRefusedError(f"{step}: the image has no contrast, both ends are {low:g}")


def _column(numbers: Sequence[float], view: ImageView) -> NDArray[np.float32]:
    """Numbers by channel, to be spread over its voxels."""
    return np.array(numbers, dtype=np.float32).reshape(-1, *[1] * len(view.shape))
