"""A whole volume on one CUDA card: medseg's predictor beside MONAI's sliding window, same network, same windows.

    python benchmarks/cuda_volume.py [--shape 256 256 160] [--window 128 128 128] [--repeats 3]

The network is a 3-D U-Net of 32 to 320 channels as nnU-Net plans it, with random weights that do not change; both
tools run it in float16 autocast and in float32, windows half over each other, Gaussian weights, no mirrored views.
medseg also runs with the overlap that is its default. Time is from the volume in the machine's memory to the label map
there; memory is the most that torch had of the card.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.bench.inference_sections import body_in_air
from medseg.bench.inference_tasks import stock
from medseg.bench.io_tasks import segment_table
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.models.network import SegmentationNetwork
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network
from medseg.volume import Volume

CHANNELS = (32, 64, 128, 256, 320, 320)
CLASSES = 3
Labels = NDArray[Any]


def network() -> SegmentationNetwork:
    """The same random weights each time."""
    options = UNetOptions(channels=CHANNELS, convolutions=2, norm="instance")
    return build_network(options, spatial_dims=3, in_channels=1, class_count=CLASSES, seed=0).eval()


def medseg(volume: Volume, dtype: torch.dtype, **options: Any) -> Callable[[], Labels]:
    """medseg's predictor on the card."""
    predictor = Predictor(
        network(),
        steps=(),
        table=segment_table(CLASSES - 1),
        options=InferenceOptions(**options),
        device="cuda",
        dtype=dtype,
        features=False,
    )
    return lambda: np.asarray(predictor.predict(volume).label_map)


def monai(volume: Volume, dtype: torch.dtype, window: tuple[int, ...], batch: int) -> Callable[[], Labels]:
    """MONAI's loop; logits and their sums stay on the card, which is its fastest."""
    from monai.inferers import sliding_window_inference

    ours = network()
    form = stock(ours)
    ours.cuda()
    data = torch.from_numpy(np.asarray(volume.array))[None]

    def run() -> Labels:
        with torch.inference_mode(), torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            logits = sliding_window_inference(
                data.cuda(), window, batch, form, overlap=0.5, mode="gaussian", device="cuda"
            )
            return np.asarray(logits[0].argmax(0).to(torch.uint8).cpu().numpy())

    return run


def measured(run: Callable[[], Labels], repeats: int) -> tuple[Labels, list[float], float]:
    """Label map, seconds of each run after a first that is not counted, peak bytes on the card."""
    found = run()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        found = run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return found, seconds, torch.cuda.max_memory_allocated()


def main() -> None:
    """Run all tools, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 160))
    parser.add_argument("--window", type=int, nargs=3, default=(128, 128, 128))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    volume = Volume(array=body_in_air(tuple(args.shape))[None])
    window = tuple(args.window)
    same = {"window": window, "overlap": 0.5, "batch_size": args.batch}
    tools: dict[str, Callable[[], Labels]] = {}
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32)):
        tools[f"medseg, {name}"] = medseg(volume, dtype, **same)
        tools[f"MONAI, {name}"] = monai(volume, dtype, window, args.batch)
    tools["medseg, float16, own overlap"] = medseg(
        volume, torch.float16, window=window, batch_size=args.batch
    )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {args.shape}, windows {args.window}")
    reference = None
    for name, run in tools.items():
        found, seconds, peak = measured(run, args.repeats)
        reference = found if reference is None else reference
        print(
            f"{name:30s} {statistics.median(seconds):7.3f} s ({min(seconds):.3f}-{max(seconds):.3f})"
            f"  card {peak / 1e9:5.2f} GB  equal to the first {np.mean(found == reference):.6f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
