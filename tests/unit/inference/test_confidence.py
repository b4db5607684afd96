import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medseg.inference.calibrated_tally import CalibratedTally
from medseg.inference.certainty import STEPS
from medseg.inference.confidence import ConfidenceTally, mask_core
from medseg.labels import Label, LabelTable

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    )
)


def tally(probabilities, *, rows=None):
    """Of the whole, or of blocks of so many rows."""
    size = probabilities.shape[1:]
    found = ConfidenceTally(size, TABLE)
    for start in range(0, size[0], rows or size[0]):
        place = (slice(start, min(size[0], start + (rows or size[0]))), *(slice(0, n) for n in size[1:]))
        found.add(place, torch.from_numpy(probabilities[(slice(None), *place)]))
    return found


def label_confidence(probabilities):
    return tally(probabilities).labels()


def image_entropy(probabilities):
    return tally(probabilities).image()


def test_confidence_of_a_mask_of_known_probabilities():
    probabilities = np.zeros((3, 20, 18), np.float32)
    probabilities[0] = 1
    probabilities[:, 4:14, 3:13] = np.array([0.1, 0.9, 0.0])[:, None, None]
    probabilities[:, 4, 3:13] = np.array([0.3, 0.7, 0.0])[:, None]
    probabilities[:, 3, 3:13] = np.array([0.7, 0.3, 0.0])[:, None]
    found = label_confidence(probabilities)
    assert set(found) == {"lung_right"}
    assert found["lung_right"]["mean_probability"] == pytest.approx(0.9, abs=1e-5)
    assert found["lung_right"]["uncertain_core"] == 0.0
    # 10 voxels in the mask and 10 outside of it lie between 0.2 and 0.8; the mask has 100.
    assert found["lung_right"]["uncertain_share"] == pytest.approx(0.2)
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(3)
    rim = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / np.log(3)
    assert found["lung_right"]["entropy"] == pytest.approx(0.9 * entropy + 0.1 * rim, rel=1e-5)
    summary = image_entropy(probabilities)
    assert summary["foreground"] == pytest.approx(0.9 * entropy + 0.1 * rim, rel=1e-5)
    assert summary["image"] == pytest.approx((90 * entropy + 20 * rim) / 360, rel=1e-5)


def test_confidence_of_thin_and_absent_masks():
    probabilities = np.zeros((3, 9, 8), np.float32)
    probabilities[0] = 1
    assert label_confidence(probabilities) == {}
    assert image_entropy(probabilities) == {"image": 0.0}
    probabilities[:, 4, 2:6] = np.array([0.0, 0.2, 0.8])[:, None]
    thin = label_confidence(probabilities)["lung_left"]
    assert thin["mean_probability"] == pytest.approx(0.8, abs=1e-5)
    assert "uncertain_core" not in thin


def test_the_share_of_an_undecided_core_leaves_the_border_out():
    probabilities = np.zeros((2, 14, 12), np.float32)
    probabilities[0] = 1
    # Border band of two and a core of 6 x 4, of which one row of four is undecided.
    probabilities[:, 2:12, 2:10] = np.array([0.4, 0.6])[:, None, None]
    probabilities[:, 4:10, 4:8] = np.array([0.1, 0.9])[:, None, None]
    probabilities[:, 6, 4:8] = np.array([0.3, 0.7])[:, None]
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),))
    found = ConfidenceTally(probabilities.shape[1:], table)
    found.add((slice(None), slice(None)), torch.from_numpy(probabilities))
    assert found.labels()["a"]["uncertain_core"] == pytest.approx(4 / 24)


def test_blocks_give_the_same_as_the_whole():
    logits = np.random.default_rng(0).normal(size=(3, 12, 10, 9)) * 2
    logits[1, 2:9, 1:8, 1:8] += 4
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    whole, parts = tally(probabilities), tally(probabilities, rows=3)
    np.testing.assert_array_equal(parts.label_map, probabilities.argmax(axis=0))
    assert parts.image() == pytest.approx(whole.image(), rel=1e-6)
    for name, values in whole.labels().items():
        assert parts.labels()[name] == pytest.approx(values, rel=1e-6)


@given(
    mask=hnp.arrays(
        np.bool_,
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=12),
        elements=st.sampled_from([True] * 19 + [False]),
        fill=st.nothing(),
    ),
    depth=st.integers(0, 3),
)
def test_core_of_a_mask_is_the_erosion_by_a_cube(mask, depth):
    cube = np.ones((2 * depth + 1,) * mask.ndim, dtype=np.bool_)
    np.testing.assert_array_equal(mask_core(mask, depth), ndimage.binary_erosion(mask, cube))


LUNGS = LabelTable(
    labels=TABLE.labels, regions={"lung": ("lung_right", "lung_left"), "right": ("lung_right",)}
)


def gathered(values, table, *, rows=None, kind=ConfidenceTally):
    size = values.shape[1:]
    found = kind(size, table)
    for start in range(0, size[0], rows or size[0]):
        place = (slice(start, min(size[0], start + (rows or size[0]))), *(slice(0, n) for n in size[1:]))
        found.add(place, torch.from_numpy(np.ascontiguousarray(values[(slice(None), *place)])))
    return found


def test_a_voxel_torn_between_the_labels_of_a_region_is_surely_the_regions():
    probabilities = np.zeros((3, 20, 18), np.float32)
    probabilities[0] = 1
    probabilities[:, 3:10, 3:15] = np.array([0.04, 0.5, 0.46])[:, None, None]
    probabilities[:, 10:17, 3:15] = np.array([0.04, 0.46, 0.5])[:, None, None]
    found = gathered(probabilities, LUNGS).labels()
    assert list(found) == ["lung_right", "lung_left", "lung", "right"]
    for name in ("lung_right", "lung_left"):
        assert found[name]["uncertain_core"] == 1.0
        assert found[name]["mean_probability"] == pytest.approx(0.5, abs=1e-4)
    assert found["lung"]["uncertain_core"] == 0.0
    assert found["lung"]["mean_probability"] == pytest.approx(0.96, abs=1e-4)
    assert found["lung"]["uncertain_share"] == 0.0
    entropy = -(0.96 * np.log(0.96) + 0.04 * np.log(0.04)) / np.log(2)
    assert found["lung"]["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert found["right"] == found["lung_right"]


def merged(values, table, name):
    """Probabilities of the table where the labels of a region are one, and its mask."""
    classes = list(table.region_classes()[name])
    others = [index for index in range(len(values)) if index not in classes]
    mask = np.isin(values.argmax(axis=0), classes)
    return np.stack([*(values[index] for index in others), values[classes].sum(axis=0)]), mask


@pytest.mark.parametrize("rows", [None, 1, 5])
def test_regions_that_share_labels_have_their_own_numbers(rows):
    labels = tuple(Label(name=name, value=i, colour="#ffffff") for i, name in enumerate("abcd", start=1))
    regions = {"whole": ("a", "b", "c"), "core": ("b", "c"), "far": ("d", "background"), "again": ("c", "b")}
    table = LabelTable(labels=labels, regions=regions)
    logits = np.random.default_rng(1).normal(size=(5, 13, 9, 8)) * 2
    logits[1:4, 2:10, 1:8, 1:7] += 3
    values = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    tally = gathered(values, table, rows=rows)
    assert [len(layer) for layer in tally.plan.layers] == [2, 1]
    found = tally.labels()
    assert found["again"] == found["core"]
    for name in regions:
        likely, mask = merged(values, table, name)
        total = likely[-1]
        core = ndimage.binary_erosion(mask, np.ones((5, 5, 5)))
        shown = core if core.any() else mask
        assert found[name]["mean_probability"] == pytest.approx(total[shown].mean(), abs=2e-5)
        assert found[name].get("uncertain_core", -1) == (
            pytest.approx(np.mean(total[core] < 0.8)) if core.any() else -1
        )
        assert found[name]["uncertain_share"] == ((total > 0.2) & (total < 0.8)).sum() / mask.sum()
        entropy = -(likely * np.log(likely)).sum(axis=0)[mask].mean() / np.log(len(likely))
        assert found[name]["entropy"] == pytest.approx(entropy, rel=1e-4)


def test_cores_are_the_same_slab_by_slab(monkeypatch):
    logits = np.random.default_rng(0).normal(size=(3, 30, 10, 9))
    logits[1, 2:28, 1:9, 1:8] += 4
    values = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    whole = gathered(values, LUNGS).labels()
    monkeypatch.setattr("medseg.inference.confidence._SLAB_VOXELS", 200)
    assert gathered(values, LUNGS).labels() == whole


def test_calibrated_probabilities_of_regions():
    probabilities = np.full((3, 8, 7), np.array([0.1, 0.5, 0.4])[:, None, None], np.float32)
    calibrated = np.full((3, 8, 7), np.array([0.2, 0.45, 0.35])[:, None, None], np.float32)
    tally = CalibratedTally((8, 7), LUNGS, keep=True)
    everywhere = (slice(0, 8), slice(0, 7))
    tally.add(everywhere, torch.from_numpy(probabilities), torch.from_numpy(calibrated))
    assert tally.labels() == pytest.approx({"lung_right": 0.45, "lung": 0.8, "right": 0.45})
    np.testing.assert_allclose(tally.unions[0] / STEPS, 0.8, atol=1 / STEPS)
