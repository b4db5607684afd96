"""Notebooks: outputs stripped, nothing defined, words before code."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
_TEMPLATE = {"kernelspec", "language_info"}


def cells(path, kind):
    return [
        cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind
    ]


def test_the_notebooks_are_found():
    assert {path.stem for path in NOTEBOOKS} >= {
        "first_run_radiographs", "train_3d_and_compare", "report_tables_pandas",
    }  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_and_traces_of_a_run_are_stripped(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert set(book["metadata"]) <= _TEMPLATE
    assert book["metadata"]["language_info"] == {"name": "python"}
    for cell in cells(path, "code"):
        assert cell["outputs"] == [], "".join(cell["source"])
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tours_the_package_and_defines_nothing(path):
    for cell in cells(path, "code"):
        tree = ast.parse("".join(cell["source"]))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert first["cell_type"] == "markdown"
    assert first["source"][0].startswith("# ")
