"""What a prediction will take of the memory, said before a pixel is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.amounts import bytes_text
from medseg.errors import MedsegError
from medseg.io.discover import Found
from medseg.io.nifti import read_nifti_header
from medseg.io.series import SeriesVolume
from medseg.pipeline.progress import Reporter
from medseg.transforms.header_grid import grid_of_header
from medseg.volume import ImageGrid

if TYPE_CHECKING:
    from medseg.pipeline.model import LoadedModel

# Readers hold the array and about this part of it again while they fill it.
_READING = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What a file says of an image before its pixels are read.

    Parameters
    ----------
    grid : ImageGrid
    channels : int
    value_bytes : int
        Of one voxel in memory.
    """

    grid: ImageGrid
    channels: int
    value_bytes: int

    @property
    def bytes(self) -> int:
        """Of the array that reading gives."""
        return self.channels * self.value_bytes * math.prod(self.grid.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """Memory of the whole process while an image is predicted.

    Parameters
    ----------
    least_bytes : int
        With everything that can give way given way.
    bytes : int
        As it will be done below the model's ceiling, or without one.
    """

    least_bytes: int
    bytes: int


def header_of(image: Found, *, channels: bool) -> ImageHeader | None:
    """Header of a volume that was found; None for pictures, and for formats that are not looked into.

    Parameters
    ----------
    image : Found
    channels : bool
        Whether the fourth axis of a file is its channels.
    """
    if image.volume is not None:
        return _of_series(image.volume)
    if image.kind != "nifti":
        return None
    header = read_nifti_header(image.paths[0])
    if len(header.shape) < 3 or header.dtype.names is not None:
        return None
    scaled = (header.slope, header.intercept) != (1, 0)
    return ImageHeader(
        grid=ImageGrid(shape=header.shape[:3], affine=header.affine, spacing_mm=header.spacing_mm),
        channels=len(image.paths) * (math.prod(header.shape[3:]) if channels else 1),
        value_bytes=4 if scaled or header.dtype.itemsize > 4 else header.dtype.itemsize,
    )


def _of_series(volume: SeriesVolume) -> ImageHeader | None:
    form = volume.form
    if form is None or len(volume.grid.shape) != 3:
        return None
    whole = all(float(n).is_integer() for header in volume.slices for n in (header.slope, header.intercept))
    return ImageHeader(
        grid=volume.grid,
        channels=form.samples,
        value_bytes=2 if whole and not form.is_float and form.bits_allocated <= 16 else 4,
    )


def foresee(header: ImageHeader, model: LoadedModel) -> Foreseen:
    """Memory that the prediction of an image will take; the network is tried on one window.

    Raises
    ------
    MedsegError
        A preprocessing step that the image cannot take.
    """
    from medseg.inference.ceiling import expected_bytes
    from medseg.memory import resident_bytes

    predictor = model.predictor
    grid = grid_of_header(header.grid, predictor.steps)
    demand = predictor.demand(grid, in_channels=model.bundle.in_channels)
    taken = resident_bytes() + header.bytes
    least = taken + max(round(_READING * header.bytes), demand.least_bytes)
    return Foreseen(
        least_bytes=least,
        bytes=max(least, taken + expected_bytes(demand, max_bytes=predictor.max_bytes, taken_bytes=taken)),
    )


def require_room(image: Found, model: LoadedModel) -> None:
    """Refuse an image that the model's ceiling of memory does not hold, before it is read.

    Raises
    ------
    ConfigError
        With the smallest ceiling that would.
    """
    from medseg.inference.ceiling import least_ceiling, too_low

    limit, needed = model.predictor.max_bytes, _needed(image, model)
    if limit is not None and needed is not None and least_ceiling(needed) > limit:
        raise too_low(limit, needed, "by its header, before it was read")


def look_ahead(images: Sequence[Found], model: LoadedModel, reporter: Reporter) -> None:
    """Say at once which images a ceiling of memory does not hold.

    Raises
    ------
    ConfigError
        It holds none of them.
    """
    from medseg.inference.ceiling import least_ceiling, too_low

    limit = model.predictor.max_bytes
    if limit is None:
        return
    needed = [_needed(image, model) for image in images]
    over = [bytes_ for bytes_ in needed if bytes_ is not None and least_ceiling(bytes_) > limit]
    if over and len(over) == len(images):
        raise too_low(
            limit, max(over), "the largest of them, by its header" if len(over) > 1 else "by its header"
        )
    if over:
        reporter.note(
            f"max_ram is {bytes_text(limit)}: {len(over)} of {len(images)} images will be left out, the largest takes "
            f"at least {bytes_text(max(over))}"
        )


def _needed(image: Found, model: LoadedModel) -> int | None:
    """Least memory for an image; None where its header does not tell, or it will be refused for another reason."""
    if model.predictor.max_bytes is None:
        return None
    try:
        header = header_of(image, channels=model.bundle.in_channels > 1)
        return None if header is None else foresee(header, model).least_bytes
    except (MedsegError, OSError):
        # Its turn comes, and then the reason is told.
        return None
