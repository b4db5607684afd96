"""Raw predictions on disk: whole, with their key, made again where they are damaged."""

import numpy as np

from medseg.inference.answer import Answer
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


def test_a_damaged_file_is_as_good_as_none(tmp_path):
    store = AnswerStore(tmp_path)
    store.write("c", "key", ANSWER)
    (path,) = tmp_path.glob("*.npz")
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"\0" * len(data)):
        path.write_bytes(broken)
        assert store.read("c", "key") is None
