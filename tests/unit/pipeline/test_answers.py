"""Raw predictions on disk: whole, with their key, made again where they are damaged."""

from dataclasses import replace

import numpy as np

from medseg.geometry import GridMap
from medseg.inference.answer import Answer
from medseg.inference.certainty import CertaintyMap
from medseg.inference.union_plan import UnionPlan
from medseg.pipeline.answers import AnswerStore

ANSWER = Answer(
    label_map=np.arange(24, dtype=np.uint8).reshape(4, 3, 2),
    confidence={"a": {"mean_probability": 0.75}},
    entropy={"mean": 0.25},
    features=np.array([1.5, -2.0], np.float32),
    passes=2,
    notes=("a note",),
)


def test_an_answer_comes_back_with_its_key_alone(tmp_path):
    store = AnswerStore(tmp_path / "answers")
    assert store.read("case/1", "key") is None
    store.write("case/1", "key", ANSWER)
    assert store.read("case/1", "other") is None
    found = store.read("case/1", "key")
    np.testing.assert_array_equal(found.label_map, ANSWER.label_map)
    np.testing.assert_array_equal(found.features, ANSWER.features)
    assert (found.confidence, found.entropy) == (ANSWER.confidence, ANSWER.entropy)
    assert (found.passes, found.notes) == (2, ("a note",))
    assert found.label_map.dtype == np.uint8


def test_the_certainty_comes_back(tmp_path):
    grid = GridMap.permute_flip((4, 3, 2), (2, 0, 1), (True, False, False))
    certainty = CertaintyMap(
        label_map=np.arange(24, dtype=np.uint8).reshape(2, 4, 3) % 3,
        winning=np.arange(24, dtype=np.uint16).reshape(2, 4, 3) * 2000,
        grid=grid,
    )
    store = AnswerStore(tmp_path)
    store.write("c", "key", replace(ANSWER, certainty=certainty))
    box = (slice(0, 4), slice(1, 3), slice(0, 2))
    found = store.read("c", "key").certainty
    np.testing.assert_array_equal(found(box, [1, 2]), certainty(box, [1, 2]))
    store.write("c", "key", ANSWER)
    assert store.read("c", "key").certainty is None


def test_the_certainty_of_regions_comes_back(tmp_path):
    grid = GridMap.identity((2, 4, 3))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) % 3
    certainty = CertaintyMap(
        label_map=labels,
        winning=np.full((2, 4, 3), 30000, np.uint16),
        grid=grid,
        unions=(np.arange(24, dtype=np.uint16).reshape(2, 4, 3) + 40000,),
        plan=UnionPlan(names={"both": (1, 2)}, layers=(((1, 2),),)),
    )
    store = AnswerStore(tmp_path)
    store.write("c", "key", replace(ANSWER, certainty=certainty))
    box = (slice(0, 2), slice(1, 3), slice(0, 3))
    found = store.read("c", "key").certainty
    for classes in ([1, 2], [1]):
        np.testing.assert_array_equal(found(box, classes), certainty(box, classes))
    assert np.nanmin(found(box, [1, 2])) > np.nanmax(found(box, [1]))


def test_a_damaged_file_is_as_good_as_none(tmp_path):
    store = AnswerStore(tmp_path)
    store.write("c", "key", ANSWER)
    (path,) = tmp_path.glob("*.npz")
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"\0" * len(data)):
        path.write_bytes(broken)
        assert store.read("c", "key") is None
