"""Where windows are summed, and that blocks come back in order; a CUDA device stands in by its free memory alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.inference import device as device_module
from medseg.inference.device import autocast_dtype, free_device_bytes, on_processor, sums_device
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.window_blend import Block
from medseg.labels import Label, LabelTable
from medseg.volume import Volume

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
TABLE = LabelTable(labels=(Label(name="bright", value=1, colour="#3aa0ff"),))


def test_sums_stay_on_a_device_that_has_room_for_them(monkeypatch):
    assert sums_device(CPU, 10**15) == CPU
    assert free_device_bytes(CPU) is None
    monkeypatch.setattr(device_module, "free_device_bytes", lambda device: 10**9)
    assert sums_device(CUDA, 3 * 10**8) == CUDA
    assert sums_device(CUDA, 5 * 10**8) == CPU


def test_half_precision_is_for_cuda_alone():
    assert autocast_dtype("cpu", "auto") == autocast_dtype("cpu", "fp32") == torch.float32
    assert autocast_dtype("cuda:1", "auto") == autocast_dtype("cuda", "fp16") == torch.float16
    assert autocast_dtype("cuda", "bf16") == torch.bfloat16
    for precision in ("fp16", "bf16"):
        with pytest.raises(
            ConfigError, match=rf"predict.precision is {precision}, which needs a CUDA device"
        ):
            autocast_dtype("cpu", precision)


def test_blocks_of_the_processor_pass_as_they_come():
    seen = []

    def blocks():
        for n in range(3):
            seen.append(n)
            yield Block(place=(slice(n, n + 1),), values=torch.full((2, 1), float(n)))

    for n, block in enumerate(on_processor(blocks(), ahead=2)):
        assert float(block.values[0, 0]) == n
        assert seen[-1] == n, "none is made before it is asked for"


class Bright(nn.Module):
    """Holds two windows at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        self.sizes.append(len(x))
        return torch.cat([1 - x, x], dim=1) * 9


@pytest.mark.parametrize("asked", [1, 8])
def test_a_prediction_goes_on_with_a_smaller_batch_and_says_so(asked):
    image = np.random.default_rng(0).random((1, 40, 33, 18)).astype(np.float32)
    network = Bright()
    found = Predictor(
        network, steps=(), table=TABLE, options=InferenceOptions(window=(16, 16, 8), batch_size=asked)
    ).predict(Volume(array=image))
    np.testing.assert_array_equal(found.label_map, image[0] > 0.5)
    assert max(network.sizes) == min(asked, 2)
    told = [note for note in found.notes if "too little memory" in note]
    assert len(told) == (asked > 2)
