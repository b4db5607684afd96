"""Siemens mosaics: one file whose picture holds all slices of a volume as tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.geometry import affine_from_slices
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_slice import SliceHeader
from medseg.io.foreign import foreign_parser, recorded_warnings
from medseg.io.limits import ReadLimits
from medseg.io.stacks import Stack

_MAX_SLICES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """How tiles become slices.

    Parameters
    ----------
    across : int
        Tiles in a row of the picture, and rows of tiles.
    rows, columns : int
        Of one tile.
    slices : int
        Tiles that hold a slice; the rest of the picture is empty.
    backwards : bool
        Whether the first tile is the last slice along the normal (row cosines x column cosines).
    """

    across: int
    rows: int
    columns: int
    slices: int
    backwards: bool

    def unfold(self, picture: NDArray[Any]) -> NDArray[Any]:
        """(slices, rows, columns) view of the tiles, or copy, in stacking order, of the (R, C) picture."""
        tiles = picture.reshape(self.across, self.rows, self.across, self.columns).swapaxes(1, 2)
        slices = tiles.reshape(-1, self.rows, self.columns)[: self.slices]
        return slices[::-1] if self.backwards else slices


def mosaic_of(header: SliceHeader, limits: ReadLimits) -> tuple[Stack, Mosaic | None]:
    """The volume in a mosaic: its place and the layout of its tiles.

    Returns
    -------
    Stack
        With a problem where the file does not say how its tiles lie.
    Mosaic or None

    References
    ----------
    The vendor's private header (CSA) as nibabel.nicom documents it: SliceNormalVector is the direction
    from tile to tile, and the position is that of the whole picture about the centre of the first slice.
    """
    count, normal, step = _layout(header, limits)
    form, spacing = header.form, header.pixel_spacing_mm
    usable = form is not None and spacing is not None and header.position_lps is not None
    if not usable or form is None or spacing is None or header.orientation_lps is None:
        problem = header.problem or "a mosaic without position, orientation or pixel spacing"
        return Stack(slices=(header,), affine=None, problems=(problem,)), None
    across = math.ceil(math.sqrt(count)) if count else 0
    if not across or form.rows % across or form.columns % across or normal is None or not step:
        problem = "a mosaic whose private header does not say how its tiles lie; export its slices one by one"
        return Stack(slices=(header,), affine=None, problems=(problem,)), None
    rows, columns = form.rows // across, form.columns // across
    cosines = np.asarray(header.orientation_lps)
    first = np.asarray(header.position_lps, dtype=np.float64)
    first = first + cosines[:3] * spacing[1] * (form.columns - columns) / 2
    first = first + cosines[3:] * spacing[0] * (form.rows - rows) / 2
    backwards = float(np.cross(cosines[:3], cosines[3:]) @ normal) < 0
    positions = first + np.outer(np.arange(count), normal * step)
    affine = affine_from_slices(positions[::-1] if backwards else positions, cosines, spacing)
    problems = (f"{header.place}: {header.problem}",) if header.problem else ()
    mosaic = Mosaic(across=across, rows=rows, columns=columns, slices=count, backwards=backwards)
    return Stack(slices=(header,), affine=affine, part=header.place, problems=problems), mosaic


def _layout(header: SliceHeader, limits: ReadLimits) -> tuple[int, NDArray[np.float64] | None, float]:
    """Number of tiles, unit vector from tile to tile (LPS), and mm between them; 0 or None where not said."""
    # Loaded only for mosaics: the import takes as long as looking through a study.
    with recorded_warnings():
        from nibabel.nicom.csareader import get_csa_header, get_n_mosaic, get_slice_normal

    dataset = scan_file(header.path, limits).dataset
    with foreign_parser(header.path, "the private header of the mosaic cannot be parsed", quote=False):
        csa = get_csa_header(dataset, "image")
        count = None if csa is None else get_n_mosaic(csa)
        normal = None if csa is None else get_slice_normal(csa)
    steps = DicomHeader(header.path, (dataset,)).numbers("SpacingBetweenSlices") or (
        header.thickness_mm or 0,
    )
    good = normal is not None and len(normal) == 3 and abs(np.linalg.norm(normal) - 1) < 1e-3
    step = float(steps[0]) if math.isfinite(float(steps[0])) and steps[0] > 0 else 0.0
    whole = int(count) if count and 0 < int(count) <= _MAX_SLICES else 0
    return whole, np.asarray(normal, dtype=np.float64) if good else None, step
