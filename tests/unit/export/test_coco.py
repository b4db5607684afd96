"""COCO files: run lengths and ids by hand, and read back by pycocotools where it is installed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import ConfigError, InputError
from medseg.export.coco import (
    NumberedMask,
    category_ids,
    coco_dataset,
    coco_id,
    compressed,
    join_coco,
    run_lengths,
)
from medseg.labels import Label, LabelTable

TABLE = LabelTable(
    labels=(Label(name="car", value=8, colour="#400080"), Label(name="man", value=9, colour="#404000")),
    regions={"moving": ("car", "man")},
)


def decoded(text: str) -> list[int]:
    """The run lengths of a compressed string, by the published description."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs


def test_run_lengths_go_down_the_columns():
    mask = np.zeros((3, 4), dtype=bool)  # Three columns of four rows.
    mask[0, 3] = mask[1, 0] = mask[2, 1] = True
    assert run_lengths(mask, start=(0, 0), shape=(3, 4)) == [3, 2, 4, 1, 2]
    assert run_lengths(mask[:, :], start=(1, 1), shape=(5, 6)) == [10, 1, 2, 1, 6, 1, 9]
    assert run_lengths(np.ones((2, 3), bool), start=(0, 0), shape=(2, 3)) == [0, 6]
    assert run_lengths(np.zeros((2, 3), bool), start=(0, 0), shape=(2, 3)) == [6]


@given(st.lists(st.integers(0, 3_000_000), max_size=30))
def test_compressed_runs_come_back(runs):
    assert decoded(compressed(runs)) == runs
    assert compressed(runs).isascii()


def test_ids_depend_on_names_alone():
    assert coco_id("case", "car", 1) == coco_id("case", "car", 1)
    assert coco_id("case", "car", 11) != coco_id("case", "car1", 1)
    assert 0 < coco_id("case") < 2**53
    assert category_ids(TABLE) == {"car": 8, "man": 9, "moving": 100_001}


def dataset(numbers: np.ndarray, *, case_id: str = "scene", start=(0, 0), shape=None, sure=None):
    masks = {"car": NumberedMask(numbers=numbers, start=start), "man": None}
    return coco_dataset(
        masks,
        case_id=case_id,
        shape=shape or numbers.shape,
        table=TABLE,
        confidences={("car", 1): 0.75} if sure is None else sure,
    )


def test_a_picture_with_two_cars():
    numbers = np.zeros((6, 5), dtype=np.int32)
    numbers[1:3, 2:5] = 1
    numbers[4, 0] = 2
    value = dataset(numbers, start=(10, 20), shape=(40, 30))
    assert value["images"] == [{"id": coco_id("scene"), "file_name": "scene", "width": 40, "height": 30}]
    one, two = value["annotations"]
    assert (one["bbox"], one["area"], one["score"], one["category_id"]) == ([11, 22, 2, 3], 6, 0.75, 8)
    assert (two["bbox"], two["area"]) == ([14, 20, 1, 1], 1)
    assert "score" not in two
    assert one["segmentation"]["size"] == [30, 40]
    assert decoded(one["segmentation"]["counts"]) == [11 * 30 + 22, 3, 27, 3, 40 * 30 - 12 * 30 - 25]
    assert [c["name"] for c in value["categories"]] == ["car", "man"]


def test_joined_files_and_a_case_that_stands_twice():
    numbers = np.ones((2, 2), dtype=np.int32)
    parts = [dataset(numbers, case_id=name) for name in ("b", "a", "c")]
    whole = join_coco(parts)
    assert {image["file_name"] for image in whole["images"]} == {"a", "b", "c"}
    assert whole == join_coco(parts[::-1])
    assert len(whole["categories"]) == 2
    with pytest.raises(ConfigError, match="a case stands twice"):
        join_coco([*parts, parts[0]])


def test_volumes_are_refused():
    with pytest.raises(InputError, match="COCO describes pictures"):
        coco_dataset({}, case_id="ct", shape=(4, 5, 6), table=TABLE, confidences={})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=15)
@given(
    numbers=arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.integers(0, 3)),
    start=st.tuples(st.integers(0, 3), st.integers(0, 4)),
)
def test_pycocotools_reads_the_same_masks(tmp_path_factory, numbers, start):
    coco = pytest.importorskip("pycocotools.coco")
    shape = (numbers.shape[0] + 5, numbers.shape[1] + 4)
    path = tmp_path_factory.mktemp("coco") / "coco.json"
    path.write_text(json.dumps(dataset(numbers, start=start, shape=shape)))
    read = coco.COCO(str(path))
    whole = np.zeros(shape, dtype=np.int32)
    whole[start[0] : start[0] + numbers.shape[0], start[1] : start[1] + numbers.shape[1]] = numbers
    found = np.zeros_like(whole)
    for annotation in read.loadAnns(read.getAnnIds()):
        mask = read.annToMask(annotation).T > 0
        assert mask.sum() == annotation["area"]
        i, j = np.nonzero(mask)
        assert annotation["bbox"] == [i.min(), j.min(), np.ptp(i) + 1, np.ptp(j) + 1]
        found[mask] = annotation["number"]
    np.testing.assert_array_equal(found, whole)
