"""`medseg bench inference`: medseg, MONAI and nnU-Net at the same work in one run, in turns."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bench import nnunet_plans
from medseg.bench.children import PROJECT, run_program
from medseg.bench.inference_tasks import ENGINES
from medseg.errors import MissingPackageError

_LONGEST_S = 3600.0
_FEATURES_3D, _FEATURES_2D = (32, 64, 128, 256, 320, 320), (32, 64, 128, 256, 512, 512, 512, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the work is.

    Parameters
    ----------
    window, flat_window : tuple of int
        Of the networks of three and of two axes.
    volume : tuple of int
        Prepared volume that windows go over.
    source, prepared : tuple of int
        Scan, and its grid after resampling.
    classes : int
        Of the logits that go back to the scan's grid.
    case : tuple of int
        Of the one image that is predicted from file to file.
    training_steps : int
        Updates of the network that goes over the volume.
    """

    window: tuple[int, ...] = (128, 128, 128)
    flat_window: tuple[int, ...] = (512, 512)
    volume: tuple[int, ...] = (160, 256, 256)
    source: tuple[int, ...] = (300, 512, 512)
    prepared: tuple[int, ...] = (200, 266, 266)
    classes: int = 10
    case: tuple[int, ...] = (36, 50, 35)
    training_steps: int = 300


QUICK = Sizes(
    window=(64, 64, 64),
    flat_window=(256, 256),
    volume=(80, 128, 128),
    source=(100, 256, 256),
    prepared=(66, 133, 133),
    training_steps=200,
)


@dataclass(slots=True, kw_only=True)
class Measured:
    """One tool at one job, over all repeats.

    Parameters
    ----------
    tool : str
    seconds, peak_mb : list of float
        Of each repeat; memory beyond what the process held before, or all of it for whole processes.
    facts : dict
        What else was found, such as GFLOP/s.
    failed : str
        Why there is no figure; "" where there is one.
    """

    tool: str
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failed: str = ""

    def add(self, found: Mapping[str, Any]) -> None:
        """Take in what a process printed, or how it ended."""
        if "missing" in found or "failed" in found:
            self.failed = str(found.get("failed") or f"not installed ({found['missing']})")
            return
        self.seconds.append(found["seconds"])
        if found.get("peak_mb") is not None:
            self.peak_mb.append(found["peak_mb"])
        if isinstance(found.get("check"), dict):
            self.facts |= found["check"]

    @property
    def median_s(self) -> float | None:
        """Median of the seconds; None where there is none."""
        return median(self.seconds) if self.seconds and not self.failed else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"median_s": self.median_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Tools side by side.

    Parameters
    ----------
    section, name : str
    tools : tuple of Measured
        medseg's default first.
    facts : dict
        What holds for all, such as the machine's limit.
    """

    section: str
    name: str
    tools: tuple[Measured, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def tool(self, name: str) -> Measured | None:
        """A tool by its name."""
        return next((tool for tool in self.tools if tool.tool == name), None)


def _silent(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceBench:
    """A run of the benchmark.

    Parameters
    ----------
    sizes : Sizes
    repeats, threads : int
    nnunet_python : Path or None
        Python of an environment with nnunetv2; None leaves nnU-Net out.
    tell : callable, optional
        Given a line for each measurement, as soon as it is made.
    begun : list of Measured
        What was measured of the section in work, for a run that is stopped.
    """

    sizes: Sizes
    repeats: int
    threads: int
    nnunet_python: Path | None = None
    tell: Callable[[str], None] = _silent
    begun: list[Measured] = field(default_factory=list)

    def in_turns(self, tools: Sequence[tuple[str, Callable[[], Mapping[str, Any]]]]) -> tuple[Measured, ...]:
        """Every tool in its turn, `repeats` times, so that a slow minute of the machine hits all of them."""
        measured = tuple(Measured(tool=name) for name, _ in tools)
        self.begun[:] = measured
        for repeat in range(self.repeats):
            for tool, (_, ask) in zip(measured, tools, strict=True):
                if not tool.failed:
                    tool.add(ask())
                    self.tell(
                        f"{tool.tool}: {tool.failed or f'{tool.seconds[-1]:.3f} s'} ({repeat + 1} of {self.repeats})"
                    )
        return measured

    def task(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        """A task of `inference_tasks` in a process of its own."""
        return self._child(Path(sys.executable), "medseg.bench.inference_tasks", name, arguments)

    def peer(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        """A task of `nnunet_peer` in the environment of nnU-Net."""
        if self.nnunet_python is None:
            return {"failed": "no --nnunet-python was given"}
        return self._child(self.nnunet_python, "medseg.bench.nnunet_peer", name, arguments)

    def environment(self) -> dict[str, str]:
        """Variables of every child: as many threads as asked for, and where medseg lies."""
        threads = str(self.threads)
        path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH", ""))))
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}

    def _child(self, python: Path, module: str, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        command: list[str | Path] = [
            python,
            "-m",
            module,
            name,
            json.dumps({**arguments, "threads": self.threads}),
        ]
        return run_program(command, longest_s=_LONGEST_S, environment=self.environment()).found()

    def require_nnunet(self) -> None:
        """Look whether nnU-Net is where it is said to be.

        Raises
        ------
        MissingPackageError
            The given Python has no nnunetv2.
        """
        if self.nnunet_python is None:
            return
        ended = run_program([self.nnunet_python, "-c", "import nnunetv2"], longest_s=120)
        if ended.failed:
            raise MissingPackageError(
                f"{self.nnunet_python} has no nnunetv2 ({ended.failed}); make an environment for it: python -m venv "
                "nnunet-env, then nnunet-env/bin/pip install nnunetv2"
            )


def network_folder(root: Path, name: str, *, patch: Sequence[int], classes: int) -> Path:
    """plans.json and dataset.json of a stock network; a checkpoint comes with the task `make` of nnU-Net."""
    folder = root / name
    folder.mkdir(exist_ok=True)
    features = _FEATURES_2D if len(patch) == 2 else _FEATURES_3D
    levels = next(n for n in range(len(features), 0, -1) if min(patch) >= 2 ** (n - 1) * 4 or n == 1)
    plans = nnunet_plans.plans(patch=patch, features=features[:levels], spacing_mm=(1.0, 1.0, 1.0))
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(nnunet_plans.dataset(classes)))
    return folder


def agreement(one: Measured, other: Measured) -> dict[str, float] | None:
    """Share of equal voxels and mean Dice of two label maps that were kept; None where one is missing."""
    with contextlib.suppress(KeyError, OSError):
        a, b = (np.load(tool.facts["labels"]) for tool in (one, other))
        return {"equal": float((a == b).mean()), "dice": mean_dice(a, b)}
    return None


def truth_dice(tool: Measured, truth: NDArray[Any]) -> float | None:
    """Mean Dice of a label map that was kept with what was drawn; None where it is missing."""
    with contextlib.suppress(KeyError, OSError):
        return mean_dice(np.load(tool.facts["labels"]), truth)
    return None


def mean_dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Dice of two label maps, averaged over the labels that either has."""
    classes = [n for n in np.union1d(np.unique(a), np.unique(b)) if n]
    scores = [2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in classes]
    return float(np.mean(scores)) if scores else 1.0


def engine_tools(
    bench: InferenceBench, **arguments: Any
) -> list[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """A forward pass by each engine that there is, medseg's default first."""
    return [
        (f"medseg, {name}", lambda name=name: bench.task("forward", engine=name, **arguments))  # type: ignore[misc]
        for name in ENGINES
    ]
