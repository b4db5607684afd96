"""The sections of `medseg bench inference`: what is made, who works on it, what is compared."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bench.anatomy import CLASSES, draw_anatomy
from medseg.bench.children import run_program
from medseg.bench.inference import InferenceBench, Job, agreement, engine_tools, network_folder, truth_dice
from medseg.bench.inference_table import AS_NNUNET, FASTEST, MONAI, NNUNET, SAME_WINDOWS
from medseg.errors import ConfigError, EnvironmentFailure

_LONGEST_S = 900.0
_CLASSES = 3
_FILM_MODEL = "chest-xray-lungs"


def network(bench: InferenceBench, root: Path) -> list[Job]:
    """One window through one network, by engine, beside the machine's fastest convolution."""
    jobs = []
    for dims, window in ((3, bench.sizes.window), (2, bench.sizes.flat_window)):
        folder = network_folder(root, f"network{dims}", patch=window, classes=_CLASSES)
        arguments: dict[str, Any] = {"folder": str(folder), "shape": [1, 1, *window]}
        found = bench.in_turns(
            [
                ("fastest convolution", lambda dims=dims: bench.task("convolution", dims=dims)),  # type: ignore[misc]
                *engine_tools(bench, **arguments),
                ("torch, stock form", lambda a=arguments: bench.task("forward", engine="stock", **a)),  # type: ignore[misc]
                ("nnU-Net", lambda a=arguments: bench.peer("forward", **a)),  # type: ignore[misc]
            ]
        )
        jobs.append(
            Job(section="network", name=f"{dims}-D, {_text(window)}", tools=found[1:], facts=_limit(found))
        )
    return jobs


def _limit(found: Any) -> dict[str, Any]:
    """GFLOP/s of the fastest convolution, and of each tool by the operations that the network has."""
    limit = found[0].facts.get("gflops")
    gflop = next((tool.facts["gflop"] for tool in found[1:] if "gflop" in tool.facts), None)
    for tool in found[1:]:
        if tool.median_s and gflop and limit:
            tool.facts |= {"gflops": gflop / tool.median_s, "share_of_limit": gflop / tool.median_s / limit}
    return {"limit_gflops": limit, "gflop": gflop}


def volume(bench: InferenceBench, root: Path) -> list[Job]:
    """A whole prepared volume, a body with organs in clipped air, to its label map, by one trained network."""
    sizes = bench.sizes
    folder = network_folder(root, "volume", patch=sizes.window, classes=CLASSES)
    made = bench.task("train", folder=str(folder), shape=list(sizes.volume), steps=sizes.training_steps)
    trained = made.get("check", {})
    bench.tell(f"training: {made.get('failed') or trained.get('training')}")
    if not trained:
        raise EnvironmentFailure(f"the network of the section volume could not be trained: {made}")
    image, truth = draw_anatomy(sizes.volume, seed=0)
    np.save(root / "volume.npy", image[None])
    shared: dict[str, Any] = {"folder": str(folder), "image": str(root / "volume.npy")}
    window = list(sizes.window)

    def ours(
        name: str, options: Mapping[str, Any], engine: str = "torch"
    ) -> tuple[str, Callable[[], Mapping[str, Any]]]:
        more = {"out": str(root / f"{name}.npy"), "window": window, "options": dict(options)}
        keeps = {"weights": trained["weights"], "kept": str(root / "engines")}
        return name, lambda: bench.task("volume", **shared, **more, **keeps, engine=engine)

    def peer(name: str, task: Callable[..., Mapping[str, Any]], job: str, **more: Any) -> Any:
        return name, lambda: task(job, **shared, out=str(root / f"{name}.npy"), **more)

    # nnU-Net adds in float16, and counts the rims of windows for less than MONAI does.
    half = {"overlap": 0.5, "average": "logits", "sums": "float16", "steps": "even"}
    found = bench.in_turns(
        [
            ours("medseg", {}),
            ours(SAME_WINDOWS, {"overlap": 0.5, "average": "logits"}),
            ours(AS_NNUNET, half),
            ours("medseg, engine auto", {}, "auto"),
            ours("medseg, windows fitted", {"windows": "fitted"}),
            ours(FASTEST, {"windows": "fitted"}, "auto"),
            ours("medseg, windows fitted, int8", {"windows": "fitted"}, "openvino_int8"),
            peer(MONAI, bench.task, "volume MONAI", window=window, overlap=0.5),
            peer(NNUNET, bench.peer, "volume", step=0.5),
        ]
    )
    named = {tool.tool: tool for tool in found}
    for tool in found:
        tool.facts |= {"with_truth": truth_dice(tool, truth)}
    for peer_name, like in ((MONAI, SAME_WINDOWS), (NNUNET, AS_NNUNET)):
        named[peer_name].facts |= {
            "with_same_windows": agreement(named[like], named[peer_name]),
            "like": like,
        }
    name = f"{_text(sizes.volume)}, windows {_text(sizes.window)}"
    facts = {"training": trained["training"], "air": float((image == 0).mean())}
    return [Job(section="volume", name=name, tools=found, facts=facts)]


def resampling(bench: InferenceBench, root: Path) -> list[Job]:
    """A scan to its prepared grid, order 3."""
    sizes, image = bench.sizes, root / "scan.npy"
    rng = np.random.default_rng(0)
    np.save(image, rng.normal(0, 1, (1, *sizes.source)).astype(np.float32))
    shared: dict[str, Any] = {"image": str(image), "shape": list(sizes.prepared)}
    outs = [root / "resampled-medseg.npy", root / "resampled-nnunet.npy"]
    found = bench.in_turns(
        [
            ("medseg", lambda: bench.task("resample", **shared, out=str(outs[0]))),
            ("nnU-Net", lambda: bench.peer("resample", **shared, out=str(outs[1]))),
        ]
    )
    facts: dict[str, Any] = {}
    if all(out.exists() for out in outs):
        a, b = (np.load(out) for out in outs)
        facts["largest_difference"] = float(np.abs(a - b).max())
    _remove(image, *outs)
    return [
        Job(
            section="resampling",
            name=f"order 3, {_text(sizes.source)} to {_text(sizes.prepared)}",
            tools=found,
            facts=facts,
        )
    ]


def labels(bench: InferenceBench, root: Path) -> list[Job]:
    """Logits of all classes on the prepared grid to a label map on that of the scan."""
    sizes, logits = bench.sizes, root / "logits.npy"
    np.save(logits, smooth_logits(sizes.classes, sizes.prepared))
    folder = network_folder(root, "labels", patch=(64, 64, 64), classes=sizes.classes)
    shared: dict[str, Any] = {"logits": str(logits), "shape": list(sizes.source)}
    spacing = [n / m for n, m in zip(sizes.prepared, sizes.source, strict=True)]
    found = bench.in_turns(
        [
            ("medseg", lambda: bench.task("labels", **shared, out=str(root / "labels-medseg.npy"))),
            (
                "nnU-Net",
                lambda: bench.peer(
                    "labels",
                    **shared,
                    out=str(root / "labels-nnunet.npy"),
                    folder=str(folder),
                    spacing_mm=spacing,
                ),
            ),
        ]
    )
    facts = agreement(found[0], found[1]) or {}
    _remove(logits)
    name = f"{sizes.classes} classes, {_text(sizes.prepared)} to {_text(sizes.source)}"
    return [Job(section="labels", name=name, tools=found, facts=facts)]


def smooth_logits(classes: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Blobs of classes: noise on a grid of every eighth voxel, made larger."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 4, (classes, *(-(-n // 8) + 1 for n in shape))).astype(np.float32)
    found = np.empty((classes, *shape), np.float32)
    for large, small in zip(found, coarse, strict=True):
        fine = ndimage.zoom(small, 8, order=1)
        large[:] = fine[tuple(slice(0, n) for n in shape)]
    return found


def case(bench: InferenceBench, root: Path) -> list[Job]:
    """One image from the start of the program to the file of its mask, both tools with the same network."""
    from medseg.bench.inference_case import nnunet_program, prepare_case

    made = prepare_case(bench, root)
    out = root / "case-out"

    def ours() -> Mapping[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        options = ("--model", made.bundle, "--output", out, "--format", "nifti", "--quiet")
        threads = ("--threads", str(bench.threads))
        return _whole(bench, [sys.executable, "-m", "medseg", "predict", made.image, *options, *threads])

    def theirs() -> Mapping[str, Any]:
        if bench.nnunet_python is None:
            return {"failed": "no --nnunet-python was given"}
        return _whole(bench, nnunet_program(bench.nnunet_python, made, root / "nnunet-out"))

    found = bench.in_turns([("medseg predict", ours), ("nnUNetv2_predict", theirs)])
    facts = made.compare(out, root / "nnunet-out")
    return [Job(section="case", name=f"one image of {_text(bench.sizes.case)}", tools=found, facts=facts)]


def start(bench: InferenceBench, root: Path) -> list[Job]:
    """From the start of `medseg predict` to its first result, one radiograph; and what the imports take of it."""
    from medseg.data.phantoms import write_chest_studies

    write_chest_studies(root, cases=1, seed=1)

    def predicted() -> Mapping[str, Any]:
        out = root / "film-out"
        shutil.rmtree(out, ignore_errors=True)
        options = ("--model", _FILM_MODEL, "--output", out, "--threads", str(bench.threads), "--quiet")
        return _whole(bench, [sys.executable, "-m", "medseg", "predict", root / "studies", *options])

    def imported(what: str) -> Callable[[], Mapping[str, Any]]:
        return lambda: _whole(bench, [sys.executable, "-c", f"import {what}"])

    found = bench.in_turns(
        [
            ("medseg predict, one radiograph", predicted),
            ("of it: Python and medseg's command line", imported("medseg.cli")),
            ("of it: torch", imported("torch")),
        ]
    )
    return [Job(section="start", name="cold start", tools=found)]


def _whole(bench: InferenceBench, command: list[Any]) -> Mapping[str, Any]:
    """A program as a whole: its seconds and its peak."""
    ended = run_program(command, longest_s=_LONGEST_S, environment=bench.environment())
    if ended.failed:
        return {"failed": ended.failed}
    return {"seconds": ended.seconds, "peak_mb": ended.peak_mb}


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


SECTIONS: dict[str, Callable[[InferenceBench, Path], list[Job]]] = {
    "network": network,
    "volume": volume,
    "resampling": resampling,
    "labels": labels,
    "case": case,
    "start": start,
}


def measure_inference(bench: InferenceBench, only: Sequence[str] = ()) -> Iterator[Job]:
    """Run the sections in a temporary folder; each job as soon as it is done.

    Parameters
    ----------
    bench : InferenceBench
    only : sequence of str
        Names of `SECTIONS`; all of them unless given.

    Raises
    ------
    ConfigError
        An unknown section.
    MissingPackageError
        The Python that was given for nnU-Net has none.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: expected one of {', '.join(SECTIONS)}")
    bench.require_nnunet()
    with tempfile.TemporaryDirectory(prefix="medseg-bench-") as name:
        for section in only or SECTIONS:
            bench.tell(f"section {section}")
            bench.begun.clear()
            yield from SECTIONS[section](bench, Path(name))
            bench.begun.clear()
