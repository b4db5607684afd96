import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.evaluation import joint_counts
from medseg.evaluation.joint_counts import count_pairs

SETS, CLASSES = 5, 4


def by_hand(reference, prediction):
    histogram = np.zeros((SETS, CLASSES), dtype=int)
    np.add.at(histogram, (reference, prediction), 1)
    return histogram


@given(
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 4)),
    st.integers(0, 2**32),
)
def test_counts_and_boxes_of_any_pair(reference, seed):
    prediction = np.random.default_rng(seed).integers(0, CLASSES, reference.shape).astype(np.uint8)
    found = count_pairs(reference, prediction, set_count=SETS, class_count=CLASSES)
    np.testing.assert_array_equal(found.histogram, by_hand(reference, prediction))
    for s in range(SETS):
        for c in range(CLASSES):
            places = np.argwhere((reference == s) & (prediction == c))
            if (s, c) != (0, 0) and len(places):
                np.testing.assert_array_equal(found.first[s, c], places.min(axis=0))
                np.testing.assert_array_equal(found.last[s, c], places.max(axis=0))


@pytest.mark.parametrize("order", ["C", "F", "turned"])
def test_blocks_and_memory_orders_change_nothing(order, monkeypatch):
    rng = np.random.default_rng(3)
    reference, prediction = (np.repeat(rng.integers(0, 4, (9, 7, 3)), 4, axis=2) for _ in range(2))
    expected = count_pairs(reference, prediction, set_count=SETS, class_count=CLASSES)
    monkeypatch.setattr(joint_counts, "_BLOCK_VOXELS", 60)
    turned = prediction.transpose(1, 2, 0).copy().transpose(2, 0, 1)
    given_ = turned if order == "turned" else np.asarray(prediction, order=order)
    found = count_pairs(reference, given_, set_count=SETS, class_count=CLASSES)
    for name in ("histogram", "first", "last"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_many_sets_do_not_overflow():
    reference = np.array([[299, 0, 1]], dtype=np.int16)
    prediction = np.array([[249, 0, 7]], dtype=np.uint8)
    found = count_pairs(reference, prediction, set_count=300, class_count=250)
    assert found.histogram[299, 249] == found.histogram[0, 0] == found.histogram[1, 7] == 1


def test_box_of_a_choice_of_pairs():
    reference, prediction = np.zeros((2, 8, 9), dtype=np.uint8)
    reference[2, 3], prediction[5:7, 4] = 1, 2
    found = count_pairs(reference, prediction, set_count=SETS, class_count=CLASSES)
    pairs = np.zeros((SETS, CLASSES), dtype=bool)
    assert found.box(pairs) is None
    pairs[1, :] = True
    assert found.box(pairs) == (slice(2, 3), slice(3, 4))
    pairs[:, 2] = True
    assert found.box(pairs) == (slice(2, 7), slice(3, 5))
