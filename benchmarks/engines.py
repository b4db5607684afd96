"""Engines against torch as other programs run it: contiguous tensors and torch's own instance norm.

    python benchmarks/engines.py --size 96 96 96
    python benchmarks/engines.py --size 512 512 --engines torch openvino
    python benchmarks/engines.py --bundle chest-xray-lungs --size 512 512

Runs take turns, so that what else the machine does strikes all alike; medians are printed, and how far the classes of
each voxel agree with stock torch. Weights are random unless a bundle is named.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from medseg.inference.engine_packages import lacking
from medseg.inference.engines import EngineFailure, EngineSpec, open_engine
from medseg.inference.options import EngineName
from medseg.inference.parity import parity
from medseg.models.bundle import read_bundle
from medseg.models.inference_form import for_export
from medseg.models.network import SegmentationNetwork
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network

CHANNELS = {2: (32, 64, 128, 256, 512, 512, 512, 512), 3: (32, 64, 128, 256, 320, 320)}


def network_of(arguments: argparse.Namespace) -> SegmentationNetwork:
    """The network of a bundle, or a plain U-Net of nnU-Net's size with random weights."""
    if arguments.bundle:
        return read_bundle(arguments.bundle).load_network()
    dims = len(arguments.size)
    options = UNetOptions(channels=CHANNELS[dims])
    return build_network(options, spatial_dims=dims, in_channels=1, class_count=3, seed=0).eval()


def stock(network: SegmentationNetwork) -> Any:
    """The network in contiguous layout, with torch's own instance norm."""
    plain: Any = for_export(network)
    for module in plain.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(
                module, name, nn.Parameter(parameter.detach().clone(memory_format=torch.contiguous_format))
            )
    fitted = plain._fit
    plain._fit = lambda x: fitted(x).contiguous(memory_format=torch.contiguous_format)
    return plain


def image(size: list[int], channels: int, *, seed: int = 0) -> Tensor:
    """Smooth blobs with noise, so that a network finds structures of some size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, channels, *[max(2, n // 16) for n in size]), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    smooth = nn.functional.interpolate(coarse, size=size, mode=mode)
    return smooth + 0.1 * torch.randn(smooth.shape, generator=generator)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[96, 96, 96])
    parser.add_argument("--engines", nargs="+", default=list(get_args(EngineName)))
    parser.add_argument("--bundle", help="A trained network instead of a random one.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Keep what is compiled there.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = network_of(arguments)
    shown = image(arguments.size, network.in_channels)

    @contextlib.contextmanager
    def load() -> Iterator[nn.Module]:
        yield network

    runs: dict[str, Any] = {"stock": stock(network)}
    starts = {"stock": 0.0}
    for name in arguments.engines:
        if lacking(name):
            print(f"{name}: {lacking(name)}")
            continue
        spec = EngineSpec(
            window=tuple(arguments.size),
            in_channels=network.in_channels,
            threads=arguments.threads,
            weights="benchmark",
            folder=arguments.folder,
            calibration=tuple(image(arguments.size, network.in_channels, seed=n)[0].numpy() for n in (1, 2)),
        )
        begin = time.perf_counter()
        try:
            runs[name] = open_engine(name, load, spec)
        except EngineFailure as err:
            print(f"{name}: {err}")
            continue
        starts[name] = time.perf_counter() - begin
    report(runs, starts, shown, arguments.repeats)


def report(runs: dict[str, Any], starts: dict[str, float], shown: Tensor, repeats: int) -> None:
    """Let the engines take turns, and print a line for each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Tensor] = {}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, run in runs.items():
                begin = time.perf_counter()
                answers[name] = run(shown)
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    expected = answers["stock"]
    print(f"{'engine':<14} {'seconds':>8} {'faster':>7} {'start s':>8} {'largest difference':>19}  masks")
    for name, median in medians.items():
        off = float((answers[name] - expected).abs().max() / expected.std())
        agreed = parity([expected[0].argmax(0).numpy()], [answers[name][0].argmax(0).numpy()])
        print(
            f"{name:<14} {median:>8.3f} {medians['stock'] / median:>6.2f}x {starts[name]:>8.1f} {off:>18.1e}s  "
            f"{agreed.agreement:.6f} of {agreed.foreground}, Dice {-agreed.dice_change:+.6f}"
        )


if __name__ == "__main__":
    main()
