"""Convolutions in eight-bit numbers after training, for OpenVINO: ranges from windows of images.

Weights get one range per output channel, symmetric; what goes into a convolution gets one range per tensor, symmetric
where it has negative values. The first convolution and those to the classes stay in float32. OpenVINO turns the
quantised ends into eight-bit convolutions.

References
----------
Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference, CVPR 2018,
doi:10.1109/CVPR.2018.00286.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Operations that have an eight-bit form, and the axis of their weights along which the output channels lie.
_OUTPUT_AXIS = {"Convolution": 0, "ConvolutionBackpropData": 1}
_WEIGHT_LEVELS, _LEVELS = 255, 256
# Smaller ranges are those of a tensor that is zero throughout.
_LEAST_RANGE = 1e-12


def calibration_digest(windows: Sequence[NDArray[np.float32]]) -> str:
    """SHA-256 over the values of windows."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr(window.shape).encode())
        digest.update(np.ascontiguousarray(window).tobytes())
    return digest.hexdigest()


def quantised(ov: Any, model: Any, windows: Sequence[NDArray[np.float32]], *, config: dict[str, Any]) -> Any:
    """A network whose convolutions OpenVINO runs with eight-bit numbers.

    Parameters
    ----------
    ov : module
        openvino.
    model : openvino.Model
        One input (B, C, *window), one output. Changed.
    windows : sequence of (C, *window) float32 arrays
        What its ranges are taken from.
    config : dict
        How OpenVINO runs the network that measures them.

    Raises
    ------
    ValueError
        There is no window, or no convolution to quantise.
    """
    if not windows:
        raise ValueError("there is no window to take the ranges from")
    layers = _layers(model)
    if not layers:
        raise ValueError("there is no convolution between the first and the last")
    ranges = _ranges(ov, model, [_source_name(layer) for layer in layers], windows, config=config)
    ends: dict[str, Any] = {}
    for layer in layers:
        name = _source_name(layer)
        if name not in ends:
            ends[name] = _fake_quantise(ov, layer.input_value(0), *activation_range(*ranges[name]), _LEVELS)
        layer.input(0).replace_source_output(ends[name].output(0))
        _quantise_weights(ov, layer)
    model.validate_nodes_and_infer_types()
    return model


def activation_range(least: float, most: float) -> tuple[float, float]:
    """Ends of the range of 256 levels, zero among them.

    From zero where nothing is negative; else symmetric, with the one level more that signed bytes have below.
    """
    if least >= 0:
        return 0.0, max(most, _LEAST_RANGE)
    reach = max(most, -least, _LEAST_RANGE)
    return -reach * 128 / 127, reach


def _layers(model: Any) -> list[Any]:
    """Convolutions with constant weights, but for the first one and those that lead to the output alone."""
    found = [op for op in model.get_ordered_ops() if op.get_type_name() in _OUTPUT_AXIS]
    return [op for op in found[1:] if not _is_head(op)]


def _is_head(layer: Any) -> bool:
    """Whether the output is reached from it without another convolution."""
    waiting, seen = [layer], set()
    while waiting:
        node = waiting.pop()
        for output in node.outputs():
            for target in output.get_target_inputs():
                follower = target.get_node()
                if follower.get_type_name() in _OUTPUT_AXIS:
                    return False
                if follower.get_friendly_name() not in seen:
                    seen.add(follower.get_friendly_name())
                    waiting.append(follower)
    return True


def _source_name(layer: Any) -> str:
    source = layer.input_value(0)
    return f"{source.get_node().get_friendly_name()}:{source.get_index()}"


def _ranges(
    ov: Any,
    model: Any,
    names: Sequence[str],
    windows: Sequence[NDArray[np.float32]],
    *,
    config: dict[str, Any],
) -> dict[str, tuple[float, float]]:
    """Least and largest value of what goes into convolutions, each the mean over the windows."""
    wanted = sorted(set(names))
    watched = _watched(ov, model.clone(), wanted)
    compiled = ov.Core().compile_model(watched, "CPU", config)
    count = int(compiled.input(0).shape[0])
    request = compiled.create_infer_request()
    rows = []
    for window in windows:
        shown = np.ascontiguousarray(np.broadcast_to(window, (count, *window.shape)))
        found = request.infer([shown])
        rows.append([float(found[index]) for index in range(2 * len(wanted))])
    least, most = np.mean(rows, axis=0).reshape(2, len(wanted))
    return {name: (float(a), float(b)) for name, a, b in zip(wanted, least, most, strict=True)}


def _watched(ov: Any, model: Any, names: Sequence[str]) -> Any:
    """A network whose outputs are the least values of some tensors, then the largest; nothing large is kept."""
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    sources = []
    for name in names:
        node, _, index = name.rpartition(":")
        sources.append(nodes[node].output(int(index)))
    results = [
        make(source, np.arange(len(source.get_partial_shape())), keep_dims=False).output(0)
        for make in (ov.opset13.reduce_min, ov.opset13.reduce_max)
        for source in sources
    ]
    return ov.Model(results, model.get_parameters(), "watched")


def _fake_quantise(ov: Any, source: Any, low: Any, high: Any, levels: int) -> Any:
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return ov.opset13.fake_quantize(source, low, high, low, high, levels)


def _quantise_weights(ov: Any, layer: Any) -> None:
    source = layer.input_value(1)
    weights = source.get_node().get_data() if source.get_node().get_type_name() == "Constant" else None
    if weights is None:
        raise ValueError(f"the weights of {layer.get_type_name()} are not constant")
    axis = _OUTPUT_AXIS[layer.get_type_name()]
    others = tuple(a for a in range(weights.ndim) if a != axis)
    reach = np.maximum(np.abs(weights).max(axis=others, keepdims=True), _LEAST_RANGE)
    quantiser = _fake_quantise(ov, source, -reach, reach, _WEIGHT_LEVELS)
    layer.input(1).replace_source_output(quantiser.output(0))
