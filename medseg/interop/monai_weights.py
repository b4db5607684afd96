"""Weights of others from a checkpoint file, through torch's loader that builds tensors and nothing else."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.errors import BundleError

_STATES = ("model", "state_dict", "network", "net", "model_state_dict", "module")
_GLOBAL = re.compile(r"(?:GLOBAL|global)[: ]+([A-Za-z_][\w.]*)")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Parameters
    ----------
    path : Path
        What `torch.save` wrote: a state, or a mapping that has one under `model`, `state_dict` or `network`.

    Raises
    ------
    BundleError
        The file is missing, is TorchScript, holds anything but tensors and plain values, or is damaged.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing; expected the weights of the network")
    if _is_torchscript(path):
        raise BundleError(
            f"{path} is TorchScript, a program with its weights, which medseg does not run; give the file "
            "of the weights "
            "(models/model.pt of most bundles) with --weights"
        )
    return _state(_loaded(path), path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _loaded(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # It warns of pickle protocols that it then refuses or reads.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        found = _GLOBAL.search(str(err))
        what = f"names {found[1]}, which is code" if found else "holds more than tensors and plain values"
        raise BundleError(
            f"{path} {what} and would have to be executed, which medseg never does; ask its authors for a "
            "file with the "
            "state_dict alone"
        ) from err
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as err:
        raise BundleError(
            f"{path} is damaged or was not written by torch.save: {str(err).splitlines()[0]}"
        ) from err


def _state(value: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if not isinstance(value, Mapping) or not value:
            break
        if all(isinstance(item, Tensor) for item in value.values()):
            return {str(name): item for name, item in value.items()}
        value = next((value[key] for key in _STATES if isinstance(value.get(key), Mapping)), None)
    raise BundleError(
        f"{path} holds no state of a network: expected tensors by name, or a mapping with one of {', '.join(_STATES)}"
    )
