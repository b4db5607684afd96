"""Label map -> the Contour Sequences of an RT Structure Set, encoded in Implicit VR Little Endian.

Encoded here and not by a DICOM library because a structure has thousands of contours with hundreds
of thousands of numbers: as objects they cost a hundred times their bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.export.contours import Outlines, polygons_of, trace_outlines
from medseg.geometry import affine_lps_to_ras, spacing_of
from medseg.volume import ImageGrid, Source

_MAX_TEXT = 16  # characters of a DS value
_FEWEST_DECIMALS, _DECIMALS = 3, 4
_ITEM = 0xFFFEE000


@dataclass(frozen=True, slots=True, kw_only=True)
class ContourSequence:
    """Contours of the structure with class index `number`, encoded: the value of (3006,0040)."""

    number: int
    encoded: bytes


def contour_sequences(label_map: NDArray[Any], grid: ImageGrid) -> list[ContourSequence]:
    """Contours of every class that has a voxel, in LPS+ mm, each with the instance it lies on.

    Parameters
    ----------
    label_map : (I, J, K) or (I, J) integer array
        Class indices.
    grid : ImageGrid
        With an affine and the DICOM instances of its slices.

    Raises
    ------
    GeometryError
        A coordinate has no room for three decimals in the 16 characters of a DICOM decimal.
    """
    volume = label_map.reshape((*label_map.shape, 1)[:3])
    affine_lps = affine_lps_to_ras(np.asarray(grid.affine))
    decimals = _decimals(affine_lps, volume.shape)
    images = [_image_reference(grid.source, k) for k in range(volume.shape[2])]
    sequences = []
    for number, box in enumerate(ndimage.find_objects(volume), start=1):
        if box is None:
            continue
        outlines = trace_outlines(volume[box] == number)
        indices = outlines.indices + [axis.start for axis in box]
        points = indices @ affine_lps[:3, :3].T + affine_lps[:3, 3]
        first = box[2].start
        encoded = _encode(outlines, _decimal_strings(points, decimals), images[first:])
        sequences.append(ContourSequence(number=number, encoded=encoded))
    return sequences


def _decimals(affine_lps: NDArray[np.float64], shape: tuple[int, ...]) -> int:
    """Decimals that keep a thousandth of a voxel, four at least where they fit, never fewer than three."""
    corners = np.array(np.meshgrid(*[[-0.5, n - 0.5] for n in shape], [1.0])).reshape(4, -1)
    largest = float(np.abs(affine_lps @ corners)[:3].max())
    room = _MAX_TEXT - len(f"-{largest + 1:.0f}.")
    if not math.isfinite(largest) or room < _FEWEST_DECIMALS:
        raise GeometryError(
            f"a corner of the image lies {largest:g} mm from the origin, which a DICOM decimal cannot hold "
            f"to 0.001 mm; check the image position"
        )
    wanted = math.ceil(3 - math.log10(min(spacing_of(affine_lps))))
    return min(max(wanted, _DECIMALS), room)


def _decimal_strings(points: NDArray[np.float64], decimals: int) -> list[str]:
    # Adding zero turns -0.0 into 0.0.
    values = np.round(points, decimals).ravel() + 0.0
    template = f"%.{decimals}f"
    return [template % value for value in values.tolist()]


def _image_reference(source: Source, k: int) -> bytes:
    """Contour Image Sequence: the instance, and the frame of a multi-frame one, of slice k."""
    content = _element(0x00081150, source.sop_class_uid.encode(), pad=b"\0")
    content += _element(0x00081155, source.sop_instance_uids[k].encode(), pad=b"\0")
    if source.frame_numbers:
        content += _element(0x00081160, str(source.frame_numbers[k]).encode())
    return _element(0x30060016, _element(_ITEM, content))


def _encode(outlines: Outlines, texts: list[str], images: list[bytes]) -> bytes:
    kind = _element(0x30060042, b"CLOSED_PLANAR")
    items = []
    for corners, k in zip(polygons_of(outlines), outlines.slices.tolist(), strict=True):
        count = _element(0x30060046, str(corners.stop - corners.start).encode())
        data = _element(0x30060050, "\\".join(texts[3 * corners.start : 3 * corners.stop]).encode())
        items.append(_element(_ITEM, images[k] + kind + count + data))
    return b"".join(items)


def _element(tag: int, value: bytes, *, pad: bytes = b" ") -> bytes:
    value += pad * (len(value) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
