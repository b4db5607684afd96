"""Pictures as they come, from a camera, a cine loop or a work list: one frame in, one mask out, the model in memory.

The mask of a frame is that of `Predictor.predict` with the bundle's clean-up; what else a prediction tells (confidence,
features for the input gate, measurements) is not computed here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from medseg.errors import ConfigError, InputError
from medseg.inference.options import InferenceOptions, PostprocessStep
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Predictor
from medseg.models.bundle import Bundle, read_bundle
from medseg.transforms.options import PreprocessStep
from medseg.volume import Source, Volume

_STEPS: TypeAdapter[tuple[PreprocessStep, ...]] = TypeAdapter(tuple[PreprocessStep, ...])
_CLEANING: TypeAdapter[tuple[PostprocessStep, ...]] = TypeAdapter(tuple[PostprocessStep, ...])
_KEPT = 1000

Frame = NDArray[Any] | Volume
"""(rows, columns) gray or (rows, columns, 3) RGB array, or a 2-D Volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMask:
    """The result of one frame.

    Parameters
    ----------
    label_map : integer array
        Class indices: (rows, columns) for an array, (I, J) for a Volume.
    index : int
        Number of the frame since the stream began, from 0.
    seconds : float
        From frame to mask.
    """

    label_map: NDArray[Any]
    index: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long frames took, seconds.

    Parameters
    ----------
    count : int
        Frames that were timed, at most the last 1000.
    p50, p95, largest : float
        Median, 95th percentile, maximum.
    """

    count: int
    p50: float
    p95: float
    largest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Percentiles of some times; all NaN without any."""
        if not seconds:
            return cls(count=0, p50=math.nan, p95=math.nan, largest=math.nan)
        p50, p95 = np.percentile(seconds, (50, 95))
        return cls(count=len(seconds), p50=float(p50), p95=float(p95), largest=float(max(seconds)))


class Stream:
    """A model that stays in memory and segments frames.

    Parameters
    ----------
    model : Bundle, Predictor, or str
        Bundle, its shipped name or folder, or a predictor made already (then without clean-up). Of pictures.
    device : str, optional
        Where the network runs, unless `model` is a predictor.
    smoothing : float, optional
        0 to below 1: part of the past in the votes of each pixel. 0 gives each frame its own mask; 0.5 forgets half of
        the past with each frame, which calms flickering borders and lags behind motion.
    clean : bool, optional
        Whether the bundle's clean-up steps are applied.

    Raises
    ------
    ConfigError
        A model of volumes, or a smoothing out of range.
    BundleError
        The bundle is missing or damaged.
    """

    def __init__(
        self,
        model: Bundle | Predictor | str,
        *,
        device: str = "cpu",
        smoothing: float = 0.0,
        clean: bool = True,
    ) -> None:
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing is {smoothing:g}; expected 0 (none) to below 1")
        self._cleaning: tuple[PostprocessStep, ...] = ()
        if isinstance(model, Predictor):
            self.predictor = model
        else:
            bundle = read_bundle(model) if isinstance(model, str) else model
            if bundle.spatial_dims != 2:
                raise ConfigError(
                    f"bundle {bundle.name} is for volumes; a stream has pictures, use medseg predict"
                )
            self._cleaning = _CLEANING.validate_python(bundle.postprocess) if clean else ()
            self.predictor = _predictor(bundle, device)
        self._smoothing = smoothing
        self._votes: NDArray[np.float32] | None = None
        self._count = 0
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def segment(self, frame: Frame) -> NDArray[Any]:
        """Mask of the next frame.

        Parameters
        ----------
        frame : array or Volume
            See `Frame`; any number type.

        Returns
        -------
        integer array
            Class indices: (rows, columns) for an array, (I, J) for a Volume.

        Raises
        ------
        InputError
            An array of another shape.
        InputRefusedError
            Values that are not finite.
        """
        begin = time.perf_counter()
        volume = frame if isinstance(frame, Volume) else _volume(frame)
        label_map = self.predictor.segment(volume)
        if self._smoothing:
            label_map = self._smoothed(label_map)
        if self._cleaning:
            table = self.predictor.table
            label_map = postprocess(label_map, self._cleaning, table=table, spacing_mm=volume.spacing_mm)
        self._seconds.append(time.perf_counter() - begin)
        self._count += 1
        return label_map if isinstance(frame, Volume) else label_map.T

    def frames(self, frames: Iterable[Frame]) -> Iterator[FrameMask]:
        """Masks of frames, each as soon as its frame is there."""
        for frame in frames:
            label_map = self.segment(frame)
            yield FrameMask(label_map=label_map, index=self._count - 1, seconds=self._seconds[-1])

    @property
    def latency(self) -> Latency:
        """Of the last 1000 frames; the first of them warm the model up."""
        return Latency.of(tuple(self._seconds))

    def reset(self) -> None:
        """Forget the past: frames of another sequence follow, or times are to be taken anew."""
        self._votes = None
        self._count = 0
        self._seconds.clear()

    def _smoothed(self, label_map: NDArray[Any]) -> NDArray[Any]:
        """Class with the most votes, where each frame adds one and earlier ones fade."""
        shape = (self.predictor.table.class_count, *label_map.shape)
        if self._votes is None or self._votes.shape != shape:
            self._votes = np.zeros(shape, dtype=np.float32)
        self._votes *= self._smoothing
        np.put_along_axis(
            self._votes,
            label_map[None].astype(np.intp),
            np.take_along_axis(self._votes, label_map[None].astype(np.intp), axis=0) + 1,
            axis=0,
        )
        return np.asarray(self._votes.argmax(axis=0).astype(label_map.dtype))


def _predictor(bundle: Bundle, device: str) -> Predictor:
    from medseg.inference.members import LoadedMembers

    loads = [
        lambda position=position: bundle.load_network(position) for position in range(bundle.member_count)
    ]
    return Predictor(
        LoadedMembers(loads, device=torch.device(device), keep=True),
        steps=_STEPS.validate_python(bundle.preprocess),
        table=bundle.table,
        options=InferenceOptions.model_validate(bundle.inference),
        statistics=bundle.record.training.statistics or None,
        device=device,
    )


def _volume(frame: NDArray[Any]) -> Volume:
    """A frame as decoders give it, as an image with its columns along I."""
    if frame.ndim == 2:
        channels = frame.T[None]
    elif frame.ndim == 3 and frame.shape[2] in (1, 3):
        channels = frame.transpose(2, 1, 0)
    else:
        raise InputError(
            f"a frame of shape {frame.shape}: expected (rows, columns), or (rows, columns, 3) for RGB"
        )
    return Volume(array=channels.astype(np.float32), source=Source(paths=(), format="memory"))
