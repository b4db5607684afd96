"""Checkpoints: whole, checked, two generations, no code."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medseg.errors import ConfigError, StorageError
from medseg.provenance import sha256_file
from medseg.training.checkpoint import (
    load_checkpoint,
    remove_damaged,
    save_checkpoint,
    save_named_weights,
    save_weights,
    weights_intact,
)

SETTINGS = {"training": {"learning_rate": 0.1, "loss": {"use": "dice"}}, "seed": 3}


def state(update: int) -> dict[str, Any]:
    return {
        "network": {"weight": torch.full((2, 3), float(update))},
        "rng": torch.get_rng_state(),
        "history": [{"epoch": 1, "loss": 0.1 + 0.2, "dice": None}],
        "best": None,
    }


def test_a_state_comes_back_exactly(tmp_path):
    value = state(4)
    value["network"]["weight"] = torch.rand(3, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    path = save_checkpoint(tmp_path, value, update=4, settings=SETTINGS)
    found = load_checkpoint(tmp_path, settings=SETTINGS)
    assert found is not None
    assert (found.path, found.skipped) == (path, ())
    assert torch.equal(found.state["network"]["weight"], value["network"]["weight"])
    assert found.state["network"]["weight"].stride() == value["network"]["weight"].stride()
    assert torch.equal(found.state["rng"], value["rng"])
    assert found.state["history"] == value["history"]
    assert path.name == f"state-000000004-{sha256_file(path)[:16]}.pt"


def test_an_empty_or_missing_folder_has_no_state(tmp_path):
    assert load_checkpoint(tmp_path, settings=SETTINGS) is None
    assert load_checkpoint(tmp_path / "none", settings=SETTINGS) is None


def test_two_generations_are_kept(tmp_path):
    paths = [save_checkpoint(tmp_path, state(n), update=n, settings=SETTINGS) for n in (9, 10, 11)]
    assert sorted(tmp_path.iterdir()) == paths[1:]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_skipped_by_name(tmp_path, damage):
    old = save_checkpoint(tmp_path, state(1), update=1, settings=SETTINGS)
    new = save_checkpoint(tmp_path, state(2), update=2, settings=SETTINGS)
    content = new.read_bytes()
    new.write_bytes(
        {
            "cut": content[:-1],
            "flip": content[:400] + bytes([content[400] ^ 4]) + content[401:],
            "empty": b"",
        }[damage]
    )
    found = load_checkpoint(tmp_path, settings=SETTINGS)
    assert found is not None
    assert (found.path, found.skipped) == (old, (new.name,))
    assert found.state["network"]["weight"][0, 0] == 1
    remove_damaged(tmp_path, found.skipped)
    assert list(tmp_path.iterdir()) == [old]


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    for number in (1, 2):
        save_checkpoint(tmp_path, state(number), update=number, settings=SETTINGS).write_bytes(b"")
    with pytest.raises(
        StorageError, match=r"all checkpoints in .* are damaged .*remove them to train from the start"
    ):
        load_checkpoint(tmp_path, settings=SETTINGS)


def test_code_in_a_file_is_not_run_even_where_its_hash_fits(tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    buffer = io.BytesIO()
    torch.save({"format": 1, "settings": SETTINGS, "state": Evil()}, buffer, pickle_module=pickle)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    (tmp_path / f"state-000000001-{digest}.pt").write_bytes(buffer.getvalue())
    with pytest.raises(StorageError, match="damaged"):
        load_checkpoint(tmp_path, settings=SETTINGS)
    assert not (tmp_path / "ran").exists()


def test_other_settings_are_named(tmp_path):
    save_checkpoint(tmp_path, state(1), update=1, settings=SETTINGS)
    other = {"training": {"learning_rate": 0.2, "loss": {"use": "dice", "smooth": 1}}, "seed": 3}
    with pytest.raises(
        ConfigError,
        match=r"\(training.learning_rate: 0.1 then, 0.2 now; training.loss.smooth: absent then, 1 now\); "
        "use the same settings, or another output folder",
    ):
        load_checkpoint(tmp_path, settings=other)


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, monkeypatch):
    paths = [save_checkpoint(tmp_path, state(n), update=n, settings=SETTINGS) for n in (1, 2)]

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.provenance.os.replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_checkpoint(tmp_path, state(3), update=3, settings=SETTINGS)
    assert sorted(tmp_path.iterdir()) == paths


def test_leftovers_of_a_killed_process_are_swept(tmp_path):
    (tmp_path / ".state-000000009-0.pt.123.medseg-part.pt").write_bytes(b"half")
    assert load_checkpoint(tmp_path, settings=SETTINGS) is None
    assert not list(tmp_path.iterdir())


def test_equal_weights_give_equal_bytes_in_any_order_and_layout(tmp_path):
    a, b = torch.rand(2, 3, 4, 5), torch.rand(7)
    first = save_weights(tmp_path / "1.safetensors", {"a": a, "b": b})
    second = save_weights(
        tmp_path / "2.safetensors", {"b": b, "a": a.contiguous(memory_format=torch.channels_last)}
    )
    assert first == second == sha256_file(tmp_path / "2.safetensors")
    assert torch.equal(load_file(tmp_path / "2.safetensors")["a"], a)


def test_the_name_of_weights_tells_whether_they_are_intact(tmp_path):
    path = save_named_weights(tmp_path, "best-00003", {"a": torch.ones(3)})
    assert path.name.startswith("best-00003-")
    assert weights_intact(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not weights_intact(path)
    assert weights_intact(save_named_weights(tmp_path, "best-00003", {"a": torch.ones(3)}))
    assert not weights_intact(tmp_path / "best-1-0.safetensors")
