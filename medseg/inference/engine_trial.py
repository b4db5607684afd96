"""An engine tried on windows of an image: does it run, are its masks right, how long does it take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medseg.inference.engines import Engine, EngineFailure
from medseg.inference.options import EngineName
from medseg.inference.parity import Parity, parity
from medseg.inference.sliding_window import Sweep
from medseg.inference.window_blend import Box
from medseg.transforms.image_view import ImageView, channel_minima

# Enough foreground to tell 99.9 % from less, and no more windows than that takes.
_LEAST_FOREGROUND = 5000
_MOST_WINDOWS = 4
_MOST_LOOKED_AT = 8
# A run that is shorter is timed again, up to three times: the first one also takes memory and chooses kernels.
_LONG_RUN_S = 1.5
_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of it.

    Parameters
    ----------
    engine : EngineName
    seconds : float or None
        Of one window; None where the engine did not run.
    start_s : float
        To open it again, with what it keeps on disk.
    passed : bool
        Whether it may be used.
    because : str
        The figures, or why it did not run.
    parity : Parity or None
    """

    engine: EngineName
    seconds: float | None
    start_s: float
    passed: bool
    because: str
    parity: Parity | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Trial:
        """What `to_json` gave.

        Raises
        ------
        TypeError
            It is something else.
        """
        found = value.get("parity")
        return cls(**value | {"parity": None if found is None else Parity(**found)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What an engine made of windows.

    Parameters
    ----------
    labels : tuple of (*window) integer arrays
    seconds : float
        Of the fastest run of one window.
    """

    labels: tuple[NDArray[Any], ...]
    seconds: float

    @property
    def foreground(self) -> int:
        """Voxels that are not background."""
        return sum(int(np.count_nonzero(labels)) for labels in self.labels)


def look(ask: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> Looked:
    """Run an engine on windows one by one.

    Parameters
    ----------
    ask : callable
        (1, C, *window) -> (1, L, *window) logits.
    windows : sequence of (C, *window) float32 tensors
    """
    labels, seconds = [], []
    with torch.inference_mode():
        for window in windows:
            found, passed = _timed(ask, window)
            labels.append(found)
            seconds.append(passed)
        while len(seconds) < _RUNS and max(seconds) < _LONG_RUN_S:
            seconds.append(_timed(ask, windows[0])[1])
    return Looked(labels=tuple(labels), seconds=min(seconds))


def _timed(ask: Callable[[Tensor], Tensor], window: Tensor) -> tuple[NDArray[Any], float]:
    begin = time.perf_counter()
    logits = ask(window[None])[0]
    passed = time.perf_counter() - begin
    return logits.argmax(dim=0).to(torch.int16).cpu().numpy(), passed


def choose_windows(
    image: ImageView, sweep: Sweep, reference: Callable[[Tensor], Tensor], *, most: int = _MOST_LOOKED_AT
) -> tuple[list[Tensor], Looked | None]:
    """Windows of an image with enough foreground to judge by, and what the reference makes of them.

    Those nearest to the middle of the image come first; at most `most` are looked at.

    Returns
    -------
    list of (C, *window) float32 tensors, and Looked or None
        None, and windows without foreground, where nothing was found in those that were looked at.
    """
    empty: list[Tensor] = []
    chosen: list[Tensor] = []
    looks: list[Looked] = []
    for window in itertools.islice(_windows(image, sweep), min(most, _MOST_LOOKED_AT)):
        found = look(reference, [window])
        if not found.foreground:
            empty.append(window)
            continue
        chosen.append(window)
        looks.append(found)
        if sum(f.foreground for f in looks) >= _LEAST_FOREGROUND or len(looks) == _MOST_WINDOWS:
            break
    if not looks:
        return empty, None
    labels = tuple(itertools.chain.from_iterable(f.labels for f in looks))
    return chosen, Looked(labels=labels, seconds=min(f.seconds for f in looks))


def other_windows(image: ImageView, sweep: Sweep, judged: Sequence[Tensor], *, most: int = 4) -> list[Tensor]:
    """Windows of an image besides those that engines are judged by; those where there are no others.

    For eight-bit engines, whose ranges fit the windows that they come from better than any other.
    """
    found: list[Tensor] = []
    for window in itertools.islice(_windows(image, sweep), most + len(judged)):
        if len(found) < most and not any(torch.equal(window, other) for other in judged):
            found.append(window)
    return found or list(judged)


def _windows(image: ImageView, sweep: Sweep) -> Iterator[Tensor]:
    filling = float(channel_minima(image).min()) if sweep.fills_up else 0.0
    starts = itertools.product(*(axis.starts for axis in sweep.axes))
    size = [max(n, w) for n, w in zip(sweep.size, sweep.window, strict=True)]
    middle = np.array([(n - w) / 2 for n, w in zip(size, sweep.window, strict=True)])
    for corner in sorted(starts, key=lambda c: float(np.sum((np.array(c) - middle) ** 2))):
        yield _cut(image, sweep, corner, filling)


def _cut(image: ImageView, sweep: Sweep, corner: Sequence[int], filling: float) -> Tensor:
    """One window, filled up where the image is shorter, as `Sweep` does."""
    box: list[slice] = []
    sides: list[tuple[int, int]] = []
    for n, w, before, start in zip(sweep.size, sweep.window, sweep.before, corner, strict=True):
        box.append(slice(start, start + w) if n >= w else slice(0, n))
        sides.append((before, w - n - before) if n < w else (0, 0))
    place: Box = tuple(box)
    part = torch.from_numpy(np.array(image.read(place), np.float32))
    return F.pad(part, [n for pair in reversed(sides) for n in pair], value=filling)


def try_engine(
    name: EngineName,
    open_again: Callable[[], Engine],
    windows: Sequence[Tensor],
    reference: Looked,
) -> tuple[Trial, Engine | None]:
    """Open an engine, compare its masks and time it.

    Parameters
    ----------
    name : EngineName
    open_again : callable
        Opens it; called twice, so that the second call tells how long it takes with what the first one kept.
    windows, reference
        See `choose_windows`.

    Returns
    -------
    Trial, and Engine or None
        The open engine, where it ran.
    """
    try:
        engine, start_s = _opened(open_again)
        found = look(engine, windows)
        # What compiles anew in each process takes as long again, and is not opened twice to know that.
        if name != "compile":
            del engine
            engine, start_s = _opened(open_again)
    except EngineFailure as err:
        return Trial(engine=name, seconds=None, start_s=0.0, passed=False, because=str(err)), None
    agreed = parity(reference.labels, found.labels)
    trial = Trial(
        engine=name,
        seconds=found.seconds,
        start_s=start_s,
        passed=agreed.passes,
        because=agreed.text,
        parity=agreed,
    )
    return trial, engine


def _opened(open_again: Callable[[], Engine]) -> tuple[Engine, float]:
    begin = time.perf_counter()
    engine = open_again()
    return engine, time.perf_counter() - begin
