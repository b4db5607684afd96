import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from medseg.errors import GeometryError
from medseg.geometry import GridMap
from medseg.transforms.options import PreprocessStep
from medseg.transforms.preprocess import label_to_grid, preprocess
from medseg.transforms.regrid import regrid
from medseg.transforms.restore import restore_channel, restore_label_map
from medseg.volume import Volume

STEPS = TypeAdapter(list[PreprocessStep])


def one_hot(label: np.ndarray, count: int) -> np.ndarray:
    return np.stack([(label == c).astype(np.float32) for c in range(count)])


@st.composite
def whole_voxel_maps(draw) -> GridMap:
    dims = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(2, 9)) for _ in range(dims))
    grid = GridMap.identity(shape)
    for _ in range(draw(st.integers(1, 3))):
        axes = tuple(draw(st.permutations(range(dims))))
        grid = grid.then(
            GridMap.permute_flip(grid.target_shape, axes, tuple(draw(st.booleans()) for _ in axes))
        )
        start = tuple(draw(st.integers(-3, 3)) for _ in axes)
        size = tuple(draw(st.integers(1, 9)) for _ in axes)
        grid = grid.then(GridMap.crop_or_pad(grid.target_shape, start, size))
    return grid


@settings(deadline=None)
@given(whole_voxel_maps(), st.integers(0, 1000))
def test_flips_turns_crops_and_pads_are_undone_exactly(grid, seed):
    source = np.random.default_rng(seed).integers(1, 4, grid.source_shape)
    target = label_to_grid(source[None], grid)[0]
    restored = restore_label_map(one_hot(target, 4), grid)
    # Voxels that reached the target come back as they were, all others as background.
    reached = restore_channel(np.ones(grid.target_shape, dtype=np.float32), grid, outside=0) == 1
    np.testing.assert_array_equal(restored, np.where(reached, source, 0))
    image = source[None].astype(np.float32)
    back = restore_channel(regrid(image, grid)[0], grid, outside=-1)
    np.testing.assert_array_equal(back, np.where(reached, image[0], -1))


def two_lungs(shape: tuple[int, int]) -> np.ndarray:
    i, j = ((np.arange(n) + 0.5) / n for n in shape)
    first = ((i[:, None] - 0.3) / 0.15) ** 2 + ((j[None] - 0.5) / 0.32) ** 2 < 1
    second = ((i[:, None] - 0.7) / 0.13) ** 2 + ((j[None] - 0.52) / 0.3) ** 2 < 1
    return (first + 2 * second).astype(np.uint8)


CHAINS = {
    "resize": [{"use": "resize", "size": [256, 256]}],
    "stretch": [{"use": "resize", "size": [200, 256], "keep_aspect": False}],
    "resample": [{"use": "resample", "spacing_mm": [0.9, 1.1]}],
    "everything": [
        {"use": "orient", "to": "LF"},
        {"use": "crop", "method": "box", "start": [40, 20], "size": [900, 700]},
        {"use": "resize", "size": [256, 224]},
        {"use": "pad", "multiple": 100},
    ],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("way", [("L", "F"), ("H", "R")])
def test_probabilities_come_back_in_place(chain, way):
    label = two_lungs((983, 767) if way[0] == "L" else (767, 983))
    volume = Volume(array=label[None].astype(np.float32), spacing_mm=(0.4, 0.3), patient_orientation=way)
    prepared = preprocess(volume, STEPS.validate_python(chain))
    # What a network with perfect, soft probabilities would say on its grid.
    probabilities = np.concatenate([regrid(m[None], prepared.grid) for m in one_hot(label, 3)])
    restored = restore_label_map(probabilities, prepared.grid)
    assert restored.shape == label.shape
    assert restored.dtype == np.uint8
    for index in (1, 2):
        a, b = restored == index, label == index
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99
        shift = [np.mean(x) - np.mean(y) for x, y in zip(np.nonzero(a), np.nonzero(b), strict=True)]
        assert np.abs(shift).max() < 0.05


def test_restore_agrees_with_interpolation_at_each_voxel():
    grid = GridMap.crop_or_pad((31, 45), (-2, 5), (35, 38)).then(GridMap.resize((35, 38), (11, 9)))
    grid = grid.then(GridMap.permute_flip((11, 9), (1, 0), (True, False)))
    target = np.random.default_rng(0).random((9, 11), dtype=np.float32)
    restored = restore_channel(target, grid, outside=-1)
    inverse = np.linalg.inv(grid.matrix)
    for i, j in [(0, 10), (7, 20), (30, 44), (15, 6), (3, 4)]:
        u, v, _ = inverse @ [i, j, 1]
        if not (-0.5 <= u <= 8.5 and -0.5 <= v <= 10.5):
            assert restored[i, j] == -1
            continue
        u, v = np.clip(u, 0, 8), np.clip(v, 0, 10)
        a, b = min(int(u), 7), min(int(v), 9)
        cell = target[a : a + 2, b : b + 2]
        expected = np.array([1 - (u - a), u - a]) @ cell @ np.array([1 - (v - b), v - b])
        assert restored[i, j] == pytest.approx(expected, abs=1e-5)


def test_slabs_join_without_a_seam(monkeypatch):
    grid = GridMap.resize((97, 61, 20), (16, 24, 20))
    probabilities = np.random.default_rng(1).random((3, 16, 24, 20), dtype=np.float32)
    whole = restore_label_map(probabilities, grid)
    monkeypatch.setattr("medseg.transforms.restore._SLAB_VOXELS", 7 * 61 * 20)
    np.testing.assert_array_equal(restore_label_map(probabilities, grid), whole)


def test_equal_probabilities_give_the_lower_class():
    assert (restore_label_map(np.full((3, 4, 5), 1 / 3), GridMap.identity((4, 5))) == 0).all()


def test_logits_below_zero_work_as_well_as_probabilities():
    logits = np.stack([np.full((4, 5), -3.0), np.full((4, 5), -1.0)])
    assert (restore_label_map(logits, GridMap.resize((9, 7), (4, 5))) == 1).all()


def test_prediction_of_another_grid_is_refused():
    with pytest.raises(GeometryError, match=r"expected a prediction on the grid \(4, 5\), found \(5, 4\)"):
        restore_label_map(np.zeros((2, 5, 4)), GridMap.identity((4, 5)))


def test_a_crop_that_saw_nothing_of_the_image_restores_to_background():
    grid = GridMap.crop_or_pad((6, 7), (20, 0), (4, 4))
    assert not restore_label_map(np.ones((2, 4, 4)) * [[[0]], [[1]]], grid).any()


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 30), st.integers(2, 30))
def test_a_constant_map_is_restored_everywhere_after_a_resize(i, j, new_i, new_j):
    assume((i, j) != (new_i, new_j))
    grid = GridMap.resize((i, j), (new_i, new_j))
    restored = restore_channel(np.full((new_i, new_j), 0.3, dtype=np.float32), grid, outside=9)
    np.testing.assert_allclose(restored, 0.3, rtol=1e-6)


def test_memory_stays_near_the_size_of_the_result():
    grid = GridMap.resize((2446, 2010), (256, 256))
    probabilities = np.random.default_rng(2).random((8, 256, 256), dtype=np.float32)
    tracemalloc.start()
    restore_label_map(probabilities, grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2446 * 2010
