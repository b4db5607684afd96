"""Which engine runs the members of a predictor: as set, or measured, and only where its masks are right.

`torch` is the reference and needs no test. Any other engine is tried on windows of the image at hand before it is used:
its masks must agree with torch's (`parity`). One that was asked for by name and fails ends the run with the figures;
`auto` passes it over and says so.

`auto` takes the engine with which the work at hand is done soonest, its start included. What it measured is kept for
this user under the machine, the weights, the window, the threads and the versions of all packages, so that a second run
takes the same engine without a test. It measures only where the work is long enough to pay for it. The choice may be
another one on another machine, or after the kept answers are removed: masks of two engines agree to the limits of
`parity`, not in every voxel. With an engine by name, the same image gives the same mask on every run; `openvino_int8`
takes its ranges from the first image, so it also needs the same first image, and `auto` never takes it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.amounts import bytes_text
from medseg.errors import ConfigError, EngineError, StorageError
from medseg.inference.ceiling import extra_bytes
from medseg.inference.engine_choice import EngineChoice, nothing_found, of_torch, soonest, worst
from medseg.inference.engine_files import machine, read_answer, write_answer
from medseg.inference.engine_members import MemberEngines, Shape
from medseg.inference.engine_packages import engine_versions, lacking, require_engine
from medseg.inference.engine_trial import Looked, Trial, choose_windows, look, other_windows, try_engine
from medseg.inference.engines import Engine
from medseg.inference.members import Members
from medseg.inference.options import EngineName, EngineSetting
from medseg.inference.sliding_window import Sweep
from medseg.memory import resident_bytes
from medseg.transforms.image_view import ImageView

CANDIDATES: tuple[EngineName, ...] = ("openvino", "onnxruntime", "compile")
"""What `auto` tries besides torch, in this order."""

LEAST_RUNS = 12
"""`auto` does not measure for fewer runs of the network."""

MOST_SHARE = 0.2
"""`auto` spends at most this share of the work on measuring."""

# Seconds that the first opening of an engine takes: export and compilation. Used before it was ever measured.
_FIRST_START_S: dict[EngineName, float] = {"openvino": 10.0, "onnxruntime": 8.0, "compile": 45.0}
# An engine holds weights of its own, and copies of them while it is compiled.
_WEIGHT_COPIES = 4
_MOST_LOOKED_AT = 8
# Images without a structure in the windows that were looked at, after which `auto` gives up.
_MOST_EMPTY = 3

Trials = dict[EngineName, Trial]


@dataclass(slots=True, kw_only=True)
class _Test:
    """An image that engines are tried on.

    Parameters
    ----------
    runs : int
        Runs of the network that are ahead, over all images and members.
    windows, reference
        What torch was shown and made of it; no reference where it found nothing.
    spent_s : float
        Seconds that the trials took so far.
    network_bytes : int
        Memory of one run.
    """

    image: ImageView
    sweep: Sweep
    runs: int
    windows: list[Tensor] = field(default_factory=list)
    reference: Looked | None = None
    spent_s: float = 0.0
    network_bytes: int = 0

    @property
    def window(self) -> Shape:
        """Voxels of a window."""
        return self.sweep.window

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """What the block takes is part of the trials."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - begin


class Engines:
    """The engines of a predictor, once it is settled which.

    Parameters
    ----------
    members : Members
    setting : EngineSetting
    weights : str
        Digest of the networks and all their weights; without one nothing is kept on disk.
    in_channels : int
    weights_bytes : int, optional
        Of one member in memory.
    threads : int, optional
        Those of torch unless given.
    images : int, optional
        How many are to be predicted; tells whether measuring pays.
    folder : Path or None, optional
        Where answers and compiled networks are kept; None: nowhere.
    max_bytes : int, optional
        Ceiling of the memory of this process.

    Raises
    ------
    MissingPackageError
        The engine that is asked for is not installed.
    """

    def __init__(
        self,
        members: Members,
        *,
        setting: EngineSetting,
        weights: str,
        in_channels: int,
        weights_bytes: int = 0,
        threads: int | None = None,
        images: int = 1,
        folder: Path | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if setting != "auto":
            require_engine(setting)
        self._setting, self._weights = setting, weights
        self._weights_bytes, self._images, self._max_bytes = weights_bytes, images, max_bytes
        self._members = MemberEngines(
            members,
            weights=weights,
            in_channels=in_channels,
            threads=threads or torch.get_num_threads(),
            folder=folder,
        )
        self._choices: dict[Shape, EngineChoice] = {}
        self._empty = 0

    def to_json(self) -> dict[str, Any]:
        """What was asked for, what runs which window, and why: for the record of a result."""
        choices = list(self._choices.values())
        versions: dict[str, str] = {}
        for name in sorted({choice.engine for choice in choices}):
            versions |= engine_versions(name)
        return {
            "asked": self._setting,
            "threads": self._members.threads,
            "versions": versions,
            "choices": [choice.to_json() for choice in choices],
        }

    def used(self, window: Shape) -> EngineName:
        """What runs windows of a size."""
        return self._choices[window].engine if window in self._choices else "torch"

    def notes(self, window: Shape) -> tuple[str, ...]:
        """What a reader of a result must know, one sentence each."""
        return self._choices[window].notes if window in self._choices else ()

    def engine(self, position: int, window: Shape) -> contextlib.AbstractContextManager[Engine]:
        """The engine of one member for windows of a size, for as long as the block runs."""
        return self._members.engine(self.used(window), position, window)

    def settle(self, image: ImageView, sweep: Sweep, *, runs: int = 1) -> None:
        """Decide on the engine for the windows of an image, where that is not done.

        Parameters
        ----------
        image : ImageView
            Prepared.
        sweep : Sweep
        runs : int
            Versions of each window that a network is shown.

        Raises
        ------
        EngineError
            The engine that was asked for cannot run the network, or gives other masks.
        ConfigError
            It does not fit below the ceiling of memory.
        """
        before = self._choices.get(sweep.window)
        if before is not None and before.final:
            return
        # The other images may have windows of a size of their own, too.
        images = self._images if before is not None or not self._choices else 1
        ahead = runs * sweep.count * len(self._members) * images
        test = _Test(image=image, sweep=sweep, runs=ahead)
        self._choices[sweep.window] = self._choice(test)

    def _choice(self, test: _Test) -> EngineChoice:
        if self._setting == "torch":
            return EngineChoice(window=test.window, engine="torch", because="as set")
        if self._setting == "auto":
            return self._measured(test)
        return self._tested(self._setting, test)

    def _tested(self, name: EngineName, test: _Test) -> EngineChoice:
        """An engine by name, once its masks were found right."""
        # Eight-bit ranges are those of this run's first image.
        known = {} if name == "openvino_int8" else self._known(test.window)
        if name not in known or not known[name].passed:
            self._look(test, most=_MOST_LOOKED_AT)
            if test.reference is None:
                return nothing_found(test.window)
            if (lack := self._lack_of_room(test)) is not None:
                raise ConfigError(f"engine {name} needs {lack}; raise it, or use engine torch")
            known[name] = self._try(name, test, test.reference)
            if name != "openvino_int8":
                self._keep(test.window, known)
        trial = known[name]
        if not trial.passed:
            raise EngineError(f"engine {name} is not used: {trial.because}; use engine torch or auto")
        return EngineChoice(
            window=test.window, engine=name, because=f"as set; {trial.because}", tried=(trial,)
        )

    def _measured(self, test: _Test) -> EngineChoice:
        """The engine with which the work is done soonest."""
        candidates = [name for name in CANDIDATES if lacking(name) is None]
        if not candidates:
            return EngineChoice(window=test.window, engine="torch", because="no other engine is installed")
        known = self._known(test.window)
        if test.runs >= LEAST_RUNS and self._worth_a_look(candidates, known, test):
            self._look(test, most=min(_MOST_LOOKED_AT, test.runs // LEAST_RUNS))
            if test.reference is None:
                self._empty += 1
                return nothing_found(test.window, final=self._empty >= _MOST_EMPTY)
            known = self._measure(candidates, known, test, test.reference)
        return soonest(test.window, known, test.runs)

    def _worth_a_look(self, candidates: Iterable[EngineName], known: Trials, test: _Test) -> bool:
        """Whether something may be measured that is not known."""
        if "torch" not in known:
            return True
        missing = [name for name in candidates if name not in known]
        return any(self._pays(name, known["torch"].seconds or 0.0, test) for name in missing)

    def _measure(
        self, candidates: Iterable[EngineName], known: Trials, test: _Test, reference: Looked
    ) -> Trials:
        """Try the engines that are not known, as far as the work pays for it and memory has room."""
        found = known | {"torch": of_torch(reference)}
        for name in candidates:
            if name in found or not self._pays(name, reference.seconds, test):
                continue
            if self._lack_of_room(test) is not None:
                break
            found[name] = self._try(name, test, reference)
        self._keep(test.window, found)
        return found

    def _pays(self, name: EngineName, torch_s: float, test: _Test) -> bool:
        """Whether trying an engine is short against the work, by the seconds of a window with torch."""
        shown = len(self._members) * (len(test.windows) + 2)
        cost = len(self._members) * _FIRST_START_S[name] + shown * torch_s
        return test.spent_s + cost <= MOST_SHARE * test.runs * torch_s

    def _look(self, test: _Test, *, most: int) -> None:
        """Show windows of the image to torch."""
        found: list[tuple[list[Tensor], Looked | None]] = []
        with test.timed(), self._members.engine("torch", 0, test.window) as engine:

            def ask() -> None:
                found.append(choose_windows(test.image, test.sweep, engine, most=most))

            test.network_bytes = extra_bytes(ask)
        test.windows, test.reference = found[0]

    def _try(self, name: EngineName, test: _Test, reference: Looked) -> Trial:
        """Try an engine on every member: each has weights of its own."""
        trials = []
        with test.timed():
            if name == "openvino_int8":
                self._members.calibrate(test.window, other_windows(test.image, test.sweep, test.windows))
            for position in range(len(self._members)):
                if position > 0:
                    reference = self._reference(position, test)
                open_again = partial(self._members.open, name, position, test.window)
                trial, opened = try_engine(name, open_again, test.windows, reference)
                if opened is not None and trial.passed:
                    self._members.keep(opened, name, position, test.window)
                trials.append(trial)
                del opened
        return worst(trials)

    def _reference(self, position: int, test: _Test) -> Looked:
        with self._members.engine("torch", position, test.window) as engine:
            return look(engine, test.windows)

    def _lack_of_room(self, test: _Test) -> str | None:
        """What another engine needs beside torch, where that is more than the ceiling allows."""
        if self._max_bytes is None:
            return None
        needed = resident_bytes() + _WEIGHT_COPIES * self._weights_bytes + 2 * test.network_bytes
        if needed <= self._max_bytes:
            return None
        return f"about {bytes_text(needed)} while it is opened, max_ram is {bytes_text(self._max_bytes)}"

    def _key(self, window: Shape) -> dict[str, Any]:
        versions: dict[str, str] = {}
        for name in CANDIDATES:
            versions |= engine_versions(name) if lacking(name) is None else {}
        return {
            "machine": machine(),
            "weights": self._weights,
            "window": list(window),
            "threads": self._members.threads,
            "versions": versions,
        }

    def _known(self, window: Shape) -> Trials:
        """What was measured before."""
        try:
            trials = [Trial.from_json(v) for v in read_answer(self._members.folder, self._key(window)) or []]
        except TypeError:
            return {}
        return {trial.engine: trial for trial in trials}

    def _keep(self, window: Shape, known: Mapping[EngineName, Trial]) -> None:
        """Keep what was measured, but for trials that had nothing to judge by."""
        if self._members.folder is None:
            return
        told = [t.to_json() for t in known.values() if t.parity is None or t.parity.foreground]
        # Without the kept answer the next run measures again, which costs time and nothing else.
        with contextlib.suppress(StorageError):
            write_answer(self._members.folder, self._key(window), told)
