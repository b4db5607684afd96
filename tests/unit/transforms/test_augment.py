import pickle

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.ndimage import center_of_mass

from medseg.errors import ConfigError
from medseg.transforms.augment import augment, compile_augment
from medseg.transforms.options import AugmentStep
from medseg.transforms.random_geometry import smooth_field
from medseg.transforms.random_intensity import gaussian_blur

STEP = TypeAdapter(AugmentStep)
# Sets of a left/right task: background, right, left, {right, left}, all.
MIRROR = np.array([0, 2, 1, 3, 4])

GEOMETRIC = {
    "rotate": {"degrees": 25},
    "scale": {"low": 0.7, "high": 1.4},
    "scale_per_axis": {"use": "scale", "low": 0.7, "high": 1.4, "per_axis": True},
    "flip": {"axes": [0, 1]},
    "shift": {"fraction": 0.2},
    "elastic": {"sigma": 12, "magnitude": 3},
    "crop": {"size": [60, 70]},
    "crop_foreground": {"use": "crop", "size": [60, 70], "foreground": 1},
}
VALUES = {
    "gamma": {},
    "contrast": {},
    "brightness": {},
    "invert": {},
    "noise": {},
    "blur": {},
    "sharpen": {},
    "low_resolution": {"low": 2},
    "bias_field": {},
    "cutout": {},
    "keep_border": {"use": "border", "label": "keep", "fraction": 0.3},
}


def step(name: str, options: dict):
    return STEP.validate_python({"use": name, "probability": 1, **options})


def sample(shape: tuple[int, ...] = (96, 80)) -> tuple[torch.Tensor, torch.Tensor]:
    """Two ellipsoids, unequal, so that every motion shows; the image is the mask."""
    index = [(np.arange(n) + 0.5) / n for n in shape]
    grid = np.meshgrid(*index, indexing="ij")
    right = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, (0.3, 0.45, 0.5), (0.14, 0.3, 0.3), strict=False))
    left = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, (0.7, 0.55, 0.5), (0.2, 0.25, 0.3), strict=False))
    label = np.where(right < 1, 1, 0) + np.where(left < 1, 2, 0)
    image = (label > 0).astype(np.float32)
    return torch.from_numpy(image)[None], torch.from_numpy(label.astype(np.int16))[None]


def run(steps, seed=0, *, pair=None, outside_set=0):
    image, label = pair or sample()
    return augment(image, label, steps, seed=seed, mirror_sets=MIRROR, outside_set=outside_set)


def dice(a, b) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_image_and_label_move_together(name, seed):
    image, label = run([step(name, GEOMETRIC[name])], seed)
    assert label.dtype == torch.int16
    assert image.shape == label.shape
    assert dice(image > 0.5, label > 0) > 0.985
    assert not torch.equal(label, sample()[1])


def test_all_geometric_steps_together_keep_image_and_label_aligned():
    steps = [step(name.split("_")[0], options) for name, options in GEOMETRIC.items() if "crop" not in name]
    for seed in range(5):
        image, label = run(steps, seed)
        assert dice(image > 0.5, label > 0) > 0.98


def test_image_and_label_move_together_in_3d():
    pair = sample((40, 36, 30))
    steps = [step(n, GEOMETRIC[n]) for n in ("rotate", "scale", "flip", "shift", "elastic")]
    steps.append(step("crop", {"size": [32, 30, 28]}))
    image, label = run(steps, 3, pair=pair)
    assert label.shape == (1, 32, 30, 28)
    assert dice(image > 0.5, label > 0) > 0.96


@pytest.mark.parametrize("name", VALUES)
def test_intensity_steps_change_the_image_and_leave_the_label_alone(name):
    image, label = sample()
    image = image * 0.6 + 0.2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    kept = image.clone(), label.clone()
    new_image, new_label = run([step(name, VALUES[name])], 1, pair=(image, label))
    assert not torch.equal(new_image, image)
    assert new_image.dtype == torch.float32
    assert torch.isfinite(new_image).all()
    assert torch.equal(new_label, label)
    assert torch.equal(image, kept[0])


@pytest.mark.parametrize("shape", [(48, 40), (24, 20, 16)])
def test_every_step_takes_several_channels_and_3d(shape):
    image, label = sample(shape)
    image = image.repeat(2, *[1] * len(shape)) + 0.1 * torch.arange(2).reshape(2, *[1] * len(shape))
    for name, options in {**GEOMETRIC, **VALUES, "border": {}}.items():
        if "crop" in name:
            options = {**options, "size": [n - 8 for n in shape]}
        new_image, new_label = run([step(name.split("_per")[0], options)], 2, pair=(image, label))
        assert new_image.shape[0] == 2
        assert new_image.shape[1:] == new_label.shape[1:]


def everything() -> list:
    items = {**GEOMETRIC, **VALUES, "border": {}}
    return [step(name, {"probability": 0.5, **options}) for name, options in items.items()]


def test_the_seed_alone_decides():
    steps = everything()
    first, again, other = run(steps, 7), run(steps, 7), run(steps, 8)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_global_random_state_and_thread_count_do_not_matter():
    steps = [step(n.split("_per")[0], o) for n, o in {**GEOMETRIC, **VALUES}.items() if "crop" not in n]
    pair = sample((300, 260))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(steps, 5, pair=pair)
        torch.set_num_threads(2)
        torch.manual_seed(123)
        np.random.seed(5)  # noqa: NPY002
        two = run(steps, 5, pair=pair)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_a_step_more_at_the_end_does_not_change_what_the_others_draw():
    rotate = step("rotate", {"degrees": 20})
    alone = run([rotate], 4)
    followed = run([rotate, step("gamma", {"probability": 0})], 4)
    assert torch.equal(alone[0], followed[0])


def test_probability_zero_is_no_change_and_one_half_is_about_half():
    never = [step(n, {"probability": 0, **GEOMETRIC[n]}) for n in ("rotate", "scale", "elastic")]
    image, _ = sample()
    assert torch.equal(run(never)[0], image)
    half = [step("invert", {"probability": 0.5})]
    changed = sum(not torch.equal(run(half, seed)[0], image) for seed in range(200))
    assert 75 < changed < 125


def test_flip_along_the_lateral_axis_swaps_sides():
    image, label = sample()
    new_image, new_label = run([step("flip", {"axes": [0]})])
    assert torch.equal(new_image, image.flip(1))
    assert torch.equal(new_label == 1, (label == 2).flip(1))
    assert torch.equal(new_label == 2, (label == 1).flip(1))


def test_flip_along_another_axis_keeps_sides():
    image, label = sample()
    new_image, new_label = run([step("flip", {"axes": [1]})])
    assert torch.equal(new_image, image.flip(2))
    assert torch.equal(new_label, label.flip(2))
    unpaired = run([step("flip", {"axes": [0], "lateral": None})])[1]
    assert torch.equal(unpaired, label.flip(1))


def test_flip_swaps_sides_under_rotation_too():
    steps = [step("rotate", {"degrees": 15}), step("flip", {"axes": [0]}), step("shift", {"fraction": 0.1})]
    label = run(steps, 2)[1][0].numpy()
    # In display orientation the right lung lies at lower i, whether mirrored or not.
    assert center_of_mass(label == 1)[0] < center_of_mass(label == 2)[0]


def test_flip_of_an_axis_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"axes \[2\] do not fit an image of 2 axes"):
        run([step("flip", {"axes": [2]})])


def test_outside_is_the_image_minimum_and_the_outside_set():
    image, label = sample()
    image = image * 2 - 5
    new_image, new_label = run([step("scale", {"low": 0.5, "high": 0.5})], pair=(image, label), outside_set=4)
    assert (new_image[0, :20] == -5).all()
    assert (new_label[0, :20] == 4).all()
    assert (new_label[0, 30:66, 25:55] != 4).all()


def test_padding_border_repeats_the_rim():
    image = torch.arange(60, dtype=torch.float32).reshape(1, 60, 1).repeat(1, 1, 50)
    label = torch.ones(1, 60, 50, dtype=torch.int16)
    found = run([step("scale", {"low": 0.5, "high": 0.5, "padding": "border"})], pair=(image, label))[0]
    assert (found[0, :14] == 0).all()
    assert (found[0, -14:] == 59).all()


@pytest.mark.parametrize("degrees", [10.0])
def test_rotation_turns_about_the_centre_by_no_more_than_asked(degrees):
    image = torch.zeros(1, 101, 81)
    image[0, 50, 70] = 1
    label = torch.zeros(1, 101, 81, dtype=torch.int16)
    for seed in range(10):
        place = center_of_mass(
            run([step("rotate", {"degrees": degrees})], seed, pair=(image, label))[0][0].numpy()
        )
        offset = np.array(place) - (50, 40)
        assert np.hypot(*offset) == pytest.approx(30, abs=0.2)
        assert abs(np.degrees(np.arctan2(offset[0], offset[1]))) <= degrees + 0.5


def test_scale_enlarges_the_content_above_one():
    label = run([step("scale", {"low": 1.25, "high": 1.25})])[1]
    assert int((label > 0).sum()) == pytest.approx(1.25**2 * int((sample()[1] > 0).sum()), rel=0.03)


@pytest.mark.parametrize("name", ["scale", "rotate"])
def test_the_centre_of_an_even_number_of_voxels_stays_in_place(name):
    options = {"scale": {"low": 0.6, "high": 0.6}, "rotate": {"degrees": 30}}[name]
    image = torch.zeros(1, 60, 80)
    image[0, 20:40, 30:50] = 1
    label = image.to(torch.int16)
    found = run([step(name, options)], 1, pair=(image, label))[0][0].numpy()
    np.testing.assert_allclose(center_of_mass(found), (29.5, 39.5), atol=1e-3)


def test_two_equal_steps_draw_independently():
    image, _ = sample()
    twice = [step("invert", {"probability": 0.5})] * 2
    changed = sum(not torch.equal(run(twice, seed)[0], image) for seed in range(100))
    assert 30 < changed < 70


def test_crop_is_exact_and_centred_where_it_is_not_random():
    image, label = sample()
    found = run([step("crop", {"size": [60, 41], "probability": 0})])
    assert torch.equal(found[0], image[:, 18:78, 19:60])
    assert torch.equal(found[1], label[:, 18:78, 19:60])


def test_crop_of_a_smaller_image_fills_up_both_sides():
    image, label = sample()
    found = run([step("crop", {"size": [100, 90]})], pair=(image + 1, label), outside_set=4)
    assert torch.equal(found[0][:, 2:98, 5:85], image + 1)
    assert (found[1][:, :2] == 4).all()
    assert found[0].min() == 1


def test_crop_looks_for_foreground_but_not_for_ignored_voxels():
    image, label = torch.zeros(1, 96, 80), torch.zeros(1, 96, 80, dtype=torch.int16)
    label[0, 70, 60] = 2
    label[0, :9, :9] = len(MIRROR) - 1
    steps = [step("flip", {"axes": [0]}), step("crop", {"size": [11, 13], "foreground": 1})]
    for seed in range(20):
        assert (run(steps, seed, pair=(image, label))[1] == 1).sum() == 1


def test_elastic_displacement_has_the_asked_size():
    random = np.random.default_rng(0)
    fields = np.stack([smooth_field((60, 90), 8.0, random) for _ in range(400)])
    assert fields.std() == pytest.approx(1, abs=0.03)
    assert np.abs(fields.std(axis=0) - 1).max() < 0.15
    assert np.abs(np.diff(fields, axis=1)).max() < 1


def test_gamma_keeps_the_ends_of_any_range():
    image = torch.linspace(-2, 3, 96 * 80).reshape(1, 96, 80)
    found = run([step("gamma", {"low": 2, "high": 2})], pair=(image, sample()[1]))[0]
    assert found.min() == pytest.approx(-2, abs=1e-5)
    assert found.max() == pytest.approx(3, abs=1e-5)
    np.testing.assert_allclose(found, ((image + 2) / 5) ** 2 * 5 - 2, atol=1e-5)


def test_gamma_of_the_inverted_image_bends_the_bright_end():
    image = torch.linspace(0, 1, 96 * 80).reshape(1, 96, 80)
    pair = (image, sample()[1])
    found = run([step("gamma", {"low": 2, "high": 2, "inverted": 1})], pair=pair)[0]
    np.testing.assert_allclose(found, 1 - (1 - image) ** 2, atol=1e-5)
    half = [step("gamma", {"low": 2, "high": 2, "inverted": 0.5})]
    bent_up = sum(bool((run(half, seed, pair=pair)[0] >= image - 1e-5).all()) for seed in range(60))
    assert 15 < bent_up < 45


def test_channelwise_steps_draw_for_each_channel_and_keep_its_range():
    image = (
        torch.linspace(0, 1, 96 * 80).reshape(1, 96, 80).repeat(2, 1, 1)
        * torch.tensor([1.0, 50.0])[:, None, None]
    )
    pair = (image, sample()[1])
    for name in ("gamma", "contrast", "brightness", "noise", "blur", "low_resolution"):
        options = {"low": 1.5} if name == "low_resolution" else {}
        found = run([step(name, {**options, "channelwise": True})], pair=pair)[0]
        change = (found - image).abs().amax(dim=(1, 2)) / torch.tensor([1.0, 50.0])
        assert (change > 1e-4).all()
        assert (change < 0.5).all()
        assert change[0] != change[1]
        together = run([step(name, options)], pair=pair)[0]
        assert not torch.equal(together, found)


def test_blur_and_low_resolution_can_keep_to_the_slices():
    image = torch.rand((1, 20, 24, 8), generator=torch.Generator().manual_seed(1))
    image[..., ::2] = 0
    label = torch.zeros((1, 20, 24, 8), dtype=torch.int16)
    for name in ("blur", "low_resolution"):
        found = run([step(name, {"low": 1.5, "axes": [0, 1], "high": 3})], pair=(image, label))[0]
        assert (found[..., ::2].abs() < 1e-6).all()
        assert not torch.equal(found, image)


def test_invert_swaps_the_ends():
    image, _ = sample()
    assert torch.equal(run([step("invert", {})])[0], 1 - image)


def test_noise_is_no_stronger_than_asked():
    image, _ = sample()
    for seed in range(5):
        assert (run([step("noise", {"std": 0.1})], seed)[0] - image).std() < 0.102


def test_blur_keeps_the_mean_and_widens_a_point_by_sigma():
    image = np.zeros((1, 41, 51), dtype=np.float32)
    image[0, 20, 25] = 1
    found = gaussian_blur(image, 2.0)[0]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    variance = (found.sum(axis=1) * (np.arange(41) - 20) ** 2).sum()
    assert variance == pytest.approx(4, rel=0.05)


def test_border_covers_the_rim_with_one_level_and_the_label_with_outside():
    image, label = sample()
    image = 0.2 + 0.5 * image
    for seed in range(6):
        found, mask = run([step("border", {"fraction": 0.4})], seed, pair=(image, label), outside_set=4)
        covered = mask == 4
        assert found[covered].unique().numel() == 1
        assert torch.equal(found[~covered], image[~covered])
        assert torch.equal(mask[~covered], label[~covered])


def test_cutout_covers_at_most_what_was_asked():
    image, _ = sample()
    found = run([step("cutout", {"holes": 2, "size": 0.25})], 3)[0]
    assert 0 < (found != image).sum() <= 2 * 24 * 20


def test_low_resolution_averages_blocks():
    image, label = sample()
    noisy = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    found = run([step("low_resolution", {"low": 4, "high": 4})], pair=(noisy, label))[0]
    assert found.shape == image.shape
    assert found.std() < 0.35 * noisy.std()
    assert found.mean() == pytest.approx(float(noisy.mean()), abs=0.01)


def test_a_flat_image_stays_flat_under_every_intensity_step():
    flat = torch.full((1, 30, 40), 0.4)
    label = torch.zeros(1, 30, 40, dtype=torch.int16)
    steps = [step(name, options) for name, options in VALUES.items()]
    assert torch.equal(run(steps, 1, pair=(flat, label))[0], flat)


def test_the_compiled_callable_travels_to_workers():
    function = compile_augment(everything(), MIRROR)
    there = pickle.loads(pickle.dumps(function))
    image, label = sample()
    here = function(image, label, 11)
    assert torch.equal(there(image, label, 11)[0], here[0])
