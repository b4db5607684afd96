"""How long a frame takes from array to mask, and how long `medseg predict` takes from its start to its files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.inference.stream import Latency, Stream

MODEL = "chest-xray-lungs"
SIZE = 512
_WARM = 3
_FRAMES = 20
_IMPORTS = "import torch; import medseg.pipeline.model"


def measure_latency(
    *, repeats: int, model: str = MODEL, size: int = SIZE, threads: Sequence[int] = (1, 2)
) -> list[dict[str, Any]]:
    """Rows of figures with name, unit, p50, p95, largest, count.

    Parameters
    ----------
    repeats : int
        Starts of the program; each figure of frames has twenty times as many.
    model : str
        Bundle of pictures.
    size : int
        Edge of the frames, pixels.
    threads : sequence of int
        Numbers of threads of torch; more than the machine has cores are left out.
    """
    rows = []
    for count in threads:
        if count <= (os.cpu_count() or 1):
            rows.append(_frames(model, size=size, threads=count, repeats=_FRAMES * repeats))
    rows.append(
        _row("medseg predict, one picture, process start to files", _whole_process(model, size, repeats))
    )
    rows.append(_row("imports of medseg predict, whole process", _imports(repeats)))
    return rows


def to_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for people."""
    return [
        f"{row['name']:<58} p50 {row['p50']:>8.1f} ms   p95 {row['p95']:>8.1f} ms   "
        f"max {row['largest']:>8.1f} ms   n={row['count']}"
        for row in rows
    ]


def _frames(model: str, *, size: int, threads: int, repeats: int) -> dict[str, Any]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stream = Stream(model)
        pictures = [_picture(size, seed) for seed in range(4)]
        for picture in pictures[:_WARM]:
            stream.segment(picture)
        stream.reset()
        for repeat in range(repeats):
            stream.segment(pictures[repeat % len(pictures)])
    finally:
        torch.set_num_threads(before)
    return _row(f"{model}, {size} x {size} frame to mask, {threads} threads", stream.latency)


def _row(name: str, latency: Latency) -> dict[str, Any]:
    milliseconds = {key: 1000 * getattr(latency, key) for key in ("p50", "p95", "largest")}
    return {"name": name, "unit": "ms", **milliseconds, "count": latency.count}


def _picture(size: int, seed: int) -> NDArray[np.uint8]:
    """(rows, columns) picture of a chest phantom."""
    from PIL import Image

    from medseg.data.phantoms import make_chest_phantom

    film = make_chest_phantom(seed).image.T
    gray = Image.fromarray(np.round(255 * np.clip(film, 0, 1)).astype(np.uint8))
    return np.asarray(gray.resize((size, size), Image.Resampling.BOX))


def _whole_process(model: str, size: int, starts: int) -> Latency:
    from PIL import Image

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.png"
        Image.fromarray(_picture(size, 0)).save(film)
        for start in range(starts):
            output = Path(folder) / f"out{start}"
            command = [
                sys.executable,
                "-m",
                "medseg",
                "predict",
                str(film),
                "--model",
                model,
                "--output",
                str(output),
            ]
            begin = time.perf_counter()
            subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
    return Latency.of(seconds)


def _imports(starts: int) -> Latency:
    seconds = []
    for _ in range(starts):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
        seconds.append(time.perf_counter() - begin)
    return Latency.of(seconds)
