"""Segmentations that highdicom wrote, read by our reader: kinds, grids, gaps, order of frames, overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import imagecodecs
import numpy as np
import pydicom
import pytest
from ct_series import GRIDS, SHAPE, write_series
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from medseg.errors import GeometryError, ImageReadError, LabelError
from medseg.io.dicom_seg import read_dicom_seg
from medseg.volume import ImageGrid

EMPTY_SLICES = (0, 3, 6)
CODES = (codes.SCT.Liver, codes.SCT.Spleen, codes.SCT.Aorta)
#: highdicom has no place for a sheared grid.
STRAIGHT = [name for name in GRIDS if name != "tilted"]


def labels(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    """(I, J, K) segments 1 to 3 in patches, without any in three slices."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, tuple(-(-n // 3) for n in shape))
    values = np.kron(coarse, np.ones((3, 3, 3), dtype=int))[: shape[0], : shape[1], : shape[2]].astype(
        np.uint8
    )
    values[..., [k for k in EMPTY_SLICES if k < shape[2]]] = 0
    return values


def segments(count: int = 3) -> list[hd.seg.SegmentDescription]:
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=code.meaning,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=code,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, code in enumerate(CODES[:count], start=1)
    ]


def frames_first(values: NDArray[Any]) -> NDArray[Any]:
    """(I, J, K, ...) -> (K, rows, columns, ...)."""
    return np.moveaxis(values, (2, 1, 0), (0, 1, 2))


def write_seg(
    folder: Path, array: NDArray[Any], kind: str = "BINARY", grid: str = "oblique", **options: Any
) -> tuple[Path, ImageGrid]:
    """A SEG of `array` (frames, rows, columns, segments) or without the last axis, and the grid of its series."""
    series = write_series(folder / "ct", GRIDS[grid], (array.shape[2], array.shape[1], array.shape[0]))
    seg = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(path) for path in series.source.paths],
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=segments(array.shape[3] if array.ndim == 4 else 3),
        series_instance_uid=hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    path = folder / "seg.dcm"
    seg.save_as(path)
    return path, series


def edited(path: Path, change: Any) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("grid", "kind"),
    [*((grid, "BINARY") for grid in STRAIGHT), ("oblique", "LABELMAP"), ("micro", "LABELMAP")],
)
def test_every_grid_with_gaps_and_unaligned_frames(tmp_path, grid, kind):
    """A frame of 17 x 23 voxels does not end at a byte."""
    values = labels()
    path, series = write_seg(tmp_path, frames_first(values), kind, grid)
    seg = read_dicom_seg(path, like=series)
    assert seg.kind == kind
    assert [segment.label.name for segment in seg.segments] == [code.meaning for code in CODES]
    np.testing.assert_array_equal(seg.label_map(), values)
    np.testing.assert_array_equal(seg.mask(2), values == 2)
    assert set(seg.referenced_instances) == set(series.source.sop_instance_uids)


@pytest.mark.parametrize("grid", ["oblique", "left_handed", "sagittal"])
def test_own_grid_goes_from_the_first_to_the_last_plane(tmp_path, grid):
    values = labels()
    path, series = write_seg(tmp_path, frames_first(values), "BINARY", grid)
    seg = read_dicom_seg(path)
    # Slices 0 and 6 are empty and have no frames; slice 3 is empty and lies between others.
    assert seg.grid.shape == (*SHAPE[:2], 5)
    found, expected = seg.label_map(), values[..., 1:6]
    if not np.allclose(seg.grid.affine[:3, 2], series.affine[:3, 2]):
        found = found[..., ::-1]
    np.testing.assert_array_equal(found, expected)
    first = np.array([0, 0, 0 if np.allclose(seg.grid.affine[:3, 2], series.affine[:3, 2]) else 4, 1])
    np.testing.assert_allclose(seg.grid.affine @ first, series.affine @ [0, 0, 1, 1], atol=1e-4)


def test_the_order_of_frames_does_not_count(tmp_path):
    values = labels()
    path, series = write_seg(tmp_path, frames_first(values))

    def shuffle(dataset: pydicom.Dataset) -> None:
        count, size = dataset.NumberOfFrames, SHAPE[0] * SHAPE[1]
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
        planes = bits[: count * size].reshape(count, size)
        order = np.random.default_rng(4).permutation(count)
        packed = np.packbits(planes[order].ravel(), bitorder="little").tobytes()
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)
        groups = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]

    np.testing.assert_array_equal(read_dicom_seg(edited(path, shuffle), like=series).label_map(), values)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_compressed_frames(tmp_path, kind, syntax):
    values = labels((34, 40, 4))
    path, series = write_seg(tmp_path, frames_first(values), kind, transfer_syntax_uid=syntax)
    np.testing.assert_array_equal(read_dicom_seg(path, like=series).label_map(), values)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_jpeg_2000_frames(tmp_path, kind):
    """highdicom's own encoder of this kind is a package that nothing else here needs."""
    values = labels((34, 40, 4))
    path, series = write_seg(tmp_path, frames_first(values), kind)

    def compress(dataset: pydicom.Dataset) -> None:
        frames = [
            bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", reversible=True))
            for frame in dataset.pixel_array
        ]
        dataset.PixelData = pydicom.encaps.encapsulate(frames)
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    np.testing.assert_array_equal(read_dicom_seg(edited(path, compress), like=series).label_map(), values)


@pytest.mark.parametrize("top", [255, 100])
def test_fractions(tmp_path, top):
    rng = np.random.default_rng(1)
    shares = rng.dirichlet((1, 1, 1), SHAPE)
    path, series = write_seg(
        tmp_path,
        frames_first(shares),
        "FRACTIONAL",
        max_fractional_value=top,
        fractional_type="PROBABILITY",
    )
    seg = read_dicom_seg(path, like=series)
    assert seg.fractional_type == "PROBABILITY"
    for number in (1, 2, 3):
        np.testing.assert_allclose(seg.probabilities(number), shares[..., number - 1], atol=0.5001 / top)
    more_than_half = np.where(shares.max(axis=-1) > 0.5 + 1 / top, shares.argmax(axis=-1) + 1, 0)
    clear = np.abs(shares - 0.5).min(axis=-1) > 1 / top
    np.testing.assert_array_equal(seg.label_map()[clear], more_than_half[clear])


def test_overlaps_are_counted_and_read_one_by_one(tmp_path):
    masks = np.zeros((*SHAPE, 2), dtype=np.uint8)
    masks[2:12, 3:9, 1:5, 0] = 1
    masks[8:20, 5:12, 2:6, 1] = 1
    path, series = write_seg(tmp_path, frames_first(masks))
    seg = read_dicom_seg(path, like=series)
    shared = int((masks[..., 0] & masks[..., 1]).sum())
    assert seg.overlaps() == {(1, 2): shared}
    with pytest.raises(LabelError, match=rf"segments 1 \(Liver\) and 2 \(Spleen\) share {shared} voxels"):
        seg.label_map()
    for number in (1, 2):
        np.testing.assert_array_equal(seg.mask(number), masks[..., number - 1].astype(bool))
    with pytest.raises(LabelError, match="there is no segment 5; it has 1, 2"):
        seg.mask(5)


def test_frames_off_the_lattice_or_twice_in_one_place_are_refused(tmp_path):
    path, series = write_seg(tmp_path, frames_first(labels()))

    def move(dataset: pydicom.Dataset) -> None:
        place = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + 0.4 for v in place.ImagePositionPatient]

    with pytest.raises(GeometryError, match="the plane of frame"):
        read_dicom_seg(edited(path, move), like=series)
    path, series = write_seg(tmp_path / "again", frames_first(labels()))

    def double(dataset: pydicom.Dataset) -> None:
        groups = dataset.PerFrameFunctionalGroupsSequence
        groups[1] = groups[0]

    with pytest.raises(GeometryError, match=r"frames 1 and 2 of segment 1 lie at one place"):
        read_dicom_seg(edited(path, double), like=series)


def test_another_series_and_a_cut_file_are_refused(tmp_path):
    path, _ = write_seg(tmp_path, frames_first(labels()))
    other = write_series(tmp_path / "other", GRIDS["axial"], SHAPE)
    with pytest.raises(GeometryError, match="do not share a grid"):
        read_dicom_seg(path, like=other)
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(ImageReadError, match="truncated"):
        read_dicom_seg(path)
