"""`medseg data import` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.cli import app
from medseg.data.manifest import read_manifest
from medseg.errors import ConfigError


def medseg(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "medseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def folders(tmp_path):
    for name in ("images/a.nii.gz", "images/b.nii.gz", "masks/a_mask.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 2), np.uint8), np.diag([1, 2, 3, 1.0])), tmp_path / name)
    return tmp_path


def test_broken_then_skipped(folders):
    arguments = ("data", "import", "images", "--labels", "masks", "-o", "m.csv", "--label-name", "1=liver")
    done = medseg(*arguments, cwd=folders)
    assert (done.returncode, done.stdout) == (2, "")
    assert "case b: the image has no mask" in done.stderr
    assert not (folders / "m.csv").exists()
    done = medseg(*arguments, "--skip-broken", "--json", cwd=folders)
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert (facts["cases"], facts["labels"], len(facts["left_out"])) == (1, {"liver": 1}, 1)
    (case,) = read_manifest(folders / "m.csv")
    assert case.label == folders / "masks" / "a_mask.nii.gz"
    assert "images/a.nii.gz" in (folders / "m.csv").read_text()


def test_what_was_imported_is_told_without_terminal_codes(folders):
    nib.save(nib.load(folders / "masks" / "a_mask.nii.gz"), folders / "masks" / "b.nii")
    arguments = ["data", "import", str(folders / "images"), "--labels", str(folders / "masks"), "-q"]
    done = CliRunner().invoke(
        app, [*arguments, "-o", str(folders / "m.csv"), "--label-name", "3=li\x1b[2Jver"]
    )
    assert done.exit_code == 0
    assert done.stdout == f"{folders / 'm.csv'}\n"
    assert "folders: 2 cases of 2 patients, 2 with a mask\nlabels: 3 li?[2Jver\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--kind", "nnuent"), "--kind is one of auto, nnunet, msd, bids, folders, found 'nnuent'"),
        (("--label-name", "liver"), "--label-name 'liver': expected VALUE=NAME"),
        (("--label-name", "1=a", "--label-name", "1=b"), "names the value 1 twice"),
    ],
)
def test_options_are_checked_first(folders, arguments, text):
    output = str(folders / "m.csv")
    done = CliRunner().invoke(app, ["data", "import", str(folders / "images"), "-o", output, *arguments])
    assert isinstance(done.exception, ConfigError)
    assert text in str(done.exception)


def test_no_torch_is_imported(folders):
    code = """
import sys
from pathlib import Path
from medseg.data.importers.front import import_dataset
from medseg.data.importers.records import ImportOptions
import_dataset(Path("images"), Path("m.csv"), ImportOptions(labels=Path("masks"), keep_unlabelled=True))
sys.exit(", ".join(m for m in ("torch", "monai", "SimpleITK") if m in sys.modules) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folders, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
