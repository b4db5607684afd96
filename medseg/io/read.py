"""Read any supported image or mask by its content, and bring channels and masks onto one grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError, LabelError
from medseg.io.align import Resampling, onto_grid
from medseg.io.content import as_float32, check_content, pixel_digest
from medseg.io.dicom import read_radiograph, require_modality
from medseg.io.dicom_frames import cores
from medseg.io.dicom_masks import read_dicom_labels
from medseg.io.dicom_series import read_series
from medseg.io.discover import Discovery, discover
from medseg.io.itk_image import read_itk
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.nifti import read_nifti
from medseg.io.picture import read_picture, read_picture_labels
from medseg.io.select import choose_one
from medseg.io.series import SeriesVolume
from medseg.io.series_rule import SeriesRule
from medseg.io.sniff import ITK, sniff
from medseg.provenance import sha256_file
from medseg.volume import Source, Volume

FourthAxis = Literal["refuse", "channels"]


def read_image(
    paths: Sequence[Path],
    *,
    gray_only: bool = False,
    modality: frozenset[str] | None = None,
    series: str | None = None,
    suv: bool = False,
    fourth_axis: FourthAxis = "refuse",
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Volume:
    """Read one image: a file, a folder or files of a DICOM series, or several files that are its channels.

    Parameters
    ----------
    paths : sequence of Path
        DICOM, NIfTI, NRRD, MetaImage, MINC, VTK, PNG, JPEG, TIFF or BMP, told by content, never by name.
        A folder, or several DICOM files with a place in the patient, are the slices of one volume; other
        files are channels, which must lie on one grid and have one modality, and follow each other in
        this order.
    gray_only : bool, optional
        Refuse colour; RGB with three equal channels counts as gray.
    modality : frozenset of str, optional
        Allowed modalities of DICOM files, "" for those that do not say. Pictures and NIfTI have none and pass.
    series : str or None
        Which volume, where DICOM files hold several: a key of the listing (``medseg inspect``), a series
        number or a Series Instance UID.
    suv : bool, optional
        Bring PET to body-weight SUV.
    fourth_axis : {"refuse", "channels"}, optional
        Whether the volumes of a NIfTI file with four axes are channels, or such a file is refused.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        Without NaN. (C, I, J) float32; (C, I, J, K) float32, or the whole numbers of the file in their
        type, as `dicom_series.read_series` and `nifti.read_nifti` give them.

    Raises
    ------
    ImageReadError
        A file cannot be read, holds one single value, or colour where gray is expected.
    GeometryError
        Slices that make up no even grid, channels on different grids, a damaged affine.
    ConfigError
        Several volumes, and nothing says which.
    InputRefusedError
        A modality that is not allowed.
    """
    if not paths:
        raise ImageReadError("expected at least one image file, found none")
    chosen = _series_volume([Path(path) for path in paths], series, limits)
    if chosen is not None:
        return read_volume(chosen, gray_only=gray_only, modality=modality, suv=suv, limits=limits)
    volumes = [
        _read_one(Path(path), gray_only=gray_only, modality=modality, fourth_axis=fourth_axis, limits=limits)
        for path in paths
    ]
    return volumes[0] if len(volumes) == 1 else _stack(volumes)


def read_volume(
    volume: SeriesVolume,
    *,
    gray_only: bool = False,
    modality: frozenset[str] | None = None,
    suv: bool = False,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Volume:
    """Read a DICOM volume that `discover.discover` found, with checks as `read_image` makes them.

    `source.sha256` is that of the file, of several files the SHA-256 over their hashes in slice order;
    `pixel_sha256` is left to those who compare pixels, as it takes longer than reading.
    """
    require_modality(volume.modality, modality, volume.grid.source.paths[:1])
    found = read_series(volume, suv=suv, limits=limits)
    paths = found.source.paths
    with ThreadPoolExecutor(min(cores(), len(paths))) as pool:
        hashes = list(pool.map(sha256_file, paths))
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    checked = _checked(found, paths[0], gray_only=gray_only)
    return replace(checked, source=replace(checked.source, sha256=digest))


def _series_volume(paths: list[Path], series: str | None, limits: ReadLimits) -> SeriesVolume | None:
    """The volume that the paths hold, None where they are no slices but images of their own."""
    folder = any(path.is_dir() for path in paths)
    if not folder and any(sniff(path) != "dicom" for path in paths):
        return None
    found = discover(paths, limits=limits)
    volumes = [image for image in found.images if image.volume is not None]
    if not folder and len(volumes) < len(found.images):
        return None
    if folder and len(found.images) == 1 and not volumes:
        raise ImageReadError(
            f"{paths[0]}: a folder is read as a DICOM series; name the file of a single image"
        )
    if not volumes:
        return None if not folder else _refuse_empty(paths, found)
    if not folder and len(paths) == 1 and len(volumes) == 1 and len(volumes[0].volume.grid.shape) == 2:  # type: ignore[union-attr]
        return None
    return choose_one(volumes, SeriesRule(series=series), where=paths[0]).volume


def _refuse_empty(paths: list[Path], found: Discovery) -> SeriesVolume:
    reasons = "; ".join(f"{item.path.name}: {item.reason}" for item in found.skipped[:3])
    raise ImageReadError(f"{paths[0]}: no DICOM image in it{f' ({reasons})' if reasons else ''}")


def _read_one(
    path: Path,
    *,
    gray_only: bool,
    modality: frozenset[str] | None,
    fourth_axis: FourthAxis,
    limits: ReadLimits,
) -> Volume:
    kind = sniff(path)
    if kind == "dicom":
        volume = read_radiograph(path, modality=modality, limits=limits)
    elif kind == "nifti":
        volume = read_nifti(path, channels=fourth_axis == "channels", limits=limits)
    else:
        volume = read_itk(path, limits=limits) if kind in ITK else read_picture(path, limits=limits)
    return _checked(volume, path, gray_only=gray_only)


def _checked(volume: Volume, path: Path, *, gray_only: bool) -> Volume:
    """The volume with content and the colours asked for; flat images and doubles as float32."""
    if gray_only and volume.array.shape[0] > 1:
        raise ImageReadError(
            f"{path}: expected a gray image, found RGB with different channels; "
            "add a `gray` step to the preprocessing if colour may be dropped"
        )
    check_content(volume.array, path)
    if volume.spatial_dims == 3 and (volume.array.dtype.kind in "iu" or volume.array.dtype == np.float32):
        return volume
    notes = list(volume.notes)
    array = as_float32(volume.array, notes)
    return replace(volume, array=array, notes=tuple(notes))


def _stack(volumes: list[Volume]) -> Volume:
    """Channels of several files as one volume; what identifies the files is kept for all of them."""
    first = volumes[0]
    for other in volumes[1:]:
        if not first.same_grid(other):
            raise GeometryError(
                f"channels do not share a grid: {describe_grid(first)}, but {describe_grid(other)}"
            )
        if other.modality != first.modality:
            raise GeometryError(
                f"channels have different modalities: {first.modality or 'none'} in {_names(first)}, "
                f"{other.modality or 'none'} in {_names(other)}"
            )
    array = np.concatenate([volume.array for volume in volumes])
    sources = [volume.source for volume in volumes]
    source = replace(
        first.source,
        paths=tuple(path for source in sources for path in source.paths),
        sha256=hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest(),
        sop_instance_uids=tuple(uid for source in sources for uid in source.sop_instance_uids),
    )
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    return replace(first, array=array, source=source, pixel_sha256=pixel_digest(array), notes=notes)


def read_label(
    path: Path, like: Volume, *, resample: Resampling = "never", limits: ReadLimits = DEFAULT_LIMITS
) -> NDArray[Any]:
    """Read a mask and bring it onto the grid of an image.

    A mask whose voxels are those of the image in another order of axes, or a part of them, is moved
    exactly; see `align.onto_grid`.

    Parameters
    ----------
    path : Path
        NIfTI, NRRD, MetaImage, MINC, VTK, PNG, TIFF or BMP; see `picture.read_picture_labels` for palettes.
        DICOM SEG, whose values are segment numbers; RTSTRUCT, whose values are ROI numbers in their order.
    like : Volume
        The image. Affines are compared where both have one.
    resample : {"never", "nearest"}, optional
        Whether a mask on another grid is refused, or resampled by world coordinates.
    limits : ReadLimits, optional

    Returns
    -------
    (1, I, J) or (1, I, J, K) integer array
        The stored values, on the grid of `like`.

    Raises
    ------
    ImageReadError
        The file cannot be read.
    GeometryError
        Another grid, or labelled voxels outside of the image; names both.
    LabelError
        Values that are not whole numbers, colours, or a lossy file.
    """
    path = Path(path)
    if sniff(path) == "dicom":
        return read_dicom_labels(path, like.grid, limits=limits)[np.newaxis]
    return onto_grid(read_mask(path, limits=limits), like.grid, resample=resample)[np.newaxis]


def read_mask(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> Volume:
    """Read a mask on its own grid, from any format but DICOM.

    Returns
    -------
    Volume
        array (1, I, J) or (1, I, J, K) of integers; without affine for pictures.

    Raises
    ------
    ImageReadError
        The file cannot be read.
    LabelError
        Values that are not whole numbers, colours, or a lossy file.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == "nifti":
        volume = read_nifti(path, limits=limits)
    elif kind in ITK:
        volume = read_itk(path, limits=limits)
    else:
        volume = Volume(
            array=read_picture_labels(path, limits=limits), source=Source(paths=(path,), format="picture")
        )
    if volume.array.shape[0] != 1:
        raise LabelError(f"{path}: expected a mask of one channel, found {volume.array.shape[0]}")
    return replace(volume, array=whole_numbers(volume.array, path))


def whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Label values as integers: integer types as stored (64 bits as int64), floating point as int32.

    Raises
    ------
    LabelError
        Fractions, with their number and one example, or values beyond 32 bits.
    """
    if array.dtype.kind in "iub":
        return array.astype(np.int64) if array.dtype == np.uint64 else array
    fractions = array != np.rint(array)
    count = int(fractions.sum())
    if count:
        raise LabelError(
            f"{path}: a mask holds whole numbers, found fractions in {count} of {array.size} voxels, "
            f"such as {float(array[fractions][0]):g}"
        )
    if float(np.abs(array).max(initial=0)) > np.iinfo(np.int32).max:
        raise LabelError(f"{path}: label values up to {float(np.abs(array).max()):g} do not fit 32 bits")
    return array.astype(np.int32)


def describe_grid(volume: Volume) -> str:
    """A grid in words for messages: files, shape and affine."""
    shape = " x ".join(str(n) for n in volume.spatial_shape)
    if volume.affine is None:
        return f"{_names(volume)} has {shape} voxels and no affine"
    rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in volume.affine[:3])
    return f"{_names(volume)} has {shape} voxels and the affine [{rows}]"


def _names(volume: Volume) -> str:
    return ", ".join(str(path) for path in volume.source.paths) or "the image"
