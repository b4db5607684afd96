"""What `medseg bench inference` measures in this environment: medseg, and MONAI's own loop; one task a process.

``python -m medseg.bench.inference_tasks NAME ARGUMENTS``. A task does its imports and makes its inputs when it is
built; only its `run` is measured. Networks are those of a folder as nnU-Net leaves it (`nnunet_plans`), so that all
tools run the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.bench.measuring import Task, run_child
from medseg.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.inference.options import EngineName, EngineSetting
    from medseg.models.network import SegmentationNetwork

ENGINES: tuple[EngineName, ...] = ("torch", "openvino", "onnxruntime", "compile", "openvino_int8")
"""What can run a network here, medseg's default first."""

_SLICES = 8
# What `engine: auto` is told of the work ahead: a folder, for which measuring engines pays.
_FOLDER_IMAGES = 20


def network_of(folder: Path) -> SegmentationNetwork:
    """The network of a folder with plans.json, as medseg's own; random weights where there is no checkpoint.

    One of two axes always has random weights: medseg runs those of nnU-Net as flat kernels in three.
    """
    import torch

    from medseg.models.nnunet import nnunet_network, nnunet_state
    from medseg.models.options import UNetOptions
    from medseg.models.registry import build_network

    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["bench"]
    classes = len(json.loads((folder / "dataset.json").read_text())["labels"])
    if len(configuration["patch_size"]) == 2:
        channels = tuple(configuration["architecture"]["arch_kwargs"]["features_per_stage"])
        options = UNetOptions(channels=channels, convolutions=2, norm="instance")
        return build_network(options, spatial_dims=2, in_channels=1, class_count=classes, seed=0).eval()
    found = nnunet_network(configuration)
    network = build_network(found.options, spatial_dims=3, in_channels=1, class_count=classes, seed=0)
    stored = folder / "fold_0" / "checkpoint_final.pth"
    if stored.exists():
        weights = torch.load(stored, weights_only=True)["network_weights"]
        network.load_state_dict(nnunet_state(weights, found))
    return network.eval()


def stock(network: SegmentationNetwork) -> Callable[[Tensor], Tensor]:
    """The network as other tools run it: torch's own instance norm, tensors in their usual layout."""
    from torch import nn

    norm = nn.InstanceNorm2d if network.spatial_dims == 2 else nn.InstanceNorm3d
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm) and child.num_groups == child.num_channels:
                plain = norm(child.num_channels, eps=child.eps, affine=True)
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain.eval())
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    # Past `forward`, which brings its input to channels-last.
    return lambda windows: network.decode(network.encode(windows.contiguous()))[0]


def _convolution(dims: int, threads: int) -> Task:
    """GFLOP/s of the fastest of a few convolutions that deep levels are made of: the machine's limit."""
    import time

    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    sizes = {2: ((64, 256), (128, 128), (256, 64)), 3: ((64, 48), (128, 32), (256, 16))}[dims]
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d

    def run() -> float:
        best = 0.0
        for channels, side in sizes:
            convolution = layer(channels, channels, 3, padding=1, bias=False)
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=layout)
            image = torch.randn(1, channels, *[side] * dims).contiguous(memory_format=layout)
            operations = 2 * channels**2 * 3**dims * side**dims
            with torch.inference_mode():
                convolution(image)
                for _ in range(5):
                    begin = time.perf_counter()
                    convolution(image)
                    best = max(best, operations / (time.perf_counter() - begin) / 1e9)
        return best

    return Task(run, lambda best: {"gflops": best})


def _forward(folder: str, engine: str, shape: Sequence[int], threads: int) -> Task:
    """One window through the network, once warmed up; its operations are counted beside it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(threads)
    network = network_of(Path(folder))
    image = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(1))
    ask = opened(engine, network, shown=image, threads=threads)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(image)
        ask(image)

    def run() -> Tensor:
        with torch.inference_mode():
            return ask(image)

    return Task(
        run, lambda found: {"gflop": counter.get_total_flops() / 1e9, "mean": float(found.abs().mean())}
    )


def opened(
    engine: str, network: SegmentationNetwork, *, shown: Tensor, threads: int
) -> Callable[[Tensor], Tensor]:
    """What runs a network under a name of `ENGINES`, or `stock`, for windows like those that are shown.

    Raises
    ------
    MissingPackageError
        The engine is not installed.
    ConfigError
        Another name.
    """
    import torch

    from medseg.inference.engines import EngineSpec, open_engine
    from medseg.inference.members import SingleNetwork

    if engine == "stock":
        return stock(network)
    name = next((one for one in ENGINES if one == engine), None)
    if name is None:
        raise ConfigError(f"no engine {engine!r}; there are: {', '.join(ENGINES)}")
    spec = EngineSpec(
        window=tuple(shown.shape[2:]),
        in_channels=shown.shape[1],
        threads=threads,
        calibration=tuple(np.array(window.numpy(), np.float32) for window in shown),
    )
    members = SingleNetwork(network, torch.device("cpu"))
    with torch.inference_mode(False):
        return open_engine(name, lambda: members.network(0), spec)


def _volume(
    folder: str,
    image: str,
    out: str,
    threads: int,
    window: Sequence[int],
    options: dict[str, Any],
    engine: EngineSetting = "torch",
    weights: str = "",
    kept: str | None = None,
) -> Task:
    """medseg's windows over a prepared volume (1, *shape), to a label map.

    Which engine runs is settled before the measurement, as for any image but the first of a folder; the seconds of
    that are told beside it.
    """
    import time

    import torch

    from medseg.bench.io_tasks import segment_table
    from medseg.inference.engine_settle import Engines
    from medseg.inference.members import SingleNetwork
    from medseg.inference.options import InferenceOptions
    from medseg.inference.predictor import Predictor
    from medseg.transforms.image_view import ArrayView
    from medseg.volume import Volume

    torch.set_num_threads(threads)
    # The kernels stand by nnU-Net's axes, and so does the image.
    network, array = network_of(Path(folder)), np.load(image)
    members = SingleNetwork(network, torch.device("cpu"))
    engines = Engines(
        members,
        setting=engine,
        weights=weights,
        in_channels=1,
        threads=threads,
        images=_FOLDER_IMAGES,
        folder=None if kept is None else Path(kept),
    )
    predictor = Predictor(
        members,
        steps=(),
        table=segment_table(network.class_count - 1),
        options=InferenceOptions.model_validate({"window": tuple(window), "batch_size": 1} | options),
        features=False,
        engines=engines,
    )
    volume, view, shown = Volume(array=array), ArrayView(array), dict[str, Any]()
    begin = time.perf_counter()
    sweep = predictor.blended.sweep(view.shape)
    predictor.blended.settle(view, sweep)
    settled_s = time.perf_counter() - begin

    def run() -> NDArray[Any]:
        found = predictor.predict(volume)
        shown.update(found.windows)
        return found.label_map

    def facts(labels: NDArray[Any]) -> dict[str, Any]:
        (choice,) = engines.to_json()["choices"]
        return {
            "labels": _kept(labels, out),
            "windows": shown,
            "window": list(sweep.window),
            "engine": choice["engine"],
            "because": choice["because"],
            "tried": [f"{trial['engine']}: {trial['because']}" for trial in choice["tried"]],
            "settled_s": settled_s,
        }

    return Task(run, facts)


def _monai_volume(
    folder: str, image: str, out: str, threads: int, window: Sequence[int], overlap: float
) -> Task:
    """MONAI's sliding_window_inference over the same volume with the network in its stock form."""
    import torch
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(threads)
    network = stock(network_of(Path(folder)))
    data = torch.from_numpy(np.load(image))[None]

    def run() -> NDArray[Any]:
        with torch.inference_mode():
            logits = sliding_window_inference(
                data, tuple(window), 1, network, overlap=overlap, mode="gaussian"
            )
            labels: NDArray[Any] = logits[0].argmax(0).to(torch.uint8).numpy()
        return labels

    return Task(run, lambda labels: {"labels": _kept(labels, out)})


def _resample(image: str, out: str, shape: Sequence[int], threads: int) -> Task:
    """Cubic splines, as preprocessing has them."""
    import torch

    from medseg.geometry import GridMap
    from medseg.transforms.image_view import ArrayView, GridView
    from medseg.transforms.image_view import whole as read_whole

    torch.set_num_threads(threads)
    data = np.load(image)
    grid = GridMap.resize(data.shape[1:], tuple(shape))

    def run() -> NDArray[np.float32]:
        return read_whole(GridView(ArrayView(data), grid, kinds=["cubic"] * 3))

    return Task(run, lambda found: {"values": _kept(found, out)})


def _labels(logits: str, out: str, shape: Sequence[int], threads: int) -> Task:
    """Logits on the prepared grid to a label map on that of the source, a few slices at a time, as nnU-Net does it."""
    import torch

    from medseg.geometry import GridMap
    from medseg.transforms.block_restore import restore_blocks
    from medseg.transforms.class_choice import ClassChoice

    torch.set_num_threads(threads)
    found = torch.from_numpy(np.load(logits))
    grid = GridMap.resize(tuple(shape), tuple(found.shape[1:]))

    def run() -> NDArray[Any]:
        return restore_blocks(
            _slabs(found),
            grid,
            order=(0, 1, 2),
            class_count=len(found),
            back=("linear",) * 3,
            winners=ClassChoice(scale="logits").winners,
        )

    return Task(run, lambda labels: {"labels": _kept(labels, out)})


def _slabs(logits: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    rest = tuple(slice(0, n) for n in logits.shape[2:])
    for start in range(0, logits.shape[1], _SLICES):
        rows = slice(start, min(start + _SLICES, logits.shape[1]))
        yield (rows, *rest), logits[:, rows].float()


def _kept(array: NDArray[Any], out: str) -> str:
    np.save(out, np.asarray(array))
    return out


def _train(**arguments: Any) -> Task:
    from medseg.bench.trained import train

    return train(**arguments)


_TASKS: dict[str, Callable[..., Task]] = {
    "train": _train,
    "convolution": _convolution,
    "forward": _forward,
    "volume": _volume,
    "volume MONAI": _monai_volume,
    "resample": _resample,
    "labels": _labels,
}


def build(name: str, arguments: dict[str, Any]) -> Task:
    """The task of a name, its imports done."""
    if name not in _TASKS:
        raise ConfigError(f"no task {name!r}; there are: {', '.join(_TASKS)}")
    return _TASKS[name](**arguments)


if __name__ == "__main__":
    run_child(build)
