"""A network as an ONNX file that says by itself what it expects and what its classes are.

Input `image` (B, C, *window) float32, prepared as the metadata say; output `logits` (B, L, *window). Sizes along
each axis are multiples of the network's stride: pad by repeating the border, and cut the logits back.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import BundleError, MissingPackageError
from medseg.models.network import SegmentationNetwork

PREFIX = "medseg."
_MOST_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxShape:
    """Which sizes an ONNX file takes.

    Parameters
    ----------
    window : tuple of int
        The size it was traced with.
    free : bool
        Whether other multiples of `stride` go as well; the batch size is free always.
    stride, least : tuple of int
        By axis.
    why_fixed : str
        Where the size is fixed, what torch said.
    """

    window: tuple[int, ...]
    free: bool
    stride: tuple[int, ...]
    least: tuple[int, ...]
    why_fixed: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the metadata."""
        return {
            "window": list(self.window),
            "spatial": "any multiple of stride, at least `least`" if self.free else "window alone",
            "stride": list(self.stride),
            "least": list(self.least),
        }


def require_onnx() -> None:
    """Refuse where the packages for ONNX are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise MissingPackageError(
            f"export to ONNX needs the package {err.name}, which is not installed; pip install 'medseg[onnx]'"
        ) from err


def fitted_window(network: SegmentationNetwork, window: tuple[int, ...] | None) -> tuple[int, ...]:
    """A window as the network's strides divide it; without one the smallest that is no corner case."""
    wanted = window or tuple(2 * n for n in network.least)
    return tuple(
        max(-(-n // stride) * stride, least)
        for n, stride, least in zip(wanted, network.stride, network.least, strict=True)
    )


def write_onnx(
    path: Path, network: SegmentationNetwork, *, window: tuple[int, ...], metadata: Mapping[str, Any]
) -> OnnxShape:
    """Write a network with its weights and metadata into one file.

    Parameters
    ----------
    path : Path
    network : SegmentationNetwork
        Left as it is.
    window : tuple of int
        As `fitted_window` gives it.
    metadata : mapping of str to JSON value
        Kept under names that begin with ``medseg.``.

    Raises
    ------
    MissingPackageError
        medseg[onnx] is not installed.
    BundleError
        More than 2 GiB of weights, or operations that ONNX does not have.
    """
    require_onnx()
    import onnx

    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if size >= _MOST_BYTES:
        raise BundleError(
            f"the weights take {size / (1 << 30):.1f} GiB, an ONNX file holds less than 2; not written"
        )
    core = _Core(network)
    shown = torch.zeros((2, network.in_channels, *window))
    try:
        _traced(core, shown, path, stride=network.stride)
        free, why = True, ""
    except torch.onnx.OnnxExporterError as err:
        free, why = False, str(err).strip().splitlines()[0][:200]
        _fixed(core, shown, path)
    shape = OnnxShape(
        window=window, free=free, stride=tuple(network.stride), least=tuple(network.least), why_fixed=why
    )
    model = onnx.load(str(path))
    values = {**metadata, "shape": shape.to_json()}
    texts = {
        f"{PREFIX}{key}": json.dumps(value, ensure_ascii=False, allow_nan=False)
        for key, value in values.items()
    }
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(path))
    return shape


class OnnxNetwork:
    """An ONNX file in ONNX Runtime on the CPU.

    Parameters
    ----------
    path : Path
    threads : int
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    @property
    def metadata(self) -> dict[str, Any]:
        """What `write_onnx` kept, by name."""
        found = self._session.get_modelmeta().custom_metadata_map
        return {k.removeprefix(PREFIX): json.loads(v) for k, v in found.items() if k.startswith(PREFIX)}

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, C, *window) -> (B, L, *window) logits."""
        found: NDArray[np.float32] = self._session.run(["logits"], {"image": image})[0]
        return found


class _Core(nn.Module):
    """A network without the padding around it, which depends on the size of the image."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        for parameter in self.network.parameters():
            parameter.data = parameter.data.contiguous()

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *sp) -> (B, L, *sp)."""
        return self.network.decode(self.network.encode(image))[0]


def _traced(core: nn.Module, shown: Tensor, path: Path, *, stride: tuple[int, ...]) -> None:
    sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    for axis, step in enumerate(stride):
        part = torch.export.Dim(f"cells_{'ijk'[axis]}", min=2, max=1 << 14)
        sizes[2 + axis] = step * part if step > 1 else part
    _export(core, shown, path, sizes)


def _fixed(core: nn.Module, shown: Tensor, path: Path) -> None:
    try:
        _export(core, shown, path, {0: torch.export.Dim("batch", min=1, max=1 << 16)})
    except torch.onnx.OnnxExporterError as err:
        reason = str(err).strip().splitlines()[0][:300]
        raise BundleError(f"torch cannot write this network as ONNX: {reason}") from err


def _export(core: nn.Module, shown: Tensor, path: Path, sizes: Mapping[int, Any]) -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                core,
                (shown,),
                dynamo=True,
                dynamic_shapes={"image": dict(sizes)},
                input_names=["image"],
                output_names=["logits"],
                verbose=False,
            )
        if program is None:
            raise BundleError("torch gave no ONNX program")
        program.save(str(path), external_data=False)
    finally:
        logger.setLevel(before)
