"""Frames of a multi-frame DICOM file (ultrasound, fluoroscopy, endoscopy), one after the other as images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medseg.errors import InputRefusedError
from medseg.io.content import as_float32
from medseg.io.dicom_file import parse_file
from medseg.io.dicom_format import frame_format, number_of_frames
from medseg.io.dicom_frame import FragmentTables, FrameReader, StoredFrame
from medseg.io.dicom_gray import to_display_polarity
from medseg.io.dicom_header import DicomHeader
from medseg.io.dicom_pixels import frame_in_memory
from medseg.io.limits import DEFAULT_LIMITS, ReadLimits, read_bytes
from medseg.volume import Source, Volume


def read_cine(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[Volume]:
    """Frames of a file in their order, decoded when they are asked for.

    Parameters
    ----------
    path : Path
        A file with any number of frames; one frame gives one image.
    limits : ReadLimits, optional

    Yields
    ------
    Volume
        (C, I, J) float32, C 1 for gray and 3 for RGB, I along the columns; gray values as `dicom.read_radiograph`
        gives them. No place in the patient, and no spacing: regions of ultrasound have each their own.

    Raises
    ------
    ImageReadError
        A damaged file or frame, or a video codec.
    InputRefusedError
        The frames are slices with places in the patient; they are a volume.
    """
    data = read_bytes(Path(path), limits)
    dataset, _ = parse_file(data, Path(path), limits)
    header = DicomHeader.of(dataset, Path(path))
    if header.items("PerFrameFunctionalGroupsSequence") and header.items("SharedFunctionalGroupsSequence"):
        raise InputRefusedError(
            f"{path}: its frames are slices of a volume (an enhanced object); read it with medseg predict"
        )
    form, count = frame_format(header, limits), number_of_frames(header)
    first = replace(frame_in_memory(header, form), frames=count)
    with FrameReader(FragmentTables()) as reader:
        for number in range(count):
            yield _image(reader.read(replace(first, frame=number)), header, number)


def _image(stored: StoredFrame, header: DicomHeader, number: int) -> Volume:
    notes: list[str] = []
    if stored.array.ndim == 3:
        array = as_float32(stored.array.transpose(2, 1, 0), notes)
    else:
        array = as_float32(to_display_polarity(stored.array, stored.form, header).array.T[None], notes)
    instance = header.uid("SOPInstanceUID")
    source = Source(
        paths=(header.path,),
        format="dicom",
        sop_class_uid=header.uid("SOPClassUID"),
        sop_instance_uids=(instance,) if instance else (),
        frame_numbers=(number + 1,),
    )
    return Volume(array=array, modality=header.code("Modality"), source=source, notes=tuple(notes))
