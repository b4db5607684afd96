"""What each engine needs to be installed. Imports neither torch nor any of it."""

from __future__ import annotations

import os
import shutil
from importlib import metadata, util

from medseg.errors import MissingPackageError
from medseg.inference.options import EngineName

_PACKAGES: dict[EngineName, tuple[tuple[str, ...], str]] = {
    "torch": ((), ""),
    "compile": ((), ""),
    "openvino": (("openvino",), "openvino"),
    "openvino_int8": (("openvino",), "openvino"),
    "onnxruntime": (("onnxruntime", "onnx", "onnxscript"), "onnx"),
}


def lacking(name: EngineName) -> str | None:
    """What an engine needs that is not here, with the way to get it; None where nothing is missing."""
    packages, extra = _PACKAGES[name]
    if any(util.find_spec(package) is None for package in packages):
        return f"engine {name} is not installed; pip install 'medseg[{extra}]'"
    if name == "compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "engine compile needs a C++ compiler; install g++, or name one in the variable CXX"
    return None


def require_engine(name: EngineName) -> None:
    """Refuse an engine that is not installed.

    Raises
    ------
    MissingPackageError
        Names what is missing.
    """
    text = lacking(name)
    if text is not None:
        raise MissingPackageError(text)


def engine_versions(name: EngineName) -> dict[str, str]:
    """Versions of the packages that an engine's answer depends on."""
    return {package: metadata.version(package) for package in ("torch", *_PACKAGES[name][0])}
