"""Which windows a network is shown, how many at a time, and what stands for those that it is not shown.

Answers come in the order of the windows. A window outside of what is wanted has none; one that holds a single value may
take the answer that the same value got before; a batch that the device does not hold is cut in half.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medseg.errors import EnvironmentFailure
from medseg.inference.window_blend import Box

_log = logging.getLogger(__name__)

Index = tuple[int, ...]
Values = tuple[float, ...]
Network = Callable[[Tensor], Tensor]


@dataclass(slots=True, kw_only=True)
class WindowTally:
    """What became of the windows of an image; it grows while they are shown.

    Parameters
    ----------
    shown, reused, outside : int
        Windows that the network saw, that took an answer it gave before, that were left out.
    batch_size : int or None
        The batch that the device could hold, where it was smaller than what was asked for.
    """

    shown: int = 0
    reused: int = 0
    outside: int = 0
    batch_size: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know, one sentence each."""
        if self.batch_size is None:
            return ()
        windows = "one window" if self.batch_size == 1 else f"{self.batch_size} windows"
        return (
            f"The device had too little memory for the batch that was set; it was shown {windows} at a time.",
        )

    def to_json(self) -> dict[str, int]:
        """Plain JSON values."""
        return {"shown": self.shown, "reused": self.reused, "outside": self.outside}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which windows the network is shown.

    Parameters
    ----------
    wanted : callable (box of the image) -> bool, optional
        False for a window that is background without a look; all are wanted unless given.
    reuse : bool
        Whether a window that holds one value in each channel takes the answer that the same values got before.
    tally : WindowTally
    """

    wanted: Callable[[Box], bool] | None = None
    reuse: bool = False
    tally: WindowTally = field(default_factory=WindowTally)


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """A window whose turn has not come; `values` where it is of one value, `part` where it is to be shown."""

    index: Index
    outside: bool = False
    values: Values | None = None
    part: Tensor | None = None


class WindowBatches:
    """Windows in, answers out, a batch at a time.

    Parameters
    ----------
    cut : callable
        Box of the image -> (C, *window) float tensor on the CPU.
    ask : callable
        (B, C, *window) tensor on the CPU -> (B, L, *window) float32 tensor, anywhere.
    size : int
        Windows in one run of the network.
    choice : Choice
    """

    def __init__(self, cut: Callable[[Box], Tensor], ask: Network, *, size: int, choice: Choice) -> None:
        self._cut, self._ask, self._size, self._choice = cut, ask, size, choice
        # One answer is kept: the value of air, or of what fills an image up, is the same all over.
        self._asked: Values | None = None
        self._known: Tensor | None = None

    def answers(self, windows: Iterable[tuple[Index, Box]]) -> Iterator[tuple[Index, Tensor | None]]:
        """Number of each window and its (L, *window) answer, None for one that is left out; in their order.

        The windows of the next run are cut while a device is busy with this one.

        Raises
        ------
        EnvironmentFailure
            The device does not hold a single window.
        """
        lines = self._lines(windows)
        line = next(lines, None)
        while line is not None:
            found = _begun(self._show([window.part for window in line if window.part is not None]))
            following = next(lines, None)
            for window in line:
                yield window.index, self._answer(window, found)
            line = following

    def _lines(self, windows: Iterable[tuple[Index, Box]]) -> Iterator[list[_Waiting]]:
        """Windows that are answered together: as many to show as go into one run, and those between them."""
        line: list[_Waiting] = []
        for index, place in windows:
            line.append(self._look(index, place))
            if sum(window.part is not None for window in line) >= self._size:
                yield line
                line = []
        if line:
            yield line

    def _look(self, index: Index, place: Box) -> _Waiting:
        """A window with what must be known of it before it is its turn."""
        if self._choice.wanted is not None and not self._choice.wanted(place):
            return _Waiting(index=index, outside=True)
        part = self._cut(place)
        values = single_values(part) if self._choice.reuse else None
        if values is not None and values == self._asked:
            return _Waiting(index=index, values=values)
        self._asked = self._asked if values is None else values
        return _Waiting(index=index, values=values, part=part)

    def _answer(self, window: _Waiting, found: Iterator[Tensor]) -> Tensor | None:
        """The answer to the window whose turn it is."""
        tally = self._choice.tally
        if window.outside:
            tally.outside += 1
            return None
        if window.part is None:
            tally.reused += 1
            return self._known
        window.part = None
        tally.shown += 1
        answer = next(found)
        if window.values is not None:
            self._known = answer.clone()
        return answer

    def _show(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Answers to windows, in as many runs as the device needs."""
        start = 0
        while start < len(parts):
            batch = parts[start : start + self._size]
            found = self._try(batch)
            if found is not None:
                start += len(batch)
                yield from found

    def _try(self, batch: Sequence[Tensor]) -> Tensor | None:
        """The answer to a batch; None where it was too large for the device, and the next will be half of it."""
        try:
            return self._ask(stacked(batch))
        except torch.OutOfMemoryError as err:
            if len(batch) == 1:
                window = " x ".join(map(str, batch[0].shape[1:]))
                raise EnvironmentFailure(
                    f"the device has too little memory for one window of {window} voxels; set inference.window "
                    "lower, free its memory, or use the processor (device: cpu)"
                ) from err
        # Outside of the handler: the traceback holds the tensors of the run that failed.
        self._size = len(batch) // 2
        self._choice.tally.batch_size = self._size
        _log.warning(
            "the device has too little memory for %d windows; %d at a time now", len(batch), self._size
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _begun(answers: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same, its first run begun."""
    return itertools.chain(list(itertools.islice(answers, 1)), answers)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """(B, ...) of windows on the CPU; page-locked where there is a CUDA device, so that copies need not wait."""
    if not torch.cuda.is_available():
        return torch.stack(list(parts))
    batch = torch.empty((len(parts), *parts[0].shape), dtype=parts[0].dtype, pin_memory=True)
    return torch.stack(list(parts), out=batch)


def single_values(part: Tensor) -> Values | None:
    """The value of each channel of a (C, ...) window; None where one has several."""
    flat = part.reshape(len(part), -1)
    first = flat[:, :1]
    # Most windows are seen to vary at a few voxels.
    if bool((flat[:, :: max(1, flat.shape[1] // 64)] != first).any()) or bool((flat != first).any()):
        return None
    return tuple(first[:, 0].tolist())
