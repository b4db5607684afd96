"""Augmented patches: what they show, what they read, what lies beyond the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import center_of_mass, map_coordinates

from medseg.data.patches import View
from medseg.errors import ConfigError
from medseg.transforms.augment import augment
from medseg.transforms.options import AugmentStep
from medseg.transforms.random_geometry import Warp, draw_warp
from medseg.transforms.warped import warp_image_and_label

STEP = TypeAdapter(AugmentStep)
MIRROR = np.arange(6)
TURN = {"use": "rotate", "degrees": 30}
RESIZE = {"use": "scale", "low": 0.7, "high": 1.4}
BEND = {"use": "elastic", "sigma": 8, "magnitude": 2}


class Watched(np.ndarray):  # type: ignore[type-arg]
    """An array that remembers the largest piece that was taken of it."""

    largest = 0

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        part = super().__getitem__(key)
        if np.ndim(part) >= 2 and part.size < self.size:
            Watched.largest = max(Watched.largest, part.size)
        return np.asarray(part) if part.size < self.size else part


def steps(*options):  # type: ignore[no-untyped-def]
    return [STEP.validate_python({"probability": 1, **o}) for o in options]


def noise(shape: tuple[int, ...], *, channels: int = 2, sets: int = 5, seed: int = 0):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.random((channels, *shape), dtype=np.float32))
    return image, torch.from_numpy(random.integers(0, sets, (1, *shape)).astype(np.int16))


def run(options, pair, *, seed=1, **changes):  # type: ignore[no-untyped-def]
    return augment(*pair, steps(*options), seed=seed, mirror_sets=MIRROR, **changes)


def warp_of(options, shape, *, seed=1, view=None) -> Warp:  # type: ignore[no-untyped-def]
    chosen = [(s, np.random.default_rng([seed, n])) for n, s in enumerate(steps(*options))]
    return draw_warp(shape, np.zeros(shape, dtype=np.int16), chosen, ignored_set=9, view=view or View())


def test_a_patch_without_steps_is_the_part_of_the_image_that_it_names():
    image, label = noise((20, 30, 14))
    view = View(size=(8, 5, 9), start=(3, 20, 2))
    found = run([], (image, label), view=view)
    assert torch.equal(found[0], image[:, 3:11, 20:25, 2:11])
    assert torch.equal(found[1], label[:, 3:11, 20:25, 2:11])


def test_beyond_the_image_lie_its_minimum_and_the_outside_set():
    image, label = noise((6, 30, 4))
    minima = tuple(float(channel.min()) for channel in image)
    view = View(size=(11, 5, 9), start=(-3, 20, -3), minima=minima)
    for options in ([], [{"use": "flip", "axes": [2], "lateral": None}]):
        found = run(options, (image, label), view=view, outside_set=4)
        assert torch.equal(found[1][:, :3], torch.full((1, 3, 5, 9), 4, dtype=torch.int16))
        for channel in range(2):
            assert (found[0][channel, :3] == minima[channel]).all()
        part = found[0][:, 3:9, :, 3:7] if not options else found[0].flip(3)[:, 3:9, :, 3:7]
        assert torch.equal(part, image[:, :, 20:25])


@pytest.mark.parametrize("options", [[TURN], [RESIZE], [TURN, RESIZE, BEND]])
@pytest.mark.parametrize("padding", ["minimum", "border"])
@pytest.mark.parametrize("shape", [(26, 40, 18), (50, 40)])
def test_an_augmented_patch_is_the_linear_interpolation_at_its_places(options, padding, shape):
    image, label = noise(shape)
    size, start = tuple(n // 2 for n in shape), (-2, 19, 8)[: len(shape)]
    options = [{**o, "padding": padding} for o in options]
    view = View(size=size, start=start)
    found, sets = run(options, (image, label), view=view, outside_set=3)
    warp = warp_of(options, shape, view=view)
    places = [np.broadcast_to(c, size) for c in warp.coordinates()]
    low = image.amin(dim=tuple(range(1, image.ndim)))
    mode = "nearest" if padding == "border" else "grid-constant"
    for channel in range(2):
        expected = map_coordinates(
            image[channel].numpy(), places, order=1, mode=mode, cval=float(low[channel])
        )
        np.testing.assert_allclose(found[channel], expected, atol=2e-4)
    votes = [
        map_coordinates((label[0].numpy() == index).astype(np.float64), places, order=1, mode=mode,
                        cval=float(index == 3))
        for index in range(5)
    ]  # fmt: skip
    given_votes = np.take_along_axis(np.stack(votes), sets.numpy().astype(np.int64), axis=0)[0]
    np.testing.assert_allclose(given_votes, np.max(votes, axis=0), atol=2e-3)


def test_a_turned_patch_is_the_patch_of_a_turned_image():
    image, label = noise((41, 45, 39))
    view = View(size=(11, 13, 9), start=(15, 16, 15))
    whole, part = run([TURN], (image, label)), run([TURN], (image, label), view=view)
    torch.testing.assert_close(part[0], whole[0][:, 15:26, 16:29, 15:24], atol=1e-4, rtol=0)
    assert (part[1] == whole[1][:, 15:26, 16:29, 15:24]).float().mean() > 0.999


@given(seed=st.integers(0, 2**32), start=st.tuples(*[st.integers(-20, 60)] * 3), bend=st.booleans())
@settings(max_examples=40, deadline=None)
def test_only_the_box_around_the_patch_is_read_and_it_is_enough(seed, start, bend):
    shape, size = (48, 60, 40), (10, 12, 7)
    image, label = noise(shape, channels=1)
    view = View(size=size, start=start, minima=(0.0,))
    options = [TURN, RESIZE] + ([BEND] if bend else [])
    warp = warp_of(options, shape, seed=seed, view=view)
    Watched.largest = 0
    watched = image.numpy().view(Watched)
    found = warp_image_and_label(watched, label.numpy(), warp, minima=np.zeros(1), outside_set=0)
    # Turned by 30 degrees about each axis and shrunk to 0.7, with the rim.
    assert 0 < Watched.largest <= 40**3
    places = [np.broadcast_to(c, size) for c in warp.coordinates()]
    expected = map_coordinates(image[0].numpy(), places, order=1, mode="grid-constant", cval=0)
    np.testing.assert_allclose(found[0][0], expected, atol=2e-4)


def test_voxels_that_are_not_cubes_turn_in_millimetres():
    spacing = (0.5, 0.5, 4.0)
    image = torch.zeros(1, 81, 91, 21)
    image[0, 40, 70, 10] = 1
    label = image.to(torch.int16)
    for seed in range(8):
        moved, _ = run([{**TURN, "unit": "mm"}], (image, label), seed=seed, view=View(spacing_mm=spacing))
        shift = (np.array(center_of_mass(moved[0].numpy())) - (40, 45, 10)) * spacing
        # 25 voxels of 0.5 mm from the middle, before and after; in k a voxel is 4 mm thick.
        assert np.linalg.norm(shift) == pytest.approx(12.5, abs=0.7)
    turn = warp_of([{**TURN, "unit": "mm"}], (81, 91, 21), view=View(spacing_mm=spacing)).matrix[:3, :3]
    in_mm = np.diag(spacing) @ turn @ np.linalg.inv(np.diag(spacing))
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    with pytest.raises(ConfigError, match="rotate: unit mm needs the voxel size"):
        run([{**TURN, "unit": "mm"}], (image, label))


def test_axes_keep_a_step_within_the_slices():
    shape = (30, 34, 9)
    for options in (TURN, {**RESIZE, "per_axis": True}, BEND):
        warp = warp_of([{**options, "axes": [0, 1]}], shape)
        np.testing.assert_array_equal(warp.coordinates()[2].reshape(-1), np.arange(9))
        assert not np.array_equal(np.broadcast_to(warp.coordinates()[0], shape)[:, 0, 0], np.arange(30))
    with pytest.raises(ConfigError, match=r"rotate: axes \[0, 2\] do not fit an image of 2 axes"):
        warp_of([{**TURN, "axes": [0, 2]}], (30, 34))
    with pytest.raises(ValidationError, match="axes must name at least two axes"):
        STEP.validate_python({"use": "rotate", "axes": [1, 1]})


def test_elastic_deformation_in_millimetres_is_as_large_along_a_coarse_axis():
    spacing = (1.0, 1.0, 5.0)
    warps = [
        warp_of([{**BEND, "unit": "mm"}], (40, 44, 12), seed=seed, view=View(spacing_mm=spacing))
        for seed in range(60)
    ]
    spread = [np.std([w.displacement[axis] for w in warps]) * spacing[axis] for axis in range(3)]
    np.testing.assert_allclose(spread, [2, 2, 2], rtol=0.15)


def test_the_label_follows_an_ellipsoid_better_than_its_nearest_voxels_do():
    shape = (40, 56, 40)

    def ellipsoid(places: list[NDArray[np.float64]]) -> NDArray[np.int16]:
        size = sum(((c - m) / r) ** 2 for c, m, r in zip(places, (19.3, 27, 19), (8, 14, 6.5), strict=True))
        return np.where(size < 1, np.where(places[1] < 27, 1, 2), 0).astype(np.int16)

    label = ellipsoid(np.meshgrid(*[np.arange(float(n)) for n in shape], indexing="ij"))
    better = []
    for seed in range(4):
        warp = warp_of([TURN, RESIZE], shape, seed=seed)
        found = warp_image_and_label(
            label[None].astype(np.float32), label[None], warp, minima=np.zeros(1), outside_set=0
        )[1]
        places = [np.broadcast_to(c, shape) for c in warp.coordinates()]
        truth, nearest = ellipsoid(places), map_coordinates(label, places, order=0)
        wrong, wrong_nearest = (found[0] != truth).sum(), (nearest != truth).sum()
        better.append(wrong < 0.85 * wrong_nearest)
    assert all(better)


def test_the_mirrored_patch_swaps_sides():
    image, label = noise((20, 30, 14), sets=3)
    view = View(size=(8, 5, 9), start=(3, 20, 2))
    found = augment(
        image, label, steps({"use": "flip"}), seed=0, mirror_sets=np.array([0, 2, 1, 3]), view=view
    )
    assert torch.equal(found[0], image[:, 3:11, 20:25, 2:11].flip(1))
    swapped = torch.tensor([0, 2, 1], dtype=torch.int16)[label[:, 3:11, 20:25, 2:11].long()]
    assert torch.equal(found[1], swapped.flip(1))


@pytest.mark.parametrize("use", ["low_resolution", "blur", "noise", "gamma", "bias_field", "border"])
def test_any_step_takes_a_patch_that_was_only_mirrored(use):
    view = View(size=(8, 9, 9), start=(3, 20, 2))
    found = run(
        [{"use": "flip", "axes": [0, 2], "lateral": None}, {"use": use}], noise((20, 30, 14)), view=view
    )
    assert found[0].shape == (2, 8, 9, 9)


def test_a_crop_step_acts_within_the_patch():
    image, label = noise((20, 30, 14))
    view = View(size=(8, 9, 9), start=(3, 20, 2))
    found = run([{"use": "crop", "size": [4, 5, 5], "probability": 0}], (image, label), view=view)
    assert torch.equal(found[0], image[:, 5:9, 22:27, 4:9])
