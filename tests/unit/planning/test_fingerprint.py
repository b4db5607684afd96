"""What is found out about training cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.data.manifest import Case
from medseg.errors import LabelError, ManifestError
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.planning.fingerprint import Fingerprint, cached_fingerprint, take_fingerprint
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="left", value=1, colour="#111111", side="left", pair="right"),
        Label(name="right", value=4, colour="#222222", side="right", pair="left"),
    ),
    ignore=9,
    schemes={"both": LabelScheme(name="both", values={1: ("left", "right")})},
)
AFFINE = np.diag([0.5, 2.0, 4.0, 1.0])


class Files:
    """Images and masks by name, in memory; counts what is alive at once."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.read = []

    def image(self, paths):
        self.read.append(paths[0].stem)
        array = self.pairs[paths[0].stem][0]
        flat = array.ndim == 3
        return Volume(
            array=array,
            affine=None if flat else AFFINE,
            spacing_mm=None if flat else (0.5, 2.0, 4.0),
        )

    def label(self, path, like):
        return self.pairs[path.stem][1][np.newaxis]

    def fingerprint(self, **schemes):
        cases = [
            Case(
                case_id=name,
                patient_id=name,
                images=(Path(f"{name}.img"),),
                label=Path(f"{name}.mask"),
                scheme=schemes.get(name),
            )
            for name in self.pairs
        ]
        return take_fingerprint(cases, table=TABLE, read_image=self.image, read_label=self.label)


def volume(value, shape=(4, 6, 5), channels=1):
    return np.full((channels, *shape), value, dtype=np.int16)


def mask(*boxes, shape=(4, 6, 5)):
    array = np.zeros(shape, dtype=np.uint8)
    for value, box in boxes:
        array[box] = value
    return array


def test_sizes_and_values_are_those_of_the_labelled_voxels():
    a, b = volume(0), volume(10)
    a[0, :2, 0, 0], a[0, 2, 0, 0] = 100, 40
    label = mask((1, np.s_[:2, 0, 0]), (4, np.s_[2, 0, 0]), (9, np.s_[3]))
    found = Files({"a": (a, label), "b": (b, mask((1, np.s_[0, :, :3])))}).fingerprint()
    first, second = found.cases
    assert first.voxels == {"left": 2, "right": 1}
    assert second.voxels == {"left": 18}
    assert first.voxel_mm3 == 4.0
    assert found.structures["left"].mm3_median == 40.0
    assert found.structures["left"].mm3_least == 8.0
    assert (found.structures["right"].cases, found.smallest) == (1, "right")
    assert found.missing() == {"right": ("b",)}
    values = np.array([100, 100, 40] + [10] * 18)
    assert found.intensities[0].mean == pytest.approx(values.mean())
    assert found.intensities[0].std == pytest.approx(values.std())
    assert (first.low, first.high, first.whole) == (0.0, 100.0, True)
    assert first.zero_share == pytest.approx(117 / 120)


def test_a_mask_that_does_not_tell_the_side_counts_for_both():
    found = Files({"a": (volume(5), mask((1, np.s_[0])))}).fingerprint(a="both")
    assert found.cases[0].voxels == {"left|right": 30}
    assert found.missing() == {}
    assert found.intensities[0].median == 5.0
    assert found.structures["left"].cases == 0


def test_channels_have_statistics_of_their_own():
    array = volume(1, channels=3)
    array[2] = 7
    found = Files({"a": (array, mask((4, np.s_[0])))}).fingerprint()
    assert [channel.median for channel in found.intensities] == [1.0, 1.0, 7.0]


def test_it_survives_json(tmp_path):
    files = Files({"a": (volume(3), mask((1, np.s_[0])))})
    found = files.fingerprint()
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_cache_is_used_for_the_same_key_only_and_a_damaged_one_made_again(tmp_path):
    files, path = Files({"a": (volume(3), mask((1, np.s_[0])))}), tmp_path / "fingerprint.json"
    first = cached_fingerprint(path, ["k"], files.fingerprint)
    assert cached_fingerprint(path, ["k"], files.fingerprint) == first
    assert len(files.read) == 1
    cached_fingerprint(path, ["other"], files.fingerprint)
    assert len(files.read) == 2
    path.write_text(path.read_text().replace('"cases": 1', '"cases": 2'))
    assert cached_fingerprint(path, ["other"], files.fingerprint) == first
    assert len(files.read) == 3


@pytest.mark.parametrize(
    ("pairs", "error", "text"),
    [
        ({}, ManifestError, "no usable case with a mask"),
        ({"a": (volume(1), mask())}, ManifestError, "masks of all 1 training cases are empty"),
        (
            {"a": (volume(1), mask((1, np.s_[0]))), "b": (volume(1, channels=2), mask((1, np.s_[0])))},
            ManifestError,
            "case b has 3 axes and 2 channels, case a 3 and 1",
        ),
        ({"a": (volume(1), mask((3, np.s_[0])))}, LabelError, r"mask values \[3\] are not named"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_sentence(pairs, error, text):
    with pytest.raises(error, match=text):
        Files(pairs).fingerprint()
