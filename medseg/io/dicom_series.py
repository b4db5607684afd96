"""Voxels of a DICOM series: frames decoded in parallel, straight into one array, values rescaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageReadError
from medseg.io.dicom_format import PixelFormat
from medseg.io.dicom_frames import FrameSource, map_frames
from medseg.io.dicom_pet import suv_factor
from medseg.io.dicom_slice import SliceHeader
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits
from medseg.io.rescale import values_for
from medseg.io.series import SeriesVolume
from medseg.volume import Volume


def read_series(
    volume: SeriesVolume,
    *,
    suv: bool = False,
    threads: int | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> Volume:
    """Read the voxels of a series, in the units that its rescale says (HU for CT).

    Parameters
    ----------
    volume : SeriesVolume
        As `series.find_volumes` or `discover.discover` give it.
    suv : bool, optional
        Bring PET in Bq/ml to body-weight SUV in g/ml; see `dicom_pet.suv_factor`.
    threads : int or None
        Decoding threads; all processors that the process may use unless given.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (1, I, J, K), (1, I, J) for one slice, 3 channels for RGB. int16, uint16 or int32,
        the smallest that holds the values, where every rescaled value is whole; float32 else. Memory
        order is that of the frames: ``array[0, :, :, k].T`` is contiguous. The hashes are empty:
        `read.read_image` computes them.

    Raises
    ------
    GeometryError, ImageReadError
        What `SeriesVolume.problems` says; frames that are truncated, damaged or not as the header says.
    InputRefusedError
        `suv` of a series that does not say how.

    References
    ----------
    DICOM PS3.3 C.7.6.2, C.7.6.3, C.7.6.16.2.9 and C.11.1. A MONOCHROME1 slice keeps its values: they are
    measured, and the photometric interpretation concerns display alone.
    """
    volume.require_readable()
    form = volume.form
    if form is None:
        raise ImageReadError(f"{volume.slices[0].path}: its pixels cannot be read")
    limits.check_voxels(volume.slices[0].path, (*volume.grid.shape, form.samples))
    factor = suv_factor(volume, limits) if suv else 1.0
    frames = [_frame_source(header) for header in volume.slices]
    if form.samples > 1:
        array, notes = _read_colour(frames, form, threads)
    else:
        array, notes = _read_gray(volume, frames, form, factor, threads)
    notes = (*notes, *_padding(volume, array))
    grid = volume.grid
    facts = {**grid.header, "bits_stored": str(form.bits_stored)}
    if suv:
        facts["value_type"] = "SUVBW"
    if form.photometric == "MONOCHROME1":
        notes = (*notes, "MONOCHROME1 slices: values kept as measured, not inverted for display")
    return Volume(
        array=array,
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        spacing_origin="affine",
        patient_orientation=grid.patient_orientation,
        modality=grid.modality,
        source=grid.source,
        notes=(*volume.notes, *notes),
        header=facts,
    )


def same_pixels(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices have equal stored values and equal rescale, whatever their encoding."""
    if one.form is None or other.form is None:
        return False
    if (one.slope, one.intercept) != (other.slope, other.intercept):
        return False
    found: dict[int, NDArray[Any]] = {}
    map_frames(
        [_frame_source(one), _frame_source(other)], lambda n, stored: found.update({n: stored}), threads=1
    )
    return found[0].shape == found[1].shape and bool(np.array_equal(found[0], found[1]))


def _frame_source(header: SliceHeader) -> FrameSource:
    if header.form is None or header.pixels is None:
        raise ImageReadError(f"{header.path}: {header.problem}")
    return FrameSource(
        path=header.path,
        transfer_syntax=header.transfer_syntax,
        offset=header.pixels.offset,
        length=header.pixels.length,
        form=header.form,
        frame=header.frame,
        frames=header.frames,
        data=header.inflated,
        vr=header.pixels.vr,
    )


def _read_colour(
    frames: list[FrameSource], form: PixelFormat, threads: int | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(3, I, J, K) or (3, I, J) RGB values."""
    out = np.empty(
        (len(frames), form.rows, form.columns, 3), dtype=np.uint8 if form.bits_allocated == 8 else np.uint16
    )

    def keep(n: int, stored: NDArray[Any]) -> None:
        out[n] = stored

    notes = map_frames(frames, keep, threads=threads)
    array = out.transpose(3, 2, 1, 0)
    return (array[..., 0] if len(frames) == 1 else array), notes


def _read_gray(
    volume: SeriesVolume, frames: list[FrameSource], form: PixelFormat, factor: float, threads: int | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(1, I, J, K) or (1, I, J) rescaled values."""
    scales = [(header.slope * factor, header.intercept * factor) for header in volume.slices]
    values = values_for(form, scales)
    notes = map_frames(frames, values.put, threads=threads)
    found, more = values.finish()
    if volume.mosaic is not None:
        found = np.ascontiguousarray(volume.mosaic.unfold(found[0]))
    array = found.transpose(2, 1, 0)
    return (array[..., 0] if len(found) == 1 else array)[np.newaxis], (*notes, *more)


def _padding(volume: SeriesVolume, array: NDArray[Any]) -> tuple[str, ...]:
    """How many voxels are padding, where the header names a padding value."""
    text = volume.grid.header.get("pixel_padding_value")
    if text is None or array.shape[0] != 1:
        return ()
    stored = [float(v) for v in text.split(" to ")]
    count = 0
    for k, header in enumerate(volume.slices if volume.mosaic is None else ()):
        plane = array[0] if array.ndim == 3 else array[0, :, :, k]
        ends = sorted(header.slope * v + header.intercept for v in stored)
        count += int(np.count_nonzero((plane >= ends[0]) & (plane <= ends[-1])))
    if not count:
        return ()
    share = 100 * count / array.size
    return (f"{count} voxels ({share:.1f} %) are padding (stored value {text}), not measured",)
