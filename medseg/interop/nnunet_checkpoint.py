"""Checkpoints of nnU-Net v2, read without running anything that they name.

A checkpoint is a pickle, and a pickle can call any function that it names. Here PyTorch's restricted unpickler reads
it, which knows tensors and plain containers, with NumPy's scalars beside them because nnU-Net logs its scores as such.
Anything else is refused by name before it is looked up.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from medseg.errors import BundleError

# NumPy before 2.0 wrote its module as numpy.core.
_SCALARS: tuple[Any, ...] = tuple(
    (import_module("numpy._core.multiarray").scalar, f"numpy.{module}.multiarray.scalar")
    for module in ("core", "_core")
)
_DTYPES: tuple[Any, ...] = (
    np.dtype,
    *(
        type(np.dtype(kind))
        for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    ),
)
_GLOBAL = re.compile(
    r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)|(?:class|function|type) ([a-z_]\w*\.[\w.]+)"
)
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetCheckpoint:
    """What a prediction needs of a checkpoint.

    Parameters
    ----------
    path : Path
    weights : mapping of str to tensor
        On the CPU.
    trainer : str
        Name of the class that trained it.
    configuration : str
        Key in the plans.
    dataset : str
        `dataset_name` of the plans that it was trained with, "" where it does not say.
    mirror_axes : tuple of int
        Axes of the patch along which images may be mirrored.
    epochs : int
    """

    path: Path
    weights: Mapping[str, Tensor]
    trainer: str
    configuration: str
    dataset: str
    mirror_axes: tuple[int, ...]
    epochs: int

    @property
    def place(self) -> str:
        """Fold and file, for messages."""
        return f"{self.path.parent.name}/{self.path.name}"


def read_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read a checkpoint of nnU-Net v2; code that it names is never run.

    Raises
    ------
    BundleError
        There is no such file, it is cut off or damaged, it asks for something that is neither a tensor nor a plain
        value (the message names it), or it lacks what a prediction needs.
    """
    value = _load(path)
    if not isinstance(value, dict) or not isinstance(value.get("init_args"), dict):
        _refuse(path, "it is no checkpoint of nnU-Net v2: network_weights and init_args are expected in it")
    weights, init = value.get("network_weights"), value["init_args"]
    if not isinstance(weights, dict) or not weights:
        _refuse(path, "it holds no network_weights")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            _refuse(path, f"network_weights must be tensors by name, found {name!r:.60}")
    plans = init.get("plans")
    axes = value.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, tuple | list) or not all(type(axis) is int and 0 <= axis <= 2 for axis in axes):
        _refuse(path, f"inference_allowed_mirroring_axes is {axes!r:.60}, expected axes 0 to 2")
    return NnunetCheckpoint(
        path=path,
        weights=weights,
        trainer=_text(path, value, "trainer_name"),
        configuration=_text(path, init, "configuration"),
        dataset=str(plans.get("dataset_name", "")) if isinstance(plans, dict) else "",
        mirror_axes=tuple(sorted(axes)),
        epochs=_count(value.get("current_epoch")),
    )


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_SCALARS, *_DTYPES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise BundleError(
            f"{path} does not exist; copy the folder of the fold, or name another fold"
        ) from err
    except OSError as err:
        raise BundleError(f"{path} cannot be read: {err.strerror or err}") from err
    except _DAMAGED as err:
        asked = _asked_for(err)
        if asked is not None:
            raise BundleError(
                f"{path.parent.name}/{path.name} asks for {asked}, which is neither a tensor nor a plain value; it is "
                "not read, because a checkpoint could run code that way. Take one that nnU-Net itself has written"
            ) from err
        raise BundleError(
            f"{path} is cut off, damaged or no checkpoint ({_first_line(err)}); copy it again"
        ) from err


def _asked_for(err: BaseException) -> str | None:
    """The function or class that the unpickler would not look up."""
    found = _GLOBAL.search(str(err))
    if isinstance(err, pickle.UnpicklingError) and found is not None:
        return found[1] or found[2]
    return None


def _first_line(err: BaseException) -> str:
    text = str(err).strip()
    return (text.splitlines()[0] if text else type(err).__name__)[:120]


def _text(path: Path, value: Mapping[Any, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found:
        _refuse(path, f"{key} is {found!r:.60}, expected a name")
    return found


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _refuse(path: Path, text: str) -> NoReturn:
    raise BundleError(f"{path.parent.name}/{path.name}: {text}; train with nnunetv2 or copy the file again")
