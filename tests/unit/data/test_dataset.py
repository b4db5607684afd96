"""Prepared cases: content, cache, damage, failures."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.data.dataset import PreparedSet, prepare_cases
from medseg.errors import ImageReadError, InputError, LabelError, ManifestError, StorageError
from medseg.geometry import GridMap
from medseg.labels import Label, LabelScheme, LabelTable
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    ),
    ignore=255,
    schemes={
        "lung": LabelScheme(name="lung", values={7: ("lung_right", "lung_left")}, sides_by_position=True)
    },
)


@dataclass(frozen=True, kw_only=True)
class FileCase:
    case_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    scheme: str | None = None


@dataclass(frozen=True, kw_only=True)
class Halved:
    array: np.ndarray[Any, Any]
    grid: GridMap
    spacing_mm: tuple[float, ...] | None


class Reader:
    """Reads .npy files and counts how often."""

    def __init__(self) -> None:
        self.read = 0

    def image(self, paths: Any) -> Volume:
        self.read += 1
        try:
            array = np.load(paths[0])
        except ValueError as err:
            raise ImageReadError(f"{paths[0].name} is no array") from err
        return Volume(array=array, spacing_mm=(0.5, 0.25))

    def label(self, path: Path, like: Volume) -> np.ndarray[Any, Any]:
        return np.load(path)  # type: ignore[no-any-return]


def halve(volume: Volume) -> Halved:
    """Every second pixel; rows and columns differ."""
    array = volume.array[:, ::2, ::2].astype(np.float32)
    grid = GridMap.resize(volume.spatial_shape, array.shape[1:])
    return Halved(array=array, grid=grid, spacing_mm=(1.0, 0.5))


def label_halved(label: np.ndarray[Any, Any], grid: GridMap) -> np.ndarray[Any, Any]:
    return label[:, ::2, ::2]


@pytest.fixture
def cases(tmp_path: Path) -> list[FileCase]:
    made = []
    for number in range(3):
        image, label = tmp_path / f"i{number}.npy", tmp_path / f"l{number}.npy"
        np.save(image, np.arange(8 * 12, dtype=np.float64).reshape(1, 8, 12) + number)
        mask = np.zeros((1, 8, 12), dtype=np.uint8)
        mask[0, 0:3], mask[0, 5:8] = 1, 2
        np.save(label, mask)
        made.append(FileCase(case_id=f"Case {number}", images=(image,), label=label))
    return made


def prepare(cases: list[FileCase], folder: Path, reader: Reader | None = None, **changes: Any) -> PreparedSet:
    reader = reader or Reader()
    settings = {"table": TABLE, "transform": halve, "settings_digest": "a", **changes}
    return prepare_cases(
        cases,
        read_image=reader.image,
        read_label=reader.label,
        to_grid=label_halved,
        folder=folder / "cache",
        **settings,
    )


def test_cases_come_prepared_and_encoded_in_their_order(cases, tmp_path):
    seen = []
    prepared = prepare(cases, tmp_path, progress=lambda *state: seen.append(state))
    assert prepared.case_ids == ("Case 0", "Case 1", "Case 2")
    assert (len(prepared), prepared.made, prepared.failures) == (3, 3, ())
    case = prepared[1]
    assert case.image.dtype == np.float32
    assert case.image.shape == (1, 4, 6)
    assert case.image[0, 1, 2] == 2 * 12 + 4 + 1
    assert case.label.dtype == np.int16
    np.testing.assert_array_equal(case.label[0, :, 0], [1, 1, 0, 2])
    assert prepared.entries[0].spacing_mm == (1.0, 0.5)
    assert prepared.entries[0].shape == (1, 4, 6)
    assert seen == [(1, 3, "Case 0"), (2, 3, "Case 1"), (3, 3, "Case 2")]


def test_labelled_voxels_and_minima_are_kept_with_the_case(cases, tmp_path):
    made, read_again = prepare(cases, tmp_path)[2], prepare(cases, tmp_path)[2]
    for case in (made, read_again):
        assert case.spacing_mm == (1.0, 0.5)
        assert case.minima == (2.0,)
        assert (case.places.sets, case.places.counts, case.places.offsets) == ((1, 2), (12, 6), (0, 12, 18))
        rows = case.places.voxels[12:]
        assert {tuple(v) for v in rows.tolist()} == {(3, j) for j in range(6)}
        assert (case.label[0][tuple(rows.T)] == 2).all()


def test_what_is_written_to_a_prepared_array_does_not_reach_the_cache(cases, tmp_path):
    prepared = prepare(cases, tmp_path)
    prepared[0].image[:] = 7
    assert prepared[0].image.max() != 7


def test_a_second_call_reads_no_image(cases, tmp_path):
    first = prepare(cases, tmp_path)
    reader = Reader()
    second = prepare(list(reversed(cases)), tmp_path, reader)
    assert (reader.read, second.made) == (0, 0)
    assert second.case_ids == tuple(reversed(first.case_ids))
    np.testing.assert_array_equal(second[0].image, first[2].image)
    assert isinstance(second[0].image, np.memmap)


def test_other_pixels_labels_settings_or_table_make_a_new_entry(cases, tmp_path):
    prepare(cases, tmp_path)
    assert prepare(cases, tmp_path, settings_digest="b").made == 3
    other = LabelTable(labels=TABLE.labels, schemes=TABLE.schemes)
    assert prepare(cases, tmp_path, table=other).made == 3
    np.save(cases[0].images[0], np.ones((1, 8, 12)))
    assert cases[1].label is not None
    np.save(cases[1].label, np.zeros((1, 8, 12), dtype=np.uint8))
    assert prepare(cases, tmp_path).made == 2
    assert prepare(cases, tmp_path)[0].image.max() == 1


@pytest.mark.parametrize("suffix", [".image.npy", ".label.npy", ".places.npy", ".json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_entry_is_seen_and_made_again(cases, tmp_path, suffix, damage):
    intact = prepare(cases, tmp_path)
    expected = np.array(intact[1].image)
    path = next((tmp_path / "cache").glob(f"Case_1-*{suffix}"))
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flip":
            path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        case "remove":
            path.unlink()
    again = prepare(cases, tmp_path)
    assert again.made == 1
    assert again.fingerprint() == intact.fingerprint()
    np.testing.assert_array_equal(again[1].image, expected)
    assert prepare(cases, tmp_path).made == 0


def test_an_entry_of_another_case_is_not_taken(cases, tmp_path):
    prepare(cases, tmp_path)
    path = next((tmp_path / "cache").glob("Case_1-*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "case_id": "Case 2"}))
    assert prepare(cases, tmp_path).made == 1


def test_schemes_and_sides_are_resolved_on_the_grid_of_the_file(cases, tmp_path):
    mask = np.zeros((1, 8, 12), dtype=np.uint8)
    mask[0, 0:3], mask[0, 5:8], mask[0, 3:5] = 7, 7, 255
    assert cases[0].label is not None
    np.save(cases[0].label, mask)
    case = FileCase(case_id="partial", images=cases[0].images, label=cases[0].label, scheme="lung")
    label = prepare([case], tmp_path)[0].label
    everything = len(TABLE.sets) - 1
    np.testing.assert_array_equal(label[0, :, 0], [1, 1, everything, 2])


def test_a_case_without_a_mask_has_no_label(cases, tmp_path):
    case = FileCase(case_id="unlabelled", images=cases[0].images)
    assert prepare([case], tmp_path)[0].label is None
    assert prepare([case], tmp_path).made == 0


def test_problems_of_one_case_are_collected_and_the_others_go_on(cases, tmp_path):
    cases[0].images[0].write_text("this is no image")
    np.save(cases[1].label, np.full((1, 8, 12), 9, dtype=np.uint8))
    missing = FileCase(case_id="gone", images=(tmp_path / "gone.npy",))
    nan = FileCase(case_id="nan", images=(tmp_path / "nan.npy",))
    np.save(nan.images[0], np.full((1, 8, 12), np.nan))
    prepared = prepare([*cases, missing, nan], tmp_path)
    assert prepared.case_ids == ("Case 2",)
    found = {failure.case_id: (type(failure.error), failure.text) for failure in prepared.failures}
    assert found["Case 0"] == (ImageReadError, "i0.npy is no array")
    assert found["Case 1"][0] is LabelError
    assert found["gone"] == (
        InputError,
        "cannot read the file gone.npy of case gone: No such file or directory",
    )
    assert found["nan"] == (InputError, "case nan holds NaN or infinite values after preprocessing")
    with pytest.raises(ManifestError, match="case nan is not among the 1 prepared cases: case nan holds NaN"):
        prepared.subset(["nan"])


def test_a_programming_error_is_not_swallowed(cases, tmp_path):
    def broken(volume: Volume) -> Halved:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        prepare(cases, tmp_path, transform=broken)


def test_threads_change_nothing(cases, tmp_path):
    one = prepare(cases, tmp_path / "one")
    two = prepare(cases, tmp_path / "two", threads=2)
    assert one.fingerprint() == two.fingerprint()


def test_a_subset_keeps_the_order_and_names_what_is_unknown(cases, tmp_path):
    prepared = prepare(cases, tmp_path)
    assert prepared.subset(["Case 2", "Case 0"]).case_ids == ("Case 0", "Case 2")
    with pytest.raises(ManifestError, match=r"case other is not among the 3 prepared cases$"):
        prepared.subset(["other"])


def test_a_set_travels_to_another_process_without_its_pixels(cases, tmp_path):
    prepared = prepare(cases, tmp_path)
    text = pickle.dumps(prepared)
    assert len(text) < 3000
    np.testing.assert_array_equal(pickle.loads(text)[2].image, prepared[2].image)


def test_an_array_that_vanishes_later_is_named(cases, tmp_path):
    prepared = prepare(cases, tmp_path)
    prepared.entries[0].image.unlink()
    with pytest.raises(StorageError, match="of case Case 0 cannot be read"):
        prepared[0]


def test_a_folder_that_cannot_be_written_stops_all(cases, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="cannot make the folder"):
        prepare(cases, tmp_path)
    (tmp_path / "cache").unlink()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.data.cache.os.replace", full)
    with pytest.raises(StorageError, match="No space left on device; free space"):
        prepare(cases, tmp_path)
    assert not list((tmp_path / "cache").iterdir())


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_kept(cases, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    dead, living = folder / ".x.npy.99999999.medseg-part", folder / f".x.npy.{os.getppid()}.medseg-part"
    dead.touch()
    living.touch()
    prepare(cases, tmp_path)
    assert (dead.exists(), living.exists()) == (False, True)
