"""What `medseg serve` says where settings cannot be used, or a package of its extra is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = """
import os, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == os.environ["MISSING"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from medseg.cli import main
sys.argv = ["medseg", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.parametrize("option", [["--check"], []])
def test_what_cannot_be_used_is_told_with_the_file(tmp_path: Path, option: list[str]):
    for package in ("sqlalchemy", "pynetdicom", "fastapi"):
        pytest.importorskip(package, reason="needs medseg[node]")
    settings = tmp_path / "node.yaml"
    settings.write_text("medseg_node: 1\nfolder: x\nrules: [{name: chest, model: chest-xray-lung}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "serve", str(settings), *option],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.splitlines()[-1].startswith(f"error: {settings}: rule chest: there is no bundle")
    assert done.returncode == 2


@pytest.mark.parametrize("missing", ["sqlalchemy", "pynetdicom", "fastapi"])
def test_a_missing_package_is_told_with_the_extra(tmp_path: Path, missing: str):
    pytest.importorskip(missing, reason="needs medseg[node]")
    settings = tmp_path / "node.yaml"
    settings.write_text("medseg_node: 1\nfolder: x\nrules: [{name: chest, model: chest-xray-lungs}]\n")
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, "serve", str(settings), "--check"],
        env=os.environ | {"MISSING": missing},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == f"error: the node needs {missing}; pip install 'medseg[node]'\n"
    assert done.returncode == 4
