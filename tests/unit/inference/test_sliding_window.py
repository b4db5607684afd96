import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medseg.errors import ConfigError
from medseg.inference.sliding_window import importance, sliding_window, softmax, window_slices


def small_network(dims: int, *, classes: int = 3) -> nn.Module:
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            convolution(2, 6, 5, padding=2), nn.ReLU(), convolution(6, classes, 3, padding=1)
        ).eval()


def random_image(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((70, 45), (32, 16)),
        ((64, 48), (64, 48)),
        ((20, 45), (32, 16)),
        ((33, 31), (32, 32)),
        ((29, 17, 23), (16, 12, 8)),
        ((9, 30, 7), (16, 16, 16)),
    ],
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_agrees_with_monai(size, window, overlap, blend):
    network, image = small_network(len(size)), random_image(2, *size)
    with torch.inference_mode():
        ours = sliding_window(image, network, window=window, overlap=overlap, batch_size=3, blend=blend)
        theirs = sliding_window_inference(
            image[None],
            window,
            3,
            lambda x: torch.softmax(network(x), dim=1),
            overlap=overlap,
            mode=blend,
            cval=float(image.min()),
        )[0]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(70, 45), (11, 45), (17, 23, 9)])
def test_predictor_that_adds_one_gives_the_image_plus_one(size):
    image = random_image(2, *size)
    window = (16, 12, 8)[: len(size)]
    found = sliding_window(image, lambda x: x + 1, window=window, overlap=0.5, activation=identity)
    torch.testing.assert_close(found, image + 1, atol=1e-5, rtol=1e-5)


def test_whole_image_is_one_window():
    sizes = []

    def network(x):
        sizes.append(tuple(x.shape))
        return x

    sliding_window(random_image(3, 37, 21), network, window=None, activation=identity)
    assert sizes == [(1, 3, 37, 21)]


def test_windows_cover_the_image_and_stay_inside():
    seen = np.zeros((50, 33), dtype=int)
    for place in window_slices((50, 33), (16, 16), 0.3):
        assert seen[place].shape == (16, 16)
        seen[place] += 1
    assert seen.min() >= 1


def test_weights_are_a_bell_of_an_eighth_of_the_window():
    weights = importance((33, 17))
    assert float(weights.max()) == 1.0
    assert weights.argmax() == 16 * 17 + 8
    # One sigma from the centre: 33 / 8 voxels.
    np.testing.assert_allclose(float(weights[16 + 4, 8]), np.exp(-0.5 * (4 / (33 / 8)) ** 2), rtol=1e-5)
    torch.testing.assert_close(weights, weights.flip([0, 1]), atol=0, rtol=0)


def side_of_the_bright_half(x: torch.Tensor) -> torch.Tensor:
    """Names a bright voxel by the half of the window it lies in: class 1 in the first, 2 in the second."""
    first = (torch.arange(x.shape[2]) < x.shape[2] / 2).float().reshape(1, 1, -1, 1)
    return torch.cat([1 - x, x * first, x * (1 - first)], dim=1) * 20


def test_flips_swap_sides_and_come_back_exactly():
    image = torch.zeros(1, 20, 14)
    image[0, 2:6, 3:9] = 1
    image[0, 15:19, 5:7] = 1
    plain = sliding_window(image, side_of_the_bright_half)
    for axes in [(0,), (1,), (0, 1)]:
        flipped = sliding_window(
            image, side_of_the_bright_half, tta=["flip"], flip_axes=axes, mirror_classes=[0, 2, 1]
        )
        torch.testing.assert_close(flipped, plain, atol=1e-7, rtol=0)


def test_flips_without_the_mirror_table_confuse_sides():
    image = torch.zeros(1, 20, 14)
    image[0, 2:6, 3:9] = 1
    found = sliding_window(image, side_of_the_bright_half, tta=["flip"], flip_axes=[0])
    np.testing.assert_allclose(found[:, 3, 4], [0, 0.5, 0.5], atol=1e-6)


def test_flips_average_the_four_mirrored_answers():
    network, image = small_network(2), random_image(2, 24, 17)
    with torch.inference_mode():
        found = sliding_window(image, network, tta=["flip"], flip_axes=[0, 1], side_axis=None)
        answers = [
            torch.softmax(network(image[None].flip(dims)), dim=1).flip(dims)[0]
            for dims in ([], [2], [3], [2, 3])
        ]
    torch.testing.assert_close(found, torch.stack(answers).mean(dim=0), atol=1e-6, rtol=0)


def test_gamma_and_invert_stay_in_the_range_of_the_image():
    image = random_image(1, 20, 14) * 7 - 3
    shown = []

    def network(x):
        shown.append(x[0].clone())
        return torch.cat([x, -x], dim=1)

    sliding_window(image, network, tta=["gamma", "invert"])
    assert len(shown) == 4
    for version in shown:
        np.testing.assert_allclose([version.min(), version.max()], [image.min(), image.max()], rtol=1e-5)
    torch.testing.assert_close(shown[3], image.min() + image.max() - image)
    assert shown[1].mean() > image.mean() > shown[2].mean()


def test_probabilities_sum_to_one_with_everything_on():
    found = sliding_window(
        random_image(2, 41, 30),
        small_network(2),
        window=(16, 16),
        overlap=0.5,
        tta=["flip", "gamma", "invert"],
        flip_axes=[0, 1],
        mirror_classes=[0, 2, 1],
    )
    torch.testing.assert_close(found.sum(dim=0), torch.ones(41, 30), atol=1e-5, rtol=0)


def test_window_with_other_axes_is_refused():
    with pytest.raises(
        ConfigError, match=r"inference.window has 3 axes \(8, 8, 8\), the prepared image has 2"
    ):
        sliding_window(random_image(2, 20, 20), identity, window=(8, 8, 8))
    with pytest.raises(ConfigError, match=r"flip_axes are \[2\], the prepared image has axes 0 to 1"):
        sliding_window(random_image(2, 20, 20), identity, tta=["flip"], flip_axes=[2])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_large_logits_become_the_same_probabilities_in_place(monkeypatch, layout):
    monkeypatch.setattr("medseg.inference.sliding_window._OVERWRITTEN", 1000)
    logits = torch.randn((2, 5, 11, 6, 7), generator=torch.Generator().manual_seed(0)) * 8
    wanted = torch.softmax(logits, dim=1)
    with torch.inference_mode():
        own = logits.clone().contiguous(memory_format=layout)
        found = softmax(own)
        assert found.data_ptr() == own.data_ptr()
        torch.testing.assert_close(found, wanted)
        expanded = logits[:, :, :1].expand(-1, -1, 40, -1, -1)
        torch.testing.assert_close(softmax(expanded), torch.softmax(expanded, dim=1))
    kept = logits.clone()
    torch.testing.assert_close(softmax(kept), wanted)
    torch.testing.assert_close(kept, logits)
