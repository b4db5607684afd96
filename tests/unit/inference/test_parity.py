"""Masks of the block-wise prediction against MONAI's windows and one interpolation of the whole buffer.

The way back is SciPy's own linear interpolation at the coordinates of the grid map, class by class.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import nn

from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.transforms.options import Normalise, Orient, Resample
from medseg.transforms.preprocess import preprocess
from medseg.volume import Volume

LEAST_EQUAL = 0.9999
TABLE = LabelTable(
    labels=(
        Label(name="left", value=1, colour="#3aa0ff", side="left", pair="right"),
        Label(name="right", value=2, colour="#b684f5", side="right", pair="left"),
        Label(name="other", value=3, colour="#ff0000"),
    ),
    regions={"both": ("left", "right")},
)
CASES = {
    "2-D": ((90, 61), np.diag([-0.7, 0.9, 1, 1]), (0.7, 0.9), (1.0, 1.2), (24, 16)),
    "3-D": ((41, 33, 29), np.diag([-1.0, -1.1, 1.2, 1]), (1.0, 1.1, 1.2), (1.5, 1.6, 1.4), (16, 14, 12)),
    "anisotropic": (
        (70, 62, 9),
        np.diag([-0.5, -0.6, 5.0, 1]),
        (0.5, 0.6, 5.0),
        (1.1, 0.9, 5.0),
        (24, 20, 6),
    ),
}


class Network(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layers = nn.Sequential(
                convolution(1, 6, 5, padding=2), nn.ReLU(), convolution(6, 4, 3, padding=1)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * 30


def smooth(shape) -> np.ndarray:
    noise = np.random.default_rng(2).normal(size=shape)
    return (ndimage.gaussian_filter(noise, 2.5) * 4000).astype(np.float32)


def way_back(probabilities, grid) -> np.ndarray:
    """(*source) class of the largest probability, each class interpolated on the whole grid of the file."""
    inverse = np.linalg.inv(grid.matrix)
    index = np.indices(grid.source_shape).reshape(len(grid.source_shape), -1)
    places = inverse[:-1, :-1] @ index + inverse[:-1, -1:]
    found = [
        ndimage.map_coordinates(channel, places, order=1, mode="nearest").reshape(grid.source_shape)
        for channel in probabilities
    ]
    return np.argmax(found, axis=0)


def flipped_mean(network, axis: int):
    """The mean over an image and its mirror, in which left and right change places."""

    def ask(x):
        mirrored = torch.softmax(network(x.flip(2 + axis)), dim=1).flip(2 + axis)
        return (torch.softmax(network(x), dim=1) + mirrored[:, [0, 2, 1, 3]]) / 2

    return ask


@pytest.mark.parametrize("tta", ["none", "flip"])
@pytest.mark.parametrize("name", list(CASES))
def test_masks_are_those_of_monai_and_a_whole_buffer(name, tta, tmp_path):
    shape, affine, spacing, coarser, window = CASES[name]
    dims = len(shape)
    steps = (
        Orient(to="RAS" if dims == 3 else "RA"),
        Resample(spacing_mm=coarser),
        Normalise(method="percentile"),
    )
    volume = Volume(array=smooth(shape)[None], affine=affine, spacing_mm=spacing)
    network = Network(dims)
    options = InferenceOptions(window=window, overlap=0.5, batch_size=3, tta=tta, flip_axes=(0,))
    prepared = preprocess(volume, steps)
    plain = lambda x: torch.softmax(network(x), dim=1)  # noqa: E731
    with torch.inference_mode():
        theirs = sliding_window_inference(
            torch.from_numpy(prepared.array)[None],
            window,
            3,
            plain if tta == "none" else flipped_mean(network, 0),
            overlap=0.5,
            mode="gaussian",
        )[0].numpy()
    wanted = way_back(theirs, prepared.grid)
    for limit in (None, 10**11):
        found = Predictor(
            network, steps=steps, table=TABLE, options=options, max_bytes=limit, scratch=tmp_path
        ).predict(volume)
        equal = np.mean(found.label_map == wanted)
        assert equal >= LEAST_EQUAL, f"{equal:.5%} of {wanted.size} voxels are equal"
        assert len(np.unique(found.label_map)) > 2
        classes = TABLE.region_classes()["both"]
        assert np.mean(np.isin(found.label_map, classes) == np.isin(wanted, classes)) >= LEAST_EQUAL
