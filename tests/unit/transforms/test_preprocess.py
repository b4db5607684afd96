from itertools import product

import numpy as np
import pytest
from pydantic import TypeAdapter

from medseg.errors import ConfigError, GeometryError, InputError, InputRefusedError
from medseg.transforms.options import PreprocessStep
from medseg.transforms.preprocess import label_to_grid, preprocess
from medseg.volume import Volume

STEPS = TypeAdapter(list[PreprocessStep])


def steps(*items: dict) -> list:
    return STEPS.validate_python(list(items))


def volume(array, **facts) -> Volume:
    return Volume(array=np.asarray(array), **facts)


def picture(i: int = 50, j: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, i, j), dtype=np.float32)


# The eight ways a film can lie: any of them must come to left-foot.
WAYS = [(a, b) for pair in (("LR", "HF"), ("HF", "LR")) for a, b in product(*pair)]


@pytest.mark.parametrize("way", WAYS)
def test_all_eight_orientations_come_to_the_display_standard(way):
    # Value = 10 * steps towards the patient's left + steps towards the foot.
    towards = {"L": (10, 0), "R": (-10, 90), "F": (1, 0), "H": (-1, 6)}
    lengths = {"L": 10, "R": 10, "F": 7, "H": 7}
    index = np.indices([lengths[d] for d in way])
    array = sum(towards[d][0] * i + towards[d][1] for d, i in zip(way, index, strict=True))[None]
    found = preprocess(
        volume(array, patient_orientation=way, spacing_mm=(0.2, 0.3)), steps({"use": "orient", "to": "LF"})
    )
    np.testing.assert_array_equal(found.array[0], 10 * np.arange(10)[:, None] + np.arange(7)[None])
    assert found.spacing_mm == ((0.2, 0.3) if way[0] in "LR" else (0.3, 0.2))
    assert found.notes == ()


def test_unknown_orientation_is_left_alone_and_noted():
    array = picture()
    found = preprocess(volume(array), steps({"use": "orient", "to": "LF"}))
    np.testing.assert_array_equal(found.array, array)
    assert found.notes == ("The orientation is unknown; taken to be LF.",)


def test_a_lateral_film_is_left_alone_and_noted():
    found = preprocess(
        volume(picture(), patient_orientation=("A", "F")), steps({"use": "orient", "to": "LF"})
    )
    assert "grow towards A and I" in found.notes[0]


def test_oblique_left_handed_volume_comes_to_ras():
    # Axes: i towards posterior, j towards left, k towards superior, tilted by ten degrees, anisotropic.
    turn = np.deg2rad(10)
    tilt = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([[0, -0.7, 0], [-0.5, 0, 0], [0, 0, 3.0]])
    array = np.random.default_rng(5).random((1, 4, 5, 6), dtype=np.float32)
    found = preprocess(
        volume(array, affine=affine, spacing_mm=(0.5, 0.7, 3.0)), steps({"use": "orient", "to": "RAS"})
    )
    np.testing.assert_array_equal(found.array[0], array[0].transpose(1, 0, 2)[::-1, ::-1])
    assert found.spacing_mm == (0.7, 0.5, 3.0)


def test_orientation_is_tracked_through_earlier_steps():
    array = picture()
    chain = steps({"use": "orient", "to": "FR"}, {"use": "orient", "to": "LF"})
    found = preprocess(volume(array, patient_orientation=("L", "F")), chain)
    np.testing.assert_array_equal(found.array, array)
    np.testing.assert_array_equal(found.grid.matrix, np.eye(3))


def test_orient_needs_as_many_letters_as_axes():
    with pytest.raises(ConfigError, match="'RAS' names 3 axes, the image has 2"):
        preprocess(volume(picture()), steps({"use": "orient", "to": "RAS"}))


def test_resize_keeps_aspect_and_pads_with_the_minimum_on_both_sides():
    array = picture(100, 60) + 1
    found = preprocess(volume(array, spacing_mm=(0.1, 0.1)), steps({"use": "resize", "size": [50, 50]}))
    assert found.array.shape == (1, 50, 50)
    low = found.array.min()
    assert (found.array[0, :, :10] == low).all()
    assert (found.array[0, :, 40:] == low).all()
    assert (found.array[0, :, 10:40] > low - 1e-6).all()
    np.testing.assert_allclose(found.spacing_mm, (0.2, 0.2))
    np.testing.assert_allclose(found.grid.matrix @ [0, 10, 1], [0.5, 0.5, 1])


def test_resize_without_aspect_fills_the_size():
    found = preprocess(
        volume(picture(100, 60), spacing_mm=(0.1, 0.1)),
        steps({"use": "resize", "size": [50, 50], "keep_aspect": False}),
    )
    np.testing.assert_allclose(found.spacing_mm, (0.2, 0.12))


def test_resample_reaches_the_spacing_exactly_and_covers_the_image():
    found = preprocess(
        volume(picture(101, 60), spacing_mm=(0.3, 0.5)), steps({"use": "resample", "spacing_mm": [0.7, 0.7]})
    )
    np.testing.assert_allclose(found.spacing_mm, (0.7, 0.7), rtol=1e-12)
    assert found.array.shape == (1, 44, 43)
    first, last = found.grid.matrix @ [-0.5, -0.5, 1], found.grid.matrix @ [43.5, 42.5, 1]
    assert (first[:2] <= -0.5 + 1e-9).all()
    assert (last[:2] >= np.array([100.5, 59.5]) - 1e-9).all()


def test_resample_of_unknown_spacing_is_refused():
    with pytest.raises(GeometryError, match="does not say how far its pixels are apart"):
        preprocess(volume(picture()), steps({"use": "resample", "spacing_mm": [1, 1]}))


@pytest.mark.parametrize(
    ("step", "shape"),
    [({"size": [64, 64]}, (64, 70)), ({"multiple": 16}, (64, 80)), ({"size": [50, 70]}, (50, 70))],
)
def test_pad_is_symmetric_and_never_cuts(step, shape):
    found = preprocess(volume(picture()), steps({"use": "pad", "value": -3, **step}))
    assert found.array.shape == (1, *shape)
    start = [-int(v) for v in found.grid.matrix[:2, 2]]
    assert start == [(n - m) // 2 for n, m in zip(shape, (50, 70), strict=True)]
    assert (found.array == -3).sum() == np.prod(shape) - 50 * 70


def test_crop_box():
    array = picture()
    found = preprocess(
        volume(array), steps({"use": "crop", "method": "box", "start": [5, 7], "size": [20, 30]})
    )
    np.testing.assert_array_equal(found.array, array[:, 5:25, 7:37])


def test_crop_box_beyond_the_image_is_refused():
    with pytest.raises(GeometryError, match=r"box at \(40, 0\) of size \(20, 10\) reaches beyond"):
        preprocess(
            volume(picture()), steps({"use": "crop", "method": "box", "start": [40, 0], "size": [20, 10]})
        )


@pytest.mark.parametrize("threshold", [{}, {"threshold": 0.5}])
def test_crop_foreground_keeps_a_margin_within_the_image(threshold):
    array = np.zeros((1, 40, 60), dtype=np.float32)
    array[0, 1:20, 30:41] = 1
    found = preprocess(
        volume(array), steps({"use": "crop", "method": "foreground", "margin": 3, **threshold})
    )
    np.testing.assert_array_equal(found.array, array[:, 0:23, 27:44])


def test_crop_foreground_without_foreground_is_refused():
    with pytest.raises(InputRefusedError, match="no voxel lies above the foreground threshold 2"):
        preprocess(volume(picture()), steps({"use": "crop", "method": "foreground", "threshold": 2}))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_border_crop_takes_off_a_noisy_frame_and_nothing_else(level):
    content = 0.2 + 0.6 * picture(60, 80)
    noise = 0.003 * np.random.default_rng(1).standard_normal((1, 100, 110)).astype(np.float32)
    array = np.full((1, 100, 110), level, dtype=np.float32) + noise
    array[:, 10:70, 20:100] = content
    found = preprocess(volume(array), steps({"use": "crop", "method": "border"}))
    np.testing.assert_array_equal(found.array, content)


def test_border_crop_stops_at_the_first_line_with_anything_on_it():
    array = np.zeros((1, 100, 110), dtype=np.float32)
    array[:, 30:70, 20:100] = 0.2 + 0.6 * picture(40, 80)
    array[0, 4, 50] = 0.5
    found = preprocess(volume(array), steps({"use": "crop", "method": "border"}))
    np.testing.assert_array_equal(found.array, array[:, 4:70, 20:100])


def test_a_border_that_leaves_next_to_nothing_is_not_believed():
    array = np.zeros((1, 100, 110), dtype=np.float32)
    array[:, 45:65, 50:70] = 0.2 + 0.6 * picture(20, 20)
    found = preprocess(volume(array), steps({"use": "crop", "method": "border"}))
    assert found.array.shape == array.shape
    assert "would leave 20 x 20 pixels" in found.notes[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    array = picture()
    array[0, 3, 4] = bad
    with pytest.raises(InputRefusedError, match="has 1 values that are not finite, of 3500"):
        preprocess(volume(array), [])


def test_an_all_black_image_is_refused_by_the_first_step_that_needs_contrast():
    with pytest.raises(InputRefusedError, match="no contrast, both ends are 0"):
        preprocess(volume(np.zeros((1, 20, 30))), steps({"use": "normalise"}))


def test_steps_act_in_the_order_given_and_compose_to_one_map():
    array = picture(48, 72)
    chain = [
        {"use": "crop", "method": "box", "start": [8, 0], "size": [40, 72]},
        {"use": "pad", "multiple": 16},
    ]
    forward = preprocess(volume(array), steps(*chain))
    backward = preprocess(volume(array), steps(*chain[::-1]))
    assert forward.array.shape == (1, 48, 80)
    assert backward.array.shape == (1, 40, 72)
    assert (forward.array != backward.array[:, :1, :1]).any()
    np.testing.assert_array_equal(forward.grid.matrix @ [4, 4, 1], [8, 0, 1])


def test_source_is_left_unchanged_and_not_shared():
    array = picture()
    before = array.copy()
    found = preprocess(
        volume(array), steps({"use": "crop", "method": "box", "start": [0, 0], "size": [9, 9]})
    )
    found.array[:] = -1
    np.testing.assert_array_equal(array, before)
    assert found.array.flags.c_contiguous
    assert found.array.dtype == np.float32


def test_image_and_label_stay_aligned_through_a_whole_chain():
    mask = np.zeros((1, 90, 130), dtype=np.uint8)
    mask[0, 20:60, 30:110] = 1
    chain = steps(
        {"use": "orient", "to": "LF"},
        {"use": "crop", "method": "box", "start": [5, 3], "size": [110, 80]},
        {"use": "resize", "size": [64, 64]},
        {"use": "pad", "size": [70, 64]},
    )
    found = preprocess(volume(mask.astype(np.float32), patient_orientation=("H", "R")), chain)
    label = label_to_grid(mask, found.grid)
    assert label.shape == found.array.shape
    assert (found.array > 0.5).sum() == pytest.approx(label.sum(), rel=0.03)
    for axis in (1, 2):
        weights = [a.sum(axis=tuple(x for x in (0, 1, 2) if x != axis)) for a in (found.array, label)]
        centres = [(w * np.arange(w.size)).sum() / w.sum() for w in weights]
        assert abs(centres[0] - centres[1]) < 0.2


def test_colour_becomes_luma_or_mean():
    colour = np.stack([np.full((3, 4), v, dtype=np.uint8) for v in (10, 20, 60)])
    assert preprocess(volume(colour), steps({"use": "gray"})).array[0, 0, 0] == pytest.approx(21.57)
    mean = preprocess(volume(colour), steps({"use": "gray", "weights": "mean"}))
    assert mean.array.shape == (1, 3, 4)
    assert mean.array[0, 0, 0] == 30
    with pytest.raises(InputError, match="rec601 needs 3 channels, found 2"):
        preprocess(volume(colour[:2]), steps({"use": "gray"}))


@pytest.mark.parametrize("spacing", [0.8, 1 / 3, 0.7421875, 2.3])
@pytest.mark.parametrize("size", [7, 120, 511])
def test_a_spacing_that_a_file_rounded_needs_no_resampling(spacing, size):
    stored = float(np.float32(spacing))
    image = volume(picture(size, 9), spacing_mm=(stored, 2 * stored))
    prepared = preprocess(image, steps({"use": "resample", "spacing_mm": [spacing, 2 * spacing]}))
    assert np.array_equal(prepared.array, image.array)
    assert prepared.grid.source_shape == prepared.grid.target_shape


def test_resampling_covers_the_image_and_adds_no_voxel_for_rounding():
    image = volume(picture(120, 9), spacing_mm=(float(np.float32(0.8)), 1.0))
    prepared = preprocess(image, steps({"use": "resample", "spacing_mm": [1.6, 0.9]}))
    assert prepared.array.shape == (1, 60, 10)
