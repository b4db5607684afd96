"""The full state of a training, written whole or not at all, checked before it is used.

A checkpoint is one file `state-<update>-<hash>.pt`. The hash in the name is that of the bytes, so one
rename publishes both. The two newest are kept: a damaged one is named and the one before it is used.
Files are read with `weights_only`: tensors and plain values, no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from medseg.errors import ConfigError, StorageError
from medseg.provenance import sha256_file, sha256_json, sweep_parts, whole_file

_LOG = logging.getLogger(__name__)
_STATE = re.compile(r"state-(\d{9})-([0-9a-f]{16})\.pt")
KEPT = 2
FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A state that was read, its file, and the newer files that were damaged, with a sentence about each."""

    state: dict[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], *, update: int, settings: Mapping[str, Any]
) -> Path:
    """Write the state after update number `update` and remove all but the two newest.

    Parameters
    ----------
    folder : Path
    state : mapping
        Tensors and plain values; `state["files"]`, where given, lists weight files it refers to,
        which are kept as long as the checkpoint is.
    update : int
        Number of updates made.
    settings : mapping
        JSON values that decide the result; a later run with others is refused.

    Raises
    ------
    StorageError
        The folder cannot be written; the earlier checkpoints are left as they were.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "settings": dict(settings), "state": dict(state)}, buffer)
    content = buffer.getbuffer()
    path = folder / f"state-{update:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    with whole_file(path) as part:
        part.write_bytes(content)
    for _, old in _generations(folder)[KEPT:]:
        _remove(old)
    return path


def load_checkpoint(folder: Path, *, settings: Mapping[str, Any]) -> LoadedCheckpoint | None:
    """The newest intact state, or None where the folder has none.

    Raises
    ------
    ConfigError
        The state was made with other settings, or by another release; the message names them.
    StorageError
        There are checkpoints, and all are damaged.
    """
    if not folder.is_dir():
        return None
    sweep_parts(folder)
    skipped: list[str] = []
    damage: list[str] = []
    for digest, path in _generations(folder):
        content = _read(path, digest)
        if isinstance(content, str):
            skipped.append(path.name)
            damage.append(f"the checkpoint {path.name} is damaged: {content}")
            _LOG.warning("%s; the one before it is used", damage[-1])
            continue
        _check_format(content, path)
        _check_settings(content["settings"], settings, path)
        return LoadedCheckpoint(
            state=content["state"], path=path, skipped=tuple(skipped), damage=tuple(damage)
        )
    if skipped:
        raise StorageError(
            f"all checkpoints in {folder} are damaged ({'; '.join(damage)}); "
            "remove them to train from the start"
        )
    return None


def remove_damaged(folder: Path, names: tuple[str, ...]) -> None:
    """Remove checkpoints that `load_checkpoint` skipped, once a good one has been written after them."""
    for name in names:
        _remove(folder / name)


def _generations(folder: Path) -> list[tuple[str, Path]]:
    """(hash in the name, path) of all checkpoints, the newest first."""
    found = [(match, path) for path in folder.iterdir() if (match := _STATE.fullmatch(path.name))]
    # Two files of one update: a continued run that wrote it again; the later one counts first.
    found.sort(key=lambda item: (int(item[0][1]), item[1].stat().st_mtime_ns), reverse=True)
    return [(match[2], path) for match, path in found]


def _read(path: Path, digest: str) -> dict[str, Any] | str:
    """The content, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as err:
        raise StorageError(f"cannot read the checkpoint {path}: {err.strerror}") from err
    found = hashlib.sha256(content).hexdigest()[:16]
    if found != digest:
        return f"its digest is {found}, expected {digest}"
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as err:
        return f"it cannot be read without running code ({type(err).__name__})"
    return value if isinstance(value, dict) else "it holds no state"


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    found = content.get("format")
    if found != FORMAT:
        raise ConfigError(
            f"the checkpoint {path} has format {found}, that of another release of medseg; this one reads format "
            f"{FORMAT}; go on with that release, or remove the state-*.pt files to train from the start"
        )


def _check_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    if sha256_json(found) == sha256_json(wanted):
        return
    old, new = _flat(found), _flat(wanted)
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    shown = "; ".join(f"{k}: {old.get(k, 'absent')} then, {new.get(k, 'absent')} now" for k in differing[:4])
    more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise ConfigError(
        f"the checkpoint {path} was made with other settings ({shown}{more}); "
        "use the same settings, or another output folder"
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [_flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
        return {key: inner for item in items for key, inner in item.items()}
    return {prefix: value}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def save_weights(path: Path, state: Mapping[str, Tensor]) -> str:
    """Write network weights as safetensors, whole or not at all; the SHA-256 of the file.

    Equal weights give equal bytes.
    """
    content = weights_bytes(state)
    with whole_file(path) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def weights_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Network weights in safetensors form: on the CPU, contiguous, in the order of names."""
    plain = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    content: bytes = safetensors_bytes(plain)
    return content


def save_named_weights(folder: Path, stem: str, state: Mapping[str, Tensor]) -> Path:
    """Write weights as `<stem>-<hash>.safetensors`, so that the name says whether they are intact."""
    content = weights_bytes(state)
    path = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not weights_intact(path):
        with whole_file(path) as part:
            part.write_bytes(content)
    return path


def weights_intact(path: Path) -> bool:
    """Whether a file of `save_named_weights` is there and its bytes fit its name."""
    return path.is_file() and sha256_file(path)[:16] == path.stem.rsplit("-", 1)[-1]
