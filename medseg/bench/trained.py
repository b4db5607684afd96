"""The trained network of `medseg bench inference`: one that tells the organs of `anatomy` apart, kept for this user.

Its weights lie in a folder as nnU-Net leaves them, so that every tool runs the same. They are made once per user and
version of what decides them: a network with a quarter of the channels learns on small patches and is set into the one
that is measured, whose other channels are computed all the same and change no mask.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.bench.anatomy import draw_anatomy
from medseg.bench.measuring import Task
from medseg.inference.engine_files import keep, kept
from medseg.provenance import sha256_file, versions
from medseg.user_cache import cache_home

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.models.network import SegmentationNetwork

CHECKPOINT = "checkpoint_final.pth"
_PATCH = (32, 64, 64)
_VOLUMES = (1, 2, 3)
_RATE, _WARM_UP = 3e-3, 5
# Training all channels of the network would take a processor half an hour.
_SHARE_OF_CHANNELS = 4
# Chances for a place anywhere, beside one for each class of an organ.
_ANYWHERE = 1
_VERSION = 1
_DECODER_LEVEL = r"decoder\.(\d+)\.(\d+)\.(0|1)\.(weight|bias)"


def train(folder: str, shape: Sequence[int], steps: int, threads: int) -> Task:
    """Put the weights into a folder with plans.json: those that are kept, or trained anew.

    Parameters
    ----------
    folder : str
    shape : sequence of int
        Of the volumes.
    steps : int
        Updates of one patch each.
    threads : int
    """
    import torch

    torch.set_num_threads(threads)
    place, place_key = cache_home() / "bench", _key(Path(folder), shape, steps)

    def run() -> str:
        found, how = kept(place, place_key, (CHECKPOINT,)), "kept from an earlier run"
        target = Path(folder) / "fold_0"
        target.mkdir(exist_ok=True)
        if found is None:
            begin = time.perf_counter()
            weights, loss = _weights(Path(folder), shape, steps)
            checkpoint = {
                "network_weights": weights,
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "bench"},
                "inference_allowed_mirroring_axes": None,
            }
            torch.save(checkpoint, target / CHECKPOINT)
            keep(place, place_key, (CHECKPOINT,), lambda part: _copy(target, part))
            how = f"{steps} updates in {time.perf_counter() - begin:.0f} s, loss {loss:.3f}"
        else:
            _copy(found, target)
        return how

    return Task(
        run, lambda how: {"training": how, "weights": sha256_file(Path(folder) / "fold_0" / CHECKPOINT)}
    )


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source / CHECKPOINT, target / CHECKPOINT)


def _key(folder: Path, shape: Sequence[int], steps: int) -> dict[str, Any]:
    """What decides the weights."""
    return {
        "plans": json.loads((folder / "plans.json").read_text()),
        "dataset": json.loads((folder / "dataset.json").read_text()),
        "shape": list(shape),
        "steps": steps,
        "patch": list(_PATCH),
        "rate": _RATE,
        "part": _SHARE_OF_CHANNELS,
        "version": _VERSION,
        "medseg": versions()["medseg"],
    }


def _weights(folder: Path, shape: Sequence[int], steps: int) -> tuple[dict[str, Tensor], float]:
    """Weights after so many updates, by nnU-Net's names, and the mean loss of the last ten."""
    import torch

    from medseg.bench.inference_tasks import network_of
    from medseg.bench.io_tasks import segment_table
    from medseg.models.registry import build_network
    from medseg.training.loss_options import DiceCrossEntropyOptions
    from medseg.training.losses import build_loss

    torch.manual_seed(0)
    whole = network_of(folder)
    channels = tuple(n // _SHARE_OF_CHANNELS for n in whole.options.channels)
    options = whole.options.model_copy(update={"channels": channels})
    part = build_network(options, spatial_dims=3, in_channels=1, class_count=whole.class_count, seed=0)
    table = segment_table(part.class_count - 1)
    loss = build_loss(DiceCrossEntropyOptions(), set_matrix=table.set_matrix, regions={})
    optimiser = torch.optim.AdamW(part.train().parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, steps))
    losses = []
    for image, label in _patches(shape, steps):
        optimiser.zero_grad()
        value = loss(part(image), label)
        value.backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(value.detach()))
    return nnunet_names(set_into(whole, part)), float(np.mean(losses[-10:]))


def set_into(whole: SegmentationNetwork, part: SegmentationNetwork) -> SegmentationNetwork:
    """A network that computes what one of fewer channels does, in the first channels of each level.

    Its other channels go on with the weights that they have, and nothing reads them: the work is that of the whole.

    Parameters
    ----------
    whole, part : SegmentationNetwork
        U-Nets alike but for their channels, of which `whole` has as many or more; norms look at one channel each.
        `whole` is changed.
    """
    import torch

    state, small = whole.state_dict(), part.state_dict()
    with torch.no_grad():
        for name, value in small.items():
            target = state[name]
            if value.ndim == 1:
                target[: len(value)] = value
                continue
            # Of a transposed convolution the output channels come second.
            out, into = (1, 0) if name.startswith("up.") else (0, 1)
            target.narrow(out, 0, value.shape[out]).zero_()
            joined = re.fullmatch(r"decoder\.\d+\.0\.0\.weight", name) is not None
            halves = 2 if joined else 1
            for half in range(halves):
                count, wide = value.shape[into] // halves, target.shape[into] // halves
                place = target.narrow(out, 0, value.shape[out]).narrow(into, half * wide, count)
                place.copy_(value.narrow(into, half * count, count))
    return whole


def _share(step: int, steps: int) -> float:
    """Of the learning rate: up at first, then down like half a cosine."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _patches(shape: Sequence[int], steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches of several volumes: a third from anywhere, else about a voxel of a class that is drawn first."""
    import torch

    rng = np.random.default_rng(0)
    drawn = [draw_anatomy(shape, seed) for seed in _VOLUMES]
    size = [min(p, n) for p, n in zip(_PATCH, shape, strict=True)]
    for step in range(steps):
        image, labels = drawn[step % len(drawn)]
        wanted = rng.integers(-_ANYWHERE, int(labels.max()) + 1)
        places = np.flatnonzero(labels == wanted) if wanted > 0 else np.arange(0)
        place = int(rng.choice(places)) if len(places) else int(rng.integers(labels.size))
        middle = [int(n) for n in np.unravel_index(place, labels.shape)]
        corner = [
            int(np.clip(m - p // 2 + rng.integers(-p // 4, p // 4 + 1), 0, n - p))
            for m, p, n in zip(middle, size, shape, strict=True)
        ]
        box = tuple(slice(c, c + p) for c, p in zip(corner, size, strict=True))
        yield (
            torch.from_numpy(image[box][None, None].copy()),
            torch.from_numpy(labels[box][None, None].astype(np.int64)),
        )


def nnunet_names(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Weights of a U-Net under the names of nnU-Net's PlainConvUNet: the way back of `models.nnunet.nnunet_state`.

    Convolutions in front of a norm have no bias here; nnU-Net's, which the norm takes away again, are left out.
    """
    import torch

    state = network.state_dict()
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder."))
    found = {}
    for name, value in state.items():
        if match := re.fullmatch(r"encoder\.(\d+)\.(\d+)\.(0|1)\.(weight|bias)", name):
            level, number, kind, what = match.groups()
            target = f"encoder.stages.{level}.0.convs.{number}.{'conv' if kind == '0' else 'norm'}.{what}"
        elif match := re.fullmatch(_DECODER_LEVEL, name):
            level, number, kind, what = match.groups()
            stage = levels - 2 - int(level)
            target = f"decoder.stages.{stage}.convs.{number}.{'conv' if kind == '0' else 'norm'}.{what}"
            if number == "0" and kind == "0":
                # nnU-Net joins (upsampled, skip), medseg (skip, upsampled).
                half = value.shape[1] // 2
                value = torch.cat([value[:, half:], value[:, :half]], dim=1)
        elif match := re.fullmatch(r"up\.(\d+)\.(weight|bias)", name):
            target = f"decoder.transpconvs.{levels - 2 - int(match[1])}.{match[2]}"
        else:
            match = re.fullmatch(r"heads\.0\.(weight|bias)", name)
            if match is None:
                raise ValueError(f"the weight {name} has no name in nnU-Net")
            target = f"decoder.seg_layers.{levels - 2}.{match[1]}"
        found[target] = value.detach().contiguous()
    return found
