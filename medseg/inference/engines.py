"""What runs a network: torch as it is, torch.compile, OpenVINO, ONNX Runtime, behind one call.

An engine is opened for one network and one size of windows, and is called with any number of them:
(B, C, *window) float32 -> (B, L, *window) float32 logits. All but torch are for CPUs; OpenVINO and ONNX Runtime are
optional packages. Whether their answers are good enough is not asked here; see `engine_settle`.

The same engine gives the same answer to the same windows, whatever else is in the batch. None of them computes in
bfloat16: processors without the instructions are hundreds of times slower with it, and masks change with those that
have them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.inference.engine_packages import require_engine
from medseg.inference.options import EngineName
from medseg.models.inference_form import for_inference

Load = Callable[[], AbstractContextManager[nn.Module]]
"""Gives the network in evaluation mode, for as long as the block runs."""


class EngineFailure(Exception):
    """An engine cannot run a network; `engine_settle` says what follows from it."""


class Engine(Protocol):
    """Runs a network on windows of one size."""

    def __call__(self, windows: Tensor) -> Tensor:
        """(B, C, *window) float32 -> (B, L, *window) float32 logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine is opened for.

    Parameters
    ----------
    window : tuple of int
    in_channels : int
    batch_size : int
        Windows in one run; a call with more makes several runs, one with fewer fills up.
    threads : int
        Processor threads.
    weights : str
        Digest of the network and its weights, under which what was compiled is kept.
    folder : Path or None
        Where it is kept; None: nowhere.
    calibration : tuple of (C, *window) float32 arrays
        Windows of images, for eight-bit engines.
    """

    window: tuple[int, ...]
    in_channels: int
    threads: int
    batch_size: int = 1
    weights: str = ""
    folder: Path | None = None
    calibration: tuple[NDArray[np.float32], ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input of one run."""
        return (self.batch_size, self.in_channels, *self.window)

    def example(self) -> Tensor:
        """An input of that shape, with two different values so that no norm divides by zero."""
        shown = torch.zeros(self.shape)
        shown[..., ::2] = 1.0
        return shown


def open_engine(name: EngineName, load: Load, spec: EngineSpec) -> Engine:
    """An engine for one network and one size of windows.

    Parameters
    ----------
    name : EngineName
    load : callable
        Asked for the network where the engine needs it: not where what was compiled is kept on disk.
    spec : EngineSpec

    Raises
    ------
    MissingPackageError
        It is not installed.
    EngineFailure
        It cannot run the network.
    """
    require_engine(name)
    if name == "torch":
        return Batched(_torch(load), spec.batch_size)
    return Batched(_opened(name, load, spec), spec.batch_size, fills_up=True)


def _opened(name: EngineName, load: Load, spec: EngineSpec) -> Engine:
    if name == "compile":
        return _compiled(load, spec)
    if name == "onnxruntime":
        from medseg.inference.engine_onnx import open_onnxruntime

        return open_onnxruntime(load, spec)
    from medseg.inference.engine_openvino import open_openvino

    return open_openvino(load, spec, eight_bits=name == "openvino_int8")


class Batched:
    """An engine that shows its network a fixed number of windows at a time.

    Parameters
    ----------
    run : callable
        (B, C, *window) -> (B, L, *window).
    size : int
        B.
    fills_up : bool
        Whether `run` takes exactly B windows, so that fewer are filled up with the last one.
    """

    def __init__(self, run: Engine, size: int, *, fills_up: bool = False) -> None:
        self._run, self._size, self._fills_up = run, size, fills_up

    def __call__(self, windows: Tensor) -> Tensor:
        """(B, C, *window) float32 -> (B, L, *window) float32 logits."""
        if len(windows) == self._size:
            return self._run(windows)
        return torch.cat([self._part(part) for part in torch.split(windows, self._size)])

    def _part(self, part: Tensor) -> Tensor:
        count = len(part)
        if count < self._size and self._fills_up:
            part = torch.cat([part, part[-1:].expand(self._size - count, *part.shape[1:])])
        return self._run(part)[:count]


def _torch(load: Load) -> Engine:
    with load() as network:
        found = for_inference(network)

    def run(windows: Tensor) -> Tensor:
        logits: Tensor = found(windows)
        return logits.float()

    return run


def _compiled(load: Load, spec: EngineSpec) -> Engine:
    """torch.compile with the weights frozen into the code; compiled at once, so that its failure shows here."""
    from medseg.models.inference_form import for_export

    with load() as network:
        found: Any = torch.compile(for_export(network), dynamic=False, options={"freezing": True})

    def run(windows: Tensor) -> Tensor:
        # What is frozen must not want gradients, and inference tensors are another kind for the compiler.
        with torch.inference_mode(False), torch.no_grad():
            logits: Tensor = found(windows.clone() if windows.is_inference() else windows)
        return logits.float()

    try:
        run(spec.example())
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as err:
        raise EngineFailure(f"torch.compile cannot compile it ({first_line(err)})") from err
    return run


def first_line(err: BaseException) -> str:
    """The beginning of an error's text, for one sentence."""
    lines = str(err).strip().splitlines()
    return (lines[0] if lines else type(err).__name__)[:200]
