"""Engine openvino, with float32 or eight-bit numbers. Import it where one is opened; the package is optional.

The network is exported by torch and read by OpenVINO's own front end, without `openvino.convert_model`; the network as
read and what OpenVINO compiles of it are kept on disk, so that a later process needs neither torch's export nor the
weights.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.inference.engine_files import keep, kept
from medseg.inference.engines import Engine, EngineFailure, EngineSpec, Load, first_line
from medseg.inference.quantise import calibration_digest, quantised
from medseg.models.inference_form import for_export
from medseg.provenance import versions

_FILES = ("model.xml", "model.bin")
_COMPILED = "compiled"


def open_openvino(load: Load, spec: EngineSpec, *, eight_bits: bool) -> Engine:
    """An engine that runs OpenVINO on the CPU.

    Parameters
    ----------
    load : callable
        Not asked where the network is kept on disk.
    spec : EngineSpec
        `calibration` is needed for eight bits.
    eight_bits : bool

    Raises
    ------
    EngineFailure
        The network cannot be exported or compiled.
    """
    ov = load_openvino()
    core, key = ov.Core(), _key(spec, eight_bits=eight_bits)
    try:
        place = kept(spec.folder, key, _FILES)
        if place is None:
            model, weights = _model(ov, load, spec, eight_bits=eight_bits)
            place = keep(spec.folder, key, _FILES, lambda part: _write(ov, model, part))
            if place is None:
                return _runner(_compiled(core, model, spec), weights)
            del model, weights
        return _runner(_compiled(core, place, spec))
    except _failures() as err:
        raise EngineFailure(f"OpenVINO cannot run it ({first_line(err)})") from err


def load_openvino() -> Any:
    """The package, without its reports of use to its maker."""
    if "openvino" not in sys.modules:
        # Importing it sends one over the network; where this package is not found, it sends none.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _key(spec: EngineSpec, *, eight_bits: bool) -> dict[str, Any]:
    return {
        "engine": "openvino",
        "weights": spec.weights,
        "shape": list(spec.shape),
        "eight_bits": calibration_digest(spec.calibration) if eight_bits else None,
        "versions": {name: metadata.version(name) for name in ("openvino", "torch")}
        | {"medseg": versions()["medseg"]},
    }


def _model(ov: Any, load: Load, spec: EngineSpec, *, eight_bits: bool) -> tuple[Any, Any]:
    """The network as OpenVINO's model, and what owns the memory of its weights."""
    with load() as network:
        model, weights = _read(for_export(network), spec.example())
    model.reshape(list(spec.shape))
    if eight_bits:
        model = quantised(ov, model, spec.calibration, config=_config(spec.threads))
    return model, weights


def _read(network: torch.nn.Module, example: Tensor) -> tuple[Any, Any]:
    """Export by torch, read by OpenVINO's front end for its graphs; the model and what owns its weights."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    whole = [*ops_to_not_decompose(), torch.ops.aten.instance_norm.default]
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(network, (example,), strict=False)
        table: dict[Any, Any] = torch.export.default_decompositions()
        for operation in whole:
            table.pop(operation, None)
        program = program.run_decompositions(table)
        decoder = TorchFXPythonDecoder(program.module(), dynamic_shapes=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder)), (program, decoder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of an export: about what is deprecated within torch and OpenVINO themselves."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger().setLevel(level)


def _write(ov: Any, model: Any, folder: Path) -> None:
    ov.save_model(model, str(folder / _FILES[0]), compress_to_fp16=False)


def _compiled(core: Any, model: Any, spec: EngineSpec) -> Any:
    if not isinstance(model, Path):
        return core.compile_model(model, "CPU", _config(spec.threads))
    # What is compiled depends on the processor and the threads; OpenVINO tells by itself what fits.
    config = _config(spec.threads) | {"CACHE_DIR": str(model / _COMPILED)}
    return core.compile_model(str(model / _FILES[0]), "CPU", config)


def _config(threads: int) -> dict[str, Any]:
    return {
        # Where a processor has bfloat16, it would be taken unless told otherwise.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Processes side by side would all sit on the first cores.
        "ENABLE_CPU_PINNING": False,
    }


def _runner(compiled: Any, weights: Any = None) -> Engine:
    """`weights` owns memory that the compiled network may read, and stays as long as the engine does."""
    request = compiled.create_infer_request()

    def run(windows: Tensor, *, _owner: Any = weights) -> Tensor:
        shown = np.ascontiguousarray(windows.float().numpy())
        found = request.infer([shown], share_inputs=True, share_outputs=False)
        return torch.from_numpy(np.asarray(found[0]))

    return run


def _failures() -> tuple[type[Exception], ...]:
    from openvino import frontend

    names = (
        "GeneralFailure",
        "InitializationFailure",
        "NotImplementedFailure",
        "OpConversionFailure",
        "OpValidationFailure",
    )
    found = tuple(getattr(frontend, name) for name in names if hasattr(frontend, name))
    return (RuntimeError, ValueError, TypeError, NotImplementedError, *found)
