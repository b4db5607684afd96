"""Checkpoints are data: what is not, is refused by name and never run."""

from __future__ import annotations

import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_model import checkpoint

from medseg.errors import BundleError
from medseg.interop.nnunet_checkpoint import read_checkpoint

ABOUT = {"plans": {"dataset_name": "Dataset999_Made"}, "about": {}, "configuration": "3d_fullres"}


class Calls:
    """What its pickle calls when it is read."""

    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


def write(path: Path, **more) -> Path:
    checkpoint(path, {"encoder.weight": torch.ones(2)}, mirror=(0, 2), **ABOUT, **more)
    return path


def test_what_a_prediction_needs_is_read(tmp_path):
    found = read_checkpoint(write(tmp_path / "fold_0" / "checkpoint_final.pth"))
    assert (found.trainer, found.configuration, found.dataset) == (
        "nnUNetTrainer",
        "3d_fullres",
        "Dataset999_Made",
    )
    assert found.mirror_axes == (0, 2)
    assert found.epochs == 1000
    assert torch.equal(found.weights["encoder.weight"], torch.ones(2))
    assert found.place == "fold_0/checkpoint_final.pth"


def test_numpy_before_2_named_its_scalars_otherwise(tmp_path):
    path = write(tmp_path / "checkpoint_final.pth", _best_ema=np.float64(1.5))
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            new.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_checkpoint(path).epochs == 1000


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda marker: Calls(os.system, f"touch {marker}"), r"posix\.system|nt\.system"),
        (
            lambda marker: Calls(subprocess.check_call, ["touch", str(marker)]),
            r"(subprocess|commands)\.check_call",
        ),
        (lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"), r"(builtins\.)?eval"),
        (lambda _: Calls(getattr, "text", "format"), r"(builtins\.)?getattr"),
        (lambda _: np.arange(3.0), r"numpy\._core\.multiarray\._reconstruct"),
    ],
)
def test_code_is_refused_by_name_and_never_run(tmp_path, value, name):
    marker = tmp_path / "was_run"
    path = write(tmp_path / "fold_3" / "checkpoint_final.pth", logging=value(marker))
    with pytest.raises(
        BundleError, match=rf"fold_3/checkpoint_final.pth asks for ({name}), .*could run code"
    ):
        read_checkpoint(path)
    assert not marker.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'was_run'}"), protocol=2))
    with pytest.raises(BundleError, match=r"checkpoint_final.pth"):
        read_checkpoint(path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_files_that_are_cut_off_say_so(tmp_path, share):
    path = write(tmp_path / "checkpoint_final.pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match=r"cut off, damaged or no checkpoint"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    path.write_text("this is not a checkpoint")
    with pytest.raises(BundleError, match=r"damaged or no checkpoint"):
        read_checkpoint(path)
    with pytest.raises(BundleError, match=r"does not exist"):
        read_checkpoint(tmp_path / "fold_9" / "checkpoint_final.pth")
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(BundleError, match=r"no checkpoint of nnU-Net v2"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"network_weights": {}}, "holds no network_weights"),
        ({"network_weights": {"a": 3}}, "must be tensors by name, found 'a'"),
        ({"inference_allowed_mirroring_axes": (0, 7)}, "expected axes 0 to 2"),
        ({"trainer_name": None}, "trainer_name is None"),
        ({"init_args": {}}, "configuration is None"),
    ],
)
def test_what_is_missing_is_named(tmp_path, more, match):
    with pytest.raises(BundleError, match=match):
        read_checkpoint(write(tmp_path / "checkpoint_final.pth", **more))
