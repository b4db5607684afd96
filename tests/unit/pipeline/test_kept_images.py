"""Images that stages hand to each other: kept while there is room, else read again."""

import numpy as np
import pytest

from medseg.pipeline.kept_images import KeptImages
from medseg.volume import Volume

SIZE = 8 * 6 * 4


@pytest.fixture
def reads():
    return []


def reader(reads, name, make):
    def read():
        reads.append(name)
        return make()

    return read


def image(reads, name):
    return reader(reads, name, lambda: Volume(array=np.zeros((1, 8, 6), np.float32)))


def reference(reads, name):
    return reader(reads, name, lambda: np.zeros((1, 8, 6), np.int16))


def test_what_fits_is_read_once_and_what_does_not_each_time(reads):
    kept = KeptImages(2 * SIZE + SIZE // 2)
    for _ in range(2):
        for name in "abc":
            kept.image(name, image(reads, name))
            kept.reference(name, reference(reads, f"{name} mask"))
    assert reads[:6] == ["a", "a mask", "b", "b mask", "c", "c mask"]
    assert reads[6:] == ["b mask", "c", "c mask"]


def test_what_is_dropped_makes_room(reads):
    kept = KeptImages(SIZE)
    first = kept.image("a", image(reads, "a"))
    assert kept.image("a", image(reads, "a")) is first
    kept.drop("a")
    kept.drop("never seen")
    for _ in range(2):
        kept.image("b", image(reads, "b"))
    assert reads == ["a", "b"]


def test_without_room_nothing_is_kept(reads):
    kept = KeptImages(0)
    for _ in range(2):
        kept.image("a", image(reads, "a"))
    assert reads == ["a", "a"]
