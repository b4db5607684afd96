"""What goes wrong with disk, memory and checkpoints, and that what is kept stays good."""

from __future__ import annotations

import errno
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from medseg.errors import ConfigError, EnvironmentFailure, Interrupted, StorageError
from medseg.provenance import sha256_file
from medseg.training import checkpoint
from medseg.training.records import Progress


class Failing:
    """A function that fails at one call with an error of the system."""

    def __init__(self, function: Any, call: int, number: int) -> None:
        self.function, self.call, self.number, self.calls = function, call, number, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            raise OSError(self.number, os.strerror(self.number))
        return self.function(*args, **named)


def failure(folder: Path) -> StorageError | None:
    """What a short training ends with."""
    try:
        tiny.run(folder, epochs=2)
    except StorageError as err:
        return err
    return None


@pytest.mark.parametrize(("name", "number"), [("replace", errno.ENOSPC), ("fsync", errno.EROFS)])
def test_a_disk_that_fails_at_any_call_leaves_a_folder_that_goes_on(tmp_path, monkeypatch, name, number):
    expected = tiny.run(tmp_path / "whole", epochs=2)
    texts: list[str] = []
    # Later calls repeat the first ones.
    for call in (1, 2, 3, 4, 5, 6, 13, 20, 27, 99):
        folder = tmp_path / f"{call}"
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Failing(getattr(os, name), call, number))
            error = failure(folder)
        if error is None:
            break
        texts.append(str(error))
        assert not list(folder.glob(".*")), "no temporary file stays"
        assert tiny.run(folder, epochs=2).weights_sha256 == expected.weights_sha256
    assert len(texts) >= 5
    for text in texts:
        assert os.strerror(number) in text
        assert "free space or change --output" in text


def test_a_full_disk_at_a_checkpoint_names_the_one_that_is_kept(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Failing(os.replace, 2, errno.ENOSPC))
        with pytest.raises(
            StorageError,
            match=r"No space left on device.*free; the last good checkpoint is .*state-000000001-",
        ):
            tiny.run(tmp_path)


def test_memory_that_runs_out_in_python_or_in_the_validation_is_explained(tmp_path):
    class Hungry(tiny.CrossEntropy):
        def forward(self, logits: Any, label: torch.Tensor) -> torch.Tensor:
            raise MemoryError("Unable to allocate 9.3 GiB")

    with pytest.raises(EnvironmentFailure, match=r"out of memory at epoch 1, step 1.*9.3 GiB.*patch_size"):
        tiny.run(tmp_path / "a", loss=Hungry())

    def validate(network: Any) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EnvironmentFailure, match=r"out of memory at the validation of epoch 1"):
        tiny.run(tmp_path / "b", validate=validate)


def test_a_checkpoint_of_another_network_names_shapes(tmp_path):
    tiny.run(tmp_path, network=tiny.build_network(width=8))
    with pytest.raises(ConfigError, match=r"network.encoder.0.bias: 8 then, 4 now"):
        tiny.run(tmp_path, network=tiny.build_network(width=4))


def test_a_checkpoint_of_another_release_is_not_called_damaged(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        tiny.run(tmp_path, epochs=1)
    with pytest.raises(
        ConfigError, match=r"format 1, that of another release of medseg; this one reads format 2"
    ):
        tiny.run(tmp_path, epochs=1)


@pytest.mark.parametrize("harm", ["cut", "zero", "flip", "empty"])
def test_a_damaged_checkpoint_is_named_with_its_digests_and_the_one_before_is_used(tmp_path, harm):
    expected = tiny.run(tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "cut", progress=stop)
    newest = max((tmp_path / "cut").glob("state-*.pt"))
    damage(newest, harm)
    told: list[str] = []
    result = tiny.run(tmp_path / "cut", tell=told.append)
    found, wanted = sha256_file_of(harm, newest), newest.stem.rsplit("-", 1)[-1]
    assert told[0].startswith(
        f"the checkpoint {newest.name} is damaged: its digest is {found}, expected {wanted};"
    )
    assert told[1] == "the training goes on in epoch 2, step 2 of 3"
    assert result.weights_sha256 == expected.weights_sha256


DIGESTS: dict[str, str] = {}


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[-200:]
    elif how == "zero":
        content[100:4000] = bytes(3900)
    elif how == "flip":
        content[len(content) // 2] ^= 4
    else:
        content.clear()
    path.write_bytes(content)
    DIGESTS[how] = sha256_file(path)[:16]


def sha256_file_of(how: str, _: Path) -> str:
    return DIGESTS[how]


def test_all_checkpoints_damaged_is_an_error_that_says_what_to_do(tmp_path):
    tiny.run(tmp_path)
    for path in tmp_path.glob("state-*.pt"):
        path.write_bytes(b"<html>")
    with pytest.raises(
        StorageError, match=r"all checkpoints in .* are damaged .*remove them to train from the start"
    ):
        tiny.run(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    buffer = io.BytesIO()
    torch.save({"format": 2, "settings": {}, "state": Evil()}, buffer)
    content = buffer.getvalue()
    folder = tmp_path / "run"
    folder.mkdir()
    import hashlib

    (folder / f"state-000000003-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read without running code"):
        tiny.run(folder)
    assert not marker.exists()


def test_a_hangup_saves_and_nohup_stays_deaf_to_it(tmp_path):
    def hang_up(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Interrupted, match="stopped by SIGHUP"):
        tiny.run(tmp_path / "a", progress=hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tiny.run(tmp_path / "b", progress=hang_up).epochs_run == 3
    finally:
        signal.signal(signal.SIGHUP, before)
