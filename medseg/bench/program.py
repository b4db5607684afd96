"""Start of the program, training and prediction: medians measured on this machine, in this run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError

Row = dict[str, Any]
_BATCH, _SIZE, _STEPS = 16, 256, 6
_MODEL = "chest-xray-lungs"


def bench(what: str, *, repeats: int) -> list[Row]:
    """Measure and return rows with name, unit, median, low, high, count.

    Parameters
    ----------
    what : str
        ``start``, ``train``, ``predict`` or ``all``.
    repeats : int
        Measurements of each figure.
    """
    parts: dict[str, Callable[[int], Iterator[Row]]] = {"start": _start, "train": _train, "predict": _predict}
    if what != "all" and what not in parts:
        raise ConfigError(
            f"no benchmark {what!r}; there are: {', '.join(parts)}, all, latency, io, inference, metrics, node"
        )
    chosen = parts.values() if what == "all" else [parts[what]]
    return [row for part in chosen for row in part(repeats)]


def _row(name: str, unit: str, values: list[float]) -> Row:
    return {
        "name": name,
        "unit": unit,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "count": len(values),
    }


def _start(repeats: int) -> Iterator[Row]:
    for arguments in (["--help"], ["models"], ["schema"]):
        values = []
        for _ in range(repeats):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "medseg", *arguments], check=True, stdout=subprocess.DEVNULL
            )
            values.append(time.perf_counter() - begin)
        yield _row(f"medseg {arguments[0]}, whole process", "s", values)


def _train(repeats: int) -> Iterator[Row]:
    import torch

    from medseg.models.bundle import read_bundle
    from medseg.models.registry import build_network
    from medseg.training.loss_options import DiceCrossEntropyOptions
    from medseg.training.losses import build_loss

    bundle = read_bundle(_MODEL)
    table = bundle.table
    network = build_network(
        bundle.network, spatial_dims=2, in_channels=1, class_count=table.class_count, seed=0
    )
    loss = build_loss(DiceCrossEntropyOptions(), set_matrix=table.set_matrix, regions={})
    optimiser = torch.optim.AdamW(network.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(_BATCH, 1, _SIZE, _SIZE, generator=generator)
    label = torch.randint(0, table.class_count, (_BATCH, 1, _SIZE, _SIZE), generator=generator)
    values = []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        for _ in range(_STEPS):
            optimiser.zero_grad()
            loss(network(image), label).backward()
            optimiser.step()
        if repeat:  # The first one warms up.
            values.append(_BATCH * _STEPS / (time.perf_counter() - begin))
    yield _row(f"training {bundle.network.use}, batch {_BATCH}, {_SIZE} px", "images/s", values)


def _predict(repeats: int) -> Iterator[Row]:
    from medseg.data.phantoms import write_chest_studies
    from medseg.io.discover import discover
    from medseg.io.read import read_image
    from medseg.models.bundle import read_bundle
    from medseg.pipeline.model import LoadedModel

    with tempfile.TemporaryDirectory() as folder:
        write_chest_studies(Path(folder), cases=12, seed=1)
        paths = [image.paths for image in discover([Path(folder) / "studies"]).images]
        model = LoadedModel(read_bundle(_MODEL))
        values = []
        for repeat in range(repeats + 1):
            for path in paths:
                begin = time.perf_counter()
                model.predictor.predict(read_image(path))
                if repeat:
                    values.append(time.perf_counter() - begin)
        yield _row("reading and segmenting one radiograph", "s", values)
        begin = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "medseg", "predict", str(Path(folder) / "studies")),
                *("--model", _MODEL, "--output", str(Path(folder) / "out"), "--quiet"),
            ],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        yield _row("medseg predict, 12 films, whole process", "s", [time.perf_counter() - begin])
