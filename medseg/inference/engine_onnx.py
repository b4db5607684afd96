"""Engine onnxruntime. Import it where one is opened; the packages are optional."""

from __future__ import annotations

import logging
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.inference.engine_files import keep, kept
from medseg.inference.engines import Engine, EngineFailure, EngineSpec, Load, first_line
from medseg.models.inference_form import for_export
from medseg.provenance import versions

_FILES = ("model.onnx",)


def open_onnxruntime(load: Load, spec: EngineSpec) -> Engine:
    """An engine that runs ONNX Runtime on the CPU.

    Parameters
    ----------
    load : callable
        Not asked where the network is kept on disk.
    spec : EngineSpec

    Raises
    ------
    EngineFailure
        The network cannot be exported or run.
    """
    import onnxruntime

    key = _key(spec)
    try:
        place = kept(spec.folder, key, _FILES)
        if place is None:
            place = keep(spec.folder, key, _FILES, lambda part: _export(load, spec, part))
        if place is not None:
            return _runner(_session(onnxruntime, place, spec.threads))
        with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
            _export(load, spec, Path(folder))
            return _runner(_session(onnxruntime, Path(folder), spec.threads))
    except _failures() as err:
        raise EngineFailure(f"ONNX Runtime cannot run it ({first_line(err)})") from err


def _key(spec: EngineSpec) -> dict[str, Any]:
    return {
        "engine": "onnxruntime",
        "weights": spec.weights,
        "shape": list(spec.shape),
        "versions": {name: metadata.version(name) for name in ("onnx", "onnxscript", "torch")}
        | {"medseg": versions()["medseg"]},
    }


def _export(load: Load, spec: EngineSpec, folder: Path) -> None:
    level = logging.getLogger().level
    with load() as network, warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # About what is deprecated within torch and its exporter themselves.
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                for_export(network), (spec.example(),), dynamo=True, verbose=False, external_data=False
            )
        finally:
            logging.getLogger().setLevel(level)
    if program is None:
        raise RuntimeError("the exporter of torch gave no model")
    program.save(folder / _FILES[0], external_data=False)


def _session(onnxruntime: Any, folder: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Warnings are about choices of the library itself.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(folder / _FILES[0]), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _runner(session: Any) -> Engine:
    name = session.get_inputs()[0].name

    def run(windows: Tensor) -> Tensor:
        shown = np.ascontiguousarray(windows.float().numpy())
        return torch.from_numpy(session.run(None, {name: shown})[0])

    return run


def _failures() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    found = tuple(getattr(state, name) for name in names if hasattr(state, name))
    return (RuntimeError, ValueError, TypeError, NotImplementedError, *found)
