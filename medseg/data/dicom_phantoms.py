"""Synthetic CT, MR and PET series as DICOM files, and a volume that no flip or axis swap leaves alone.

For tests and benchmarks of readers and writers: any grid that DICOM can say (oblique, left-handed,
sheared by a tilted gantry), single- and multi-frame, in the usual transfer syntaxes, files in any
order, and faults on purpose. Nothing in them comes from a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset

from medseg.data.dicom_phantom_frames import (
    PixelType,
    Rescale,
    encode_frames,
    put_pixels,
)
from medseg.data.dicom_phantom_headers import (
    Modality,
    MultiFrame,
    Placement,
    decimals,
    file_meta,
    phantom_uid,
    plain,
    shared_modules,
    single_frame_modules,
    sop_class,
)
from medseg.data.dicom_phantom_multiframe import MultiFrameModules
from medseg.errors import ConfigError, StorageError

Order = Literal["ascending", "reversed", "shuffled"]
Overrides = Mapping[int, Mapping[str, Any]]

AIR_HU = -1000
BODY_HU = 40
STRUCTURE_HU = (300, 600, 900)
"""Value of each structure of the asymmetric phantom, by label from 1."""

# Label, and extent along i, j, k as shares of the axes: a block, and an angle of two blocks.
_BOXES = (
    (2, (0.60, 0.92), (0.14, 0.40), (0.12, 0.34)),
    (3, (0.12, 0.62), (0.62, 0.76), (0.58, 0.92)),
    (3, (0.12, 0.28), (0.62, 0.92), (0.70, 0.92)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """What the files of one series share."""

    root: str
    modality: Modality
    multiframe: MultiFrame
    transfer_syntax: str
    description: str
    storage: uid.UID
    place: Placement
    rescale: Rescale
    kind: PixelType
    shape: tuple[int, int]
    window: tuple[float, float]


def write_series(
    folder: Path,
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    modality: Modality = "CT",
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    multiframe: MultiFrame = "no",
    slope: float = 1.0,
    intercept: float | None = None,
    rescale_per_slice: bool = False,
    order: Order = "ascending",
    uid_root: str = "1",
    series_description: str = "asymmetric phantom",
    per_slice_overrides: Overrides | None = None,
    threads: int = 2,
) -> list[Path]:
    """Write a volume as the DICOM series that a scanner would have made of it.

    Frame k has J rows and I columns. Orientation and positions follow from the affine, also where
    its slice axis leans (gantry tilt) or its axes are left-handed. The same arguments give the
    same bytes.

    Parameters
    ----------
    folder : Path
        Made where missing. Files are named IM0001 and so on, without extension; multi-frame
        series are one file.
    voxels : (I, J, K) integer array
        Real values: HU, Bq/ml or arbitrary units.
    affine : (4, 4) float64 array
        Maps voxel centres (i, j, k, 1) to RAS+ mm. Its first two columns are at right angles.
    modality : {"CT", "MR", "PT"}
    transfer_syntax : str
        UID: the four uncompressed ones, RLE, JPEG-LS lossless, JPEG 2000 lossless, or JPEG
        Lossless SV1.
    multiframe : {"no", "enhanced", "legacy"}
        One file per slice, one Enhanced image, or one Legacy Converted Enhanced image.
    slope, intercept : float
        Stored values are (value - intercept) / slope, rounded. The intercept is -1024 for CT and 0
        for others unless given.
    rescale_per_slice : bool
        Slices differ in slope and, but for PET, in intercept.
    order : {"ascending", "reversed", "shuffled"}
        How file names and instance numbers (frames, for multi-frame) run against the slice axis;
        shuffled names and numbers do not agree with each other either.
    uid_root : str
        Any text; UIDs and the patient's number are derived from it. Series of one root and
        different modalities are of one study.
    series_description : str
    per_slice_overrides : mapping of int to mapping of str to value
        Elements to set in the file of slice k, by keyword; None removes one. Pixel Data too.
    threads : int
        Frames compressed at a time.

    Returns
    -------
    list of Path
        One per slice, in slice order; one for a multi-frame series.

    Raises
    ------
    ConfigError
        A combination that cannot be written, or values that do not fit 16 bits.
    GeometryError
        Rows and columns that are not at right angles.
    StorageError
        A file cannot be written.
    """
    series = _series(
        voxels, affine, modality=modality, transfer_syntax=transfer_syntax, multiframe=multiframe,
        rescale=_rescale(modality, slope, intercept, per_slice=rescale_per_slice, slices=voxels.shape[2]),
        root=uid_root, description=series_description,
    )  # fmt: skip
    if multiframe != "no" and per_slice_overrides:
        raise ConfigError("elements of single slices can be set in single-frame series only")
    frames = encode_frames(voxels, series.rescale, series.kind, transfer_syntax, threads=threads)
    names, numbers = _orders(order, len(frames), uid_root)
    folder.mkdir(parents=True, exist_ok=True)
    if multiframe != "no":
        return [_write_multiframe(folder / "IM0001", series, frames, numbers)]
    return _write_slices(folder, series, frames, names, numbers, per_slice_overrides or {})


def _rescale(
    modality: Modality, slope: float, intercept: float | None, *, per_slice: bool, slices: int
) -> Rescale:
    usual = -1024.0 if modality == "CT" else 0.0
    chosen = usual if intercept is None else intercept
    if modality == "PT" and chosen != 0:
        raise ConfigError(f"PET images have a rescale intercept of 0 (PS3.3 C.8.9.4.1.4), found {chosen:g}")
    return Rescale.of(slope, chosen, slices=slices, per_slice=per_slice, pet=modality == "PT")


def _series(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    modality: Modality,
    transfer_syntax: str,
    multiframe: MultiFrame,
    rescale: Rescale,
    root: str,
    description: str,
) -> _Series:
    storage = sop_class(modality, multiframe)
    if storage is None:
        raise ConfigError(f"{multiframe} multi-frame images of modality {modality} are not written")
    low, high = int(voxels.min()), int(voxels.max())
    limits = [
        (value - i) / s
        for value in (low, high)
        for s, i in zip(rescale.slopes, rescale.intercepts, strict=True)
    ]
    kind = PixelType.of(round(min(limits)), round(max(limits)), twelve=modality != "PT")
    return _Series(
        root=root, modality=modality, multiframe=multiframe, transfer_syntax=transfer_syntax, description=description,
        storage=storage, place=Placement.of(affine, voxels.shape[2]), rescale=rescale, kind=kind,
        shape=(voxels.shape[1], voxels.shape[0]), window=((low + high) / 2, max(high - low, 1)),
    )  # fmt: skip


def _orders(order: Order, count: int, root: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number in the file name and instance number of each slice, from 0."""
    ascending = np.arange(count)
    if order == "ascending":
        return ascending, ascending
    if order == "reversed":
        return ascending[::-1], ascending[::-1]
    rng = np.random.default_rng(int(phantom_uid(root, "order").rpartition(".")[2]))
    return rng.permutation(count), rng.permutation(count)


def _write_slices(
    folder: Path,
    series: _Series,
    frames: Sequence[bytes],
    names: NDArray[np.int64],
    numbers: NDArray[np.int64],
    overrides: Overrides,
) -> list[Path]:
    shared = _base(series)
    shared.update(single_frame_modules(series.modality, series.place, slices=len(frames)))
    paths = []
    for k, frame in enumerate(frames):
        dataset = _empty(series)
        dataset.update(shared)
        _put_slice(dataset, series, k, int(numbers[k]))
        put_pixels(dataset, [frame], series.transfer_syntax)
        for keyword, value in overrides.get(k, {}).items():
            _override(dataset, keyword, value)
        paths.append(_save(dataset, folder / f"IM{names[k] + 1:04d}"))
    return paths


def _empty(series: _Series) -> FileDataset:
    """A file without elements."""
    syntax = uid.UID(series.transfer_syntax)
    meta = file_meta(storage=series.storage, transfer_syntax=series.transfer_syntax)
    return FileDataset(
        "", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
    )  # fmt: skip


def _base(series: _Series) -> Dataset:
    """The elements that every file of the series has."""
    dataset = shared_modules(series.root, series.modality, series.multiframe, description=series.description)
    dataset.update(plain(SOPClassUID=series.storage, **series.kind.elements(*series.shape)))
    return dataset


def _put_slice(dataset: FileDataset, series: _Series, k: int, number: int) -> None:
    """Elements of slice k alone."""
    dataset.SOPInstanceUID = phantom_uid(series.root, "instance", series.modality, k)
    dataset.InstanceNumber = number + 1
    position = series.place.positions[k]
    dataset.ImagePositionPatient = decimals(position)
    normal = np.cross(series.place.orientation[:3], series.place.orientation[3:])
    dataset.SliceLocation = decimals((float(normal @ position),))[0]
    # The MR Image module has no rescale; it stands only where values need it.
    if series.modality != "MR" or not series.rescale.is_identity:
        slope, intercept = decimals((series.rescale.slopes[k], series.rescale.intercepts[k]))
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    if series.modality == "PT":
        dataset.ImageIndex = k + 1
    dataset.WindowCenter, dataset.WindowWidth = decimals(series.window)


def _override(dataset: FileDataset, keyword: str, value: Any) -> None:
    if value is None:
        if keyword in dataset:
            delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)


def _write_multiframe(
    path: Path, series: _Series, frames: Sequence[bytes], numbers: NDArray[np.int64]
) -> Path:
    order = tuple(int(k) for k in np.argsort(numbers))
    dataset = _empty(series)
    dataset.update(_base(series))
    dataset.SOPInstanceUID = phantom_uid(series.root, "instance", series.modality, series.multiframe)
    modules = MultiFrameModules(
        root=series.root, modality=series.modality, multiframe=series.multiframe, place=series.place,
        rescale=series.rescale, frame_order=order, window=series.window,
    )  # fmt: skip
    dataset.update(modules.elements())
    put_pixels(dataset, [frames[k] for k in order], series.transfer_syntax)
    return _save(dataset, path)


def _save(dataset: FileDataset, path: Path) -> Path:
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "") or "1.2"
    try:
        # Not synced file by file as results are: a phantom can be made again.
        dataset.save_as(path, enforce_file_format=True)
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror or err}; free space") from err
    return path


def asymmetric_phantom(shape: tuple[int, int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A CT-like volume that no swap or flip of its axes leaves as it is, and the truth about it.

    Three structures of different sizes, each away from the middle of every axis, so that after
    any of the 48 signed permutations of the axes each of them lies somewhere else.

    Parameters
    ----------
    shape : (int, int, int)
        I, J, K; each 8 or more.

    Returns
    -------
    voxels : (I, J, K) int16 array, slices contiguous
        HU: air, a body, and `STRUCTURE_HU` in the structures, so that a threshold on the image
        gives the label map back.
    label_map : (I, J, K) uint8 array
        0 and the structures' labels 1 to 3.

    Raises
    ------
    ConfigError
        An axis shorter than 8.
    """
    if min(shape) < 8:
        raise ConfigError(f"the asymmetric phantom needs 8 voxels along each axis or more, found {shape}")
    i, j, k = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij", sparse=True)
    label_map = np.zeros(shape, dtype=np.uint8, order="F")
    label_map[((i - 0.30) / 0.21) ** 2 + ((j - 0.36) / 0.17) ** 2 + ((k - 0.40) / 0.26) ** 2 < 1] = 1
    for label, *sides in _BOXES:
        where = [
            np.flatnonzero((low < at) & (at < high)) for at, (low, high) in zip((i, j, k), sides, strict=True)
        ]
        label_map[np.ix_(*where)] = label
    voxels = np.full(shape, AIR_HU, dtype=np.int16, order="F")
    voxels[((i - 0.5) / 0.49) ** 2 + ((j - 0.5) / 0.49) ** 2 < np.ones_like(k)] = BODY_HU
    lookup = np.array([0, *STRUCTURE_HU], dtype=np.int16)
    np.copyto(voxels, lookup[label_map], where=label_map > 0)
    return voxels, label_map
