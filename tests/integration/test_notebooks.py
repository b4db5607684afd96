"""Every notebook runs from its first cell to its last, in less than two minutes of two cores."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
MOST_CPU_S = 240.0
"""Two minutes of two cores. Processor time: how long it takes beside other work says nothing about the notebook."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    # What Jupyter and its kernel warn of is not ours to change.
    pytest.mark.filterwarnings("ignore"),
]


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch, tmp_path):
    if "import pandas" in path.read_text(encoding="utf-8"):
        pytest.importorskip("pandas")
        pytest.importorskip("matplotlib")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    before = cpu_s()
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
    assert cpu_s() - before < MOST_CPU_S
