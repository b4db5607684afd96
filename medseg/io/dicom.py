"""DICOM projection image or single slice -> Volume."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from medseg.errors import ImageReadError, InputRefusedError
from medseg.io.content import as_float32, check_content, merge_equal_channels, pixel_digest
from medseg.io.dicom_facts import facts_of
from medseg.io.dicom_file import parse_file
from medseg.io.dicom_format import pixel_format
from medseg.io.dicom_gray import GrayImage, to_display_polarity
from medseg.io.dicom_grid import grid_of
from medseg.io.dicom_header import DicomHeader, modality_of, uid_name
from medseg.io.dicom_pixels import DecodedPixels, decode
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, read_bytes
from medseg.volume import Source, Volume

_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"  # newer than the dictionary of pydicom 3.0
_LABELS = frozenset({uid.SegmentationStorage, uid.SurfaceSegmentationStorage, _LABEL_MAP_SEGMENTATION})


def read_radiograph(
    path: Path, *, modality: frozenset[str] | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> Volume:
    """Read a single-frame DICOM image as a reader sees it: bone light, air dark.

    Parameters
    ----------
    path : Path
        CR, DX, MG, secondary capture, or any other object with one frame. A file without preamble
        is read when it begins like DICOM. A CT or MR slice becomes a 2-D volume with its affine.
    modality : frozenset of str, optional
        Refuse other modalities before anything is decoded; "" stands for files that do not say.
        A secondary capture whose modality is missing or OT counts as SC.
    limits : ReadLimits, optional

    Returns
    -------
    Volume
        array (C, I, J) float32, C 1 for gray and 3 for RGB: modality LUT or rescale applied,
        MONOCHROME1 inverted inside the range of its stored bits, no window applied. `header` has
        the window for display in the values of `array`.

    Raises
    ------
    ImageReadError
        Truncated or damaged, header and pixels disagree, unknown transfer syntax, no pixels, NaN,
        or one single value.
    GeometryError
        More than one frame.
    InputRefusedError
        A modality that is not allowed.
    MissingPackageError
        The pixels need a decoder that is not installed.

    References
    ----------
    DICOM PS3.3 C.7.6.3, C.8.1, C.8.11; PS3.5 8 and A.
    """
    path = Path(path)
    data = read_bytes(path, limits)
    dataset, stored_as = parse_file(data, path, limits)
    header = DicomHeader.of(dataset, path)
    found = modality_of(header)
    _require_image(header)
    require_modality(found, modality, (path,))
    pixels = decode(header, pixel_format(header, limits))
    grid = grid_of(header, found)
    gray = None if pixels.array.ndim == 3 else to_display_polarity(pixels.array, pixels.format, header)
    notes: list[str] = [*pixels.notes, *(gray.notes if gray else ()), *_caveats(header, stored_as)]
    array = _channels(pixels if gray is None else gray, notes)
    check_content(array, path)
    return Volume(
        array=array,
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        spacing_origin=grid.spacing_origin,
        patient_orientation=grid.patient_orientation,
        modality=found,
        source=_source(header, data),
        pixel_sha256=pixel_digest(array),
        notes=(*notes, *grid.notes),
        header=_facts(header, pixels, gray, stored_as),
    )


def require_modality(found: str, allowed: frozenset[str] | None, where: Sequence[Path]) -> None:
    """Refuse an image whose modality is not among the allowed ones.

    Raises
    ------
    InputRefusedError
        Names the modality found and those allowed.
    """
    if allowed is not None and found not in allowed:
        names = ", ".join(name or "none given" for name in sorted(allowed))
        paths = ", ".join(str(path) for path in where)
        raise InputRefusedError(
            f"{paths}: the modality is {found or 'not given'}, allowed are: {names}; "
            "leave it out, or change the allowed ones"
        )


def _require_image(header: DicomHeader) -> None:
    kind = header.uid("SOPClassUID")
    if kind in _LABELS:
        raise ImageReadError(f"{header.path}: expected an image, found a label: {uid_name(kind)}")


def _channels(pixels: DecodedPixels | GrayImage, notes: list[str]) -> NDArray[np.float32]:
    """(C, I, J) from rows x columns (x samples); NaN passes, it is refused later with its count."""
    array: NDArray[Any] = pixels.array
    if array.ndim == 2:
        return as_float32(array.T[np.newaxis], notes)
    return as_float32(merge_equal_channels(array.transpose(2, 1, 0), notes), notes)


def _caveats(header: DicomHeader, stored_as: str) -> list[str]:
    notes = []
    if not stored_as:
        notes.append("the file has no meta header; its encoding was found from its first element")
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        notes.append("a raw detector image (for processing), not the one made for reading")
    return notes


def _source(header: DicomHeader, data: bytes) -> Source:
    instance = header.uid("SOPInstanceUID")
    return Source(
        paths=(header.path,),
        format="dicom",
        sha256=hashlib.sha256(data).hexdigest(),
        sop_class_uid=header.uid("SOPClassUID"),
        sop_instance_uids=(instance,) if instance else (),
        series_instance_uid=header.uid("SeriesInstanceUID"),
        study_instance_uid=header.uid("StudyInstanceUID"),
        frame_of_reference_uid=header.uid("FrameOfReferenceUID"),
    )


def _facts(
    header: DicomHeader, pixels: DecodedPixels, gray: GrayImage | None, stored_as: str
) -> dict[str, str]:
    """What a reader of the result may see of the header: no empty values, nothing that names a person."""
    facts = {
        **facts_of(header, stored_as),
        "photometric_interpretation": pixels.format.photometric,
        "bits_stored": str(pixels.format.bits_stored),
        "decoder": pixels.decoder,
        "inverted": "yes" if gray is not None and gray.inverted else "",
        **_window(header, gray),
    }
    return {key: value for key, value in facts.items() if value}


def _window(header: DicomHeader, gray: GrayImage | None) -> dict[str, str]:
    """First VOI window, in the values of the array: turned over where the image was."""
    center, width = header.numbers("WindowCenter")[:1], header.numbers("WindowWidth")[:1]
    if gray is None or not center or not width or not math.isfinite(center[0]) or not 0 < width[0] < math.inf:
        return {}
    middle = sum(gray.value_range) - center[0] if gray.inverted else center[0]
    function = header.code("VOILUTFunction")
    return {"window_center": f"{middle:g}", "window_width": f"{width[0]:g}", "voi_lut_function": function}
