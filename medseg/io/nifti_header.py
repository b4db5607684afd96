"""NIfTI header: declared sizes checked before anything is allocated, and where the voxels are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError, ImageReadError
from medseg.io.foreign import foreign_parser, silence_logger
from medseg.io.limits import ReadLimits
from medseg.io.orientation import LARGEST_MM, SMALLEST_MM, check_affine
from medseg.io.sniff import is_analyze

silence_logger("nibabel")

HEADER_BYTES = 540
ANALYZE_BYTES = 348
_MAX_EXTENSION = 64 << 20
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """What a NIfTI header says, checked.

    Parameters
    ----------
    shape : tuple of int
        As stored, axes of length one included.
    dtype : numpy dtype
        Of one voxel, in the file's byte order; with fields R G B (A) for colour.
    offset : int
        Byte of the first voxel.
    pair : bool
        The voxels lie in a file of their own (.img beside .hdr).
    slope, intercept : float
        value = slope * stored + intercept; 1 and 0 where the file gives none.
    affine : (4, 4) float64 array or None
        Voxel to RAS+ mm; None where both codes are 0.
    spacing_mm : tuple of float, or None
        Along the first three axes; None where unknown.
    facts : dict
        Codes, units and quaternion as texts, so that a label map can be written on the same grid.
    notes : tuple of str
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    pair: bool
    slope: float
    intercept: float
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, ...] | None
    facts: dict[str, str]
    notes: tuple[str, ...]

    @property
    def voxel_bytes(self) -> int:
        """Bytes that all voxels take."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_nifti_header(head: bytes, path: Path, limits: ReadLimits) -> NiftiHeader:
    """Check the first bytes of a NIfTI-1, NIfTI-2 or Analyze 7.5 file, single or the header of a pair.

    Raises
    ------
    ImageReadError
        Not NIfTI, no voxels, more voxels than `limits` allows, or a type of voxel that holds no image.
    GeometryError
        An affine that is not finite or flattens an axis.
    """
    raw, pair = _raw_header(head, path)
    shape = _shape(raw, path, limits)
    dtype = _voxel_type(raw, path)
    if "sform_code" not in raw:
        return _analyze(raw, shape, dtype, path)
    notes: list[str] = []
    with foreign_parser(path, "the position in the NIfTI header is damaged"):
        sform, qform = raw.get_sform(coded=True)[0], raw.get_qform(coded=True)[0]
    affine, spacing = _grid(raw, sform, qform, path, notes)
    slope, intercept = _scaling(raw, path)
    return NiftiHeader(
        shape=shape,
        dtype=dtype,
        offset=_offset(raw, path, first=0 if pair else raw.template_dtype.itemsize + 4),
        pair=pair,
        slope=slope,
        intercept=intercept,
        affine=affine,
        spacing_mm=spacing,
        facts=_facts(raw),
        notes=tuple(notes),
    )


def _raw_header(head: bytes, path: Path) -> tuple[Any, bool]:
    """The header as nibabel has it, and whether its voxels lie in another file."""
    two = head[4:7] in (b"n+2", b"ni2")
    magic = head[4:7] if two else head[344:347]
    kind = nib.Nifti2Header if two else nib.Nifti1Header
    if is_analyze(head):
        kind = nib.AnalyzeHeader
    elif magic not in (b"n+1", b"n+2", b"ni1", b"ni2"):
        raise ImageReadError(f"{path}: expected a NIfTI header, found {len(head)} bytes of another type")
    size = kind.template_dtype.itemsize
    if len(head) < size:
        raise ImageReadError(f"{path}: expected a NIfTI header of {size} bytes, found {len(head)} bytes")
    with foreign_parser(path, "the NIfTI header is damaged"):
        return kind(head[:size], check=False), magic not in (b"n+1", b"n+2")


def _analyze(raw: Any, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> NiftiHeader:
    """Analyze 7.5 knows distances, but no patient axes: programs disagree on its left and right."""
    sizes = tuple(abs(float(v)) for v in raw["pixdim"][1:4])
    known = all(SMALLEST_MM <= v <= LARGEST_MM for v in sizes[: min(3, len(shape))])
    sizes = tuple(v if v > 0 else 1.0 for v in sizes)
    return NiftiHeader(
        shape=shape,
        dtype=dtype,
        offset=_offset(raw, path, first=0),
        pair=True,
        slope=1.0,
        intercept=0.0,
        affine=None,
        spacing_mm=sizes if known else None,
        facts={},
        notes=("an Analyze file does not say which side is left; its orientation is unknown",),
    )


def _shape(raw: Any, path: Path, limits: ReadLimits) -> tuple[int, ...]:
    dims = [int(n) for n in raw["dim"]]
    if not 1 <= dims[0] <= 7:
        raise ImageReadError(f"{path}: the header says the image has {dims[0]} axes, expected 2 or 3")
    shape = tuple(dims[1 : dims[0] + 1])
    if min(shape) < 1:
        raise ImageReadError(f"{path}: the image has no voxels: its shape is {shape}")
    if all(n == 1 for n in shape[2:]):
        limits.check_pixels(path, shape[:2])
    limits.check_voxels(path, shape)
    return shape


def _voxel_type(raw: Any, path: Path) -> np.dtype[Any]:
    with foreign_parser(path, f"voxel type {int(raw['datatype'])} is not known"):
        dtype: np.dtype[Any] = raw.get_data_dtype()
    colour = dtype.names is not None and dtype.names[:3] == ("R", "G", "B")
    if not colour and (dtype.kind not in "iuf" or dtype.itemsize > 8):
        raise ImageReadError(f"{path}: expected real numbers or RGB, found voxels of type {dtype}")
    if int(raw["bitpix"]) != dtype.itemsize * 8:
        raise ImageReadError(
            f"{path}: the header says {int(raw['bitpix'])} bits for each voxel, "
            f"its type {dtype} has {dtype.itemsize * 8}"
        )
    return dtype


def _offset(raw: Any, path: Path, *, first: int) -> int:
    offset = float(raw["vox_offset"])
    if not first <= offset <= first + _MAX_EXTENSION or offset != int(offset):
        raise ImageReadError(
            f"{path}: the voxels should begin at byte {offset:g}, expected {first} or a little more"
        )
    return int(offset)


def _scaling(raw: Any, path: Path) -> tuple[float, float]:
    """Slope 0 or NaN means none, as the NIfTI standard and its readers have it."""
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise ImageReadError(f"{path}: scl_slope {slope:g} and scl_inter {intercept:g} are not finite")
    return slope, intercept


def _grid(
    raw: Any,
    sform: NDArray[np.float64] | None,
    qform: NDArray[np.float64] | None,
    path: Path,
    notes: list[str],
) -> tuple[NDArray[np.float64] | None, tuple[float, ...] | None]:
    units = int(raw["xyzt_units"]) & 7
    if units not in _MM_PER_UNIT:
        raise GeometryError(
            f"{path}: the unit of length has code {units}, expected 1 (m), 2 (mm) or 3 (micrometre)"
        )
    scale = _MM_PER_UNIT[units]
    found = sform if sform is not None else qform
    if found is None:
        sizes = tuple(float(v) * scale for v in raw["pixdim"][1:4])
        known = units != 0 and all(SMALLEST_MM <= v <= LARGEST_MM for v in sizes[:2])
        return None, sizes if known else None
    affine = np.asarray(found, dtype=np.float64).copy()
    affine[:3] *= scale
    check_affine(affine, path)
    if units == 0:
        notes.append("the file names no unit of length; its affine is read as millimetres")
    if sform is not None and qform is not None and not np.allclose(sform, qform, atol=1e-3):
        notes.append("sform and qform of the file differ; sform is used")
    return affine, tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))


def _facts(raw: Any) -> dict[str, str]:
    numbers = [raw["pixdim"][0], *(raw[name] for name in _QFORM_FIELDS), *raw["pixdim"][1:4]]
    return {
        "nifti_sform_code": str(int(raw["sform_code"])),
        "nifti_qform_code": str(int(raw["qform_code"])),
        "nifti_intent_code": str(int(raw["intent_code"])),
        "nifti_xyzt_units": str(int(raw["xyzt_units"]) & 7),
        "nifti_qform": " ".join(repr(float(v)) for v in numbers),
    }


def set_grid(
    header: Any,
    affine: NDArray[np.float64] | None,
    spacing_mm: tuple[float, ...] | None,
    facts: dict[str, str],
) -> None:
    """Write a grid into a nibabel header: as the source file had it where `facts` tells, else as given.

    An affine as given becomes s-form and q-form, or an s-form alone where it is sheared.

    Parameters
    ----------
    header : nibabel Nifti1Header
        Changed in place; its data shape must be set.
    affine : (4, 4) float64 array or None
        None gives codes 0: no patient coordinates.
    spacing_mm : tuple of float, or None
        Used where there is no affine; None gives voxel size 1 without a unit.
    facts : dict
        `NiftiHeader.facts` of the source; empty for another source.
    """
    header["sform_code"], header["qform_code"] = 0, 0
    if affine is None:
        sizes = (*(spacing_mm or (1.0, 1.0, 1.0)), 1.0)[:3]
        header["pixdim"][1:4] = sizes
        header["xyzt_units"] = 0 if spacing_mm is None else 2
        return
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["xyzt_units"] = 2
    if not facts:
        header.set_sform(affine, code=1)
        if _right_angled(affine):
            header.set_qform(affine, code=1)
        return
    sform_code, qform_code = int(facts.get("nifti_sform_code", "1")), int(facts.get("nifti_qform_code", "0"))
    if facts.get("nifti_xyzt_units") in ("0", "2"):  # in other units the numbers of the file are not mm
        header["xyzt_units"] = int(facts["nifti_xyzt_units"])
        _restore_qform(header, facts, qform_code)
    if sform_code or not np.allclose(header.get_qform(), affine, atol=1e-4):
        header.set_sform(affine, code=sform_code or 1)


def _right_angled(affine: NDArray[np.float64]) -> bool:
    """Whether a q-form, which knows rotations and lengths only, can hold the affine."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=1e-5))


def _restore_qform(header: Any, facts: dict[str, str], code: int) -> None:
    numbers = [float(v) for v in facts["nifti_qform"].split()]
    header["pixdim"][0] = numbers[0]
    header["pixdim"][1:4] = numbers[7:10]
    for name, number in zip(_QFORM_FIELDS, numbers[1:7], strict=True):
        header[name] = number
    header["qform_code"] = code
