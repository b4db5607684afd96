"""Masks of any program, read with their names and brought onto one grid and one label table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config.label_file import read_label_file
from medseg.config.schema import LabelOptions, table_from_options
from medseg.errors import ConfigError, LabelError
from medseg.geometry import lattice_map
from medseg.io.align import onto_grid
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_masks import read_dicom_masks
from medseg.io.discover import RTSTRUCT
from medseg.io.limits import DEFAULT_LIMITS
from medseg.io.read import read_mask
from medseg.io.slicer_segmentation import is_slicer_segmentation, read_slicer_segmentation
from medseg.io.sniff import sniff
from medseg.labels import BACKGROUND, MAX_VALUE, LabelTable
from medseg.pipeline.convert import reference_grid, sidecar_of
from medseg.volume import ImageGrid, Source, Volume

_SLAB = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMask:
    """A mask on a grid; `table` says what its values mean, None where nothing does.

    `sparse` marks a DICOM SEG or a segmentation of 3D Slicer, whose grid ends with what is drawn: what lies
    beyond is background.
    """

    values: NDArray[Any]
    grid: ImageGrid
    table: LabelTable | None
    sparse: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedMasks:
    """Two masks on one grid, in class indices (prediction) and set indices (reference) of one table."""

    prediction: NDArray[Any]
    reference: NDArray[Any]
    grid: ImageGrid
    table: LabelTable
    notes: tuple[str, ...]


def read_pair(
    prediction: Path | None, reference: Path, *, image: Path | None = None, labels: LabelTable | None = None
) -> MatchedMasks:
    """Read both masks of a case and bring them together.

    The voxels are those of the image where one is given, else of the reference. A mask with the same voxels in
    another order of axes is moved exactly; any other grid is refused. Values mean what `labels` says; masks
    that name their structures themselves (SEG, RTSTRUCT, a sidecar of medseg) are matched by name.

    Parameters
    ----------
    prediction : Path or None
        None: nothing was found, an empty mask.
    reference : Path
    image : Path, optional
        File, or folder of a DICOM series.
    labels : LabelTable, optional
        Without it the names of the masks count, and where they have none, their values.

    Raises
    ------
    GeometryError
        The grids differ; the message names both.
    LabelError
        A value or a name that the table does not have.
    ConfigError
        Two RTSTRUCT without an image, or a damaged sidecar.
    ImageReadError
        A file cannot be read.
    """
    grid = None if image is None else reference_grid(image, None)
    theirs, ours = _read_both(prediction, reference, grid)
    target = grid or _common_grid(theirs, ours)
    table = labels or _table_of(theirs, ours)
    moved = [replace(mask, values=_moved(mask, target), grid=target) for mask in (theirs, ours)]
    same = [_in_values(mask, table, path) for mask, path in zip(moved, (reference, prediction), strict=True)]
    return MatchedMasks(
        prediction=table.class_indices(same[1]),
        # A complete mask has the same numbers as class and as set; uint8 is a quarter of the memory.
        reference=table.class_indices(same[0]) if table.ignore is None else table.encode(same[0]),
        grid=target,
        table=table,
        notes=tuple(dict.fromkeys((*theirs.notes, *ours.notes))),
    )


def read_onto(path: Path, grid: ImageGrid, table: LabelTable) -> NDArray[Any]:
    """Read one mask onto the grid of its image, in class indices of a table.

    A mask with the same voxels in another order of axes is moved exactly; any other grid is refused. Structures of
    masks that have names (SEG, RTSTRUCT, segmentations of 3D Slicer, a sidecar of medseg) are matched by them.

    Parameters
    ----------
    path : Path
    grid : ImageGrid
    table : LabelTable

    Returns
    -------
    grid.shape array of uint8 or uint16

    Raises
    ------
    GeometryError
        Another grid; the message names both.
    LabelError
        A value or a name that the table does not have, or values that are not whole numbers.
    ConfigError
        A damaged sidecar.
    ImageReadError
        The file cannot be read.
    """
    mask = _read(path, grid)
    values = _in_values(replace(mask, values=_moved(mask, grid), grid=grid), table, path)
    return table.class_indices(values)


def _read_both(
    prediction: Path | None, reference: Path, grid: ImageGrid | None
) -> tuple[NamedMask, NamedMask]:
    """Reference and prediction; contours are drawn on the grid of the other where there is no image."""
    if grid is None and _is_rtstruct(reference):
        if prediction is None or _is_rtstruct(prediction):
            raise ConfigError(
                f"{reference}: contours have no grid of their own; name the image series that they belong to in "
                "the column image of a CSV (--cases)"
            )
        ours = _read(prediction, None)
        return _read(reference, ours.grid), ours
    theirs = _read(reference, grid)
    if prediction is None:
        empty = np.zeros(theirs.values.shape, dtype=np.uint8, order="F")
        return theirs, NamedMask(values=empty, grid=theirs.grid, table=theirs.table)
    contours = grid is None and _is_rtstruct(prediction)
    return theirs, _read(prediction, theirs.grid if contours else grid)


def _is_rtstruct(path: Path) -> bool:
    if sniff(path) != "dicom":
        return False
    return DicomHeader(path, (scan_file(path, DEFAULT_LIMITS).dataset,)).uid("SOPClassUID") == RTSTRUCT


def _read(path: Path, grid: ImageGrid | None) -> NamedMask:
    if sniff(path) == "dicom":
        found = read_dicom_masks(path, grid)
        own = replace(found.grid, source=Source(paths=(path,), format="dicom"))
        return NamedMask(
            values=found.label_map, grid=own, table=found.table, sparse=grid is None, notes=found.notes
        )
    if sniff(path) == "nrrd" and is_slicer_segmentation(path):
        named = read_slicer_segmentation(path)
        return NamedMask(
            values=named.volume.array[0], grid=named.volume.grid, table=named.table, sparse=grid is None
        )
    volume = read_mask(path)
    sidecar = sidecar_of(path)
    table = read_label_file(sidecar) if sidecar.is_file() and _is_own(sidecar) else None
    return NamedMask(values=volume.array[0], grid=volume.grid, table=table)


def _is_own(sidecar: Path) -> bool:
    """Whether a JSON beside a mask is medseg's; other programs write theirs there as well."""
    with sidecar.open("rb") as stream:
        return b'"medseg_segmentation"' in stream.read(4096)


def _common_grid(theirs: NamedMask, ours: NamedMask) -> ImageGrid:
    """The reference's grid; where a SEG has left out empty slices, the smallest that holds both masks."""
    one, two = theirs.grid, ours.grid
    if not (theirs.sparse or ours.sparse) or one.affine is None or two.affine is None:
        return one
    if len(one.shape) != 3 or len(two.shape) != 3:
        return one
    move = lattice_map(one.affine, one.shape, two.affine, two.shape)
    if move is None:
        return one
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in two.shape))]) @ move.matrix.T
    low = np.minimum(0, np.rint(corners[:, :3].min(axis=0))).astype(int)
    high = np.maximum(np.array(one.shape) - 1, np.rint(corners[:, :3].max(axis=0))).astype(int)
    shift = np.eye(4)
    shift[:3, 3] = low
    return replace(one, shape=tuple(int(n) for n in high - low + 1), affine=one.affine @ shift)


def _moved(mask: NamedMask, target: ImageGrid) -> NDArray[Any]:
    volume = Volume(
        array=mask.values[np.newaxis],
        affine=mask.grid.affine,
        spacing_mm=mask.grid.spacing_mm,
        source=mask.grid.source,
    )
    return onto_grid(volume, target)


def _table_of(theirs: NamedMask, ours: NamedMask) -> LabelTable:
    """The label table that both masks speak of, made from their names or their values."""
    tables = [mask.table for mask in (theirs, ours) if mask.table is not None]
    if not tables:
        return table_of_values(_values(theirs.values), _values(ours.values))
    first = tables[0]
    known = {_plain(label.name) for label in first.labels}
    extra = [label for table in tables[1:] for label in table.labels if _plain(label.name) not in known]
    top = max((label.value for label in first.labels), default=0)
    # Sides and pairs play no part here, and a pair could be named that the other table does not have.
    labels = [replace(label, pair=None) for label in first.labels]
    labels += [replace(label, pair=None, value=top + n) for n, label in enumerate(extra, start=1)]
    return LabelTable(labels=tuple(labels), regions=first.regions)


def table_of_values(reference: Sequence[int], prediction: Sequence[int]) -> LabelTable:
    """Labels `label_1`, `label_2`, ... for the values of two masks that nothing names.

    Raises
    ------
    LabelError
        Negative or very large values, or one mask is 0 and 1 and the other 0 and 255.
    """
    values = sorted({*reference, *prediction} - {0})
    if values and (values[0] < 0 or values[-1] > MAX_VALUE):
        raise LabelError(f"mask values must lie in 0..{MAX_VALUE}, found {values[0]}..{values[-1]}")
    if {tuple(sorted({*v} - {0})) for v in (reference, prediction)} == {(1,), (255,)}:
        raise LabelError(
            f"the prediction has the value {max(prediction)} and the reference {max(reference)}, which look like one "
            "structure written in two ways; write both alike"
        )
    return table_from_options({f"label_{v}": LabelOptions(value=v) for v in values}, {}, None, {})


def _values(array: NDArray[Any]) -> list[int]:
    """The different values of a mask, ascending; in slabs, without sorting the voxels."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > MAX_VALUE:
        return [low, high]
    seen = np.zeros(high + 1, dtype=np.bool_)
    flat = array.ravel(order="K")
    for start in range(0, flat.size, _SLAB):
        seen[flat[start : start + _SLAB]] = True
    return np.flatnonzero(seen).tolist()


def _in_values(mask: NamedMask, table: LabelTable, path: Path | None) -> NDArray[Any]:
    """The mask in the values of a table; a mask that has names of its own is translated by them."""
    if mask.table is None or mask.table is table:
        return mask.values
    wanted = {_plain(label.name): label.value for label in table.labels}
    present = set(_values(mask.values))
    names = {label.value: label.name for label in mask.table.labels if label.value in present}
    unknown = [name for name in names.values() if _plain(name) not in wanted]
    if unknown:
        raise LabelError(
            f"{path}: it has the structures {', '.join(unknown)}, which the labels do not name; known: "
            f"{', '.join(label.name for label in table.labels)}"
        )
    return _translated(mask.values, {value: wanted[_plain(name)] for value, name in names.items()})


def _translated(values: NDArray[Any], pairs: Mapping[int, int]) -> NDArray[Any]:
    if all(old == new for old, new in pairs.items()):
        return values
    lookup = np.zeros(max(pairs) + 1, dtype=np.min_scalar_type(max(pairs.values())))
    for old, new in pairs.items():
        lookup[old] = new
    return np.take(lookup, values, out=np.empty_like(values, dtype=lookup.dtype))


def _plain(name: str) -> str:
    """A name as it is compared: `Left Lung`, `left_lung` and `left-lung` are one."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.casefold()).split()) or BACKGROUND
