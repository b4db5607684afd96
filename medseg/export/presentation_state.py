"""Label map of a radiograph -> grayscale softcopy presentation state: contours that a viewer lays over the film.

No common viewer shows a Segmentation of a projection image; most show presentation states.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.errors import GeometryError, InputError
from medseg.export.options import ContentQualification
from medseg.export.outlines import outlines, pieces
from medseg.export.result_object import ModelFacts, ResultObject, array_digest, result_object
from medseg.export.written import WrittenObject
from medseg.labels import Label, LabelTable
from medseg.volume import ImageGrid

SERIES_NUMBER = 921
# Graphic Data has 4-byte values and a 16-bit length in explicit VR: 65 534 bytes are 8191 points.
_MOST_POINTS = 8000
_MOST_OUTLINES = 200


def write_presentation_state(
    path: Path,
    label_map: NDArray[Any],
    *,
    grid: ImageGrid,
    table: LabelTable,
    model: ModelFacts,
    created: datetime | None = None,
    content_qualification: ContentQualification = "RESEARCH",
) -> WrittenObject:
    """Write contours of a label map as a presentation state of its single-frame radiograph.

    One graphic layer per structure, in its colour, with polylines and its name. The picture is shown
    as the source says: its window, its polarity, its pixel aspect.

    Parameters
    ----------
    path : Path
        Written whole or not at all. An older file is removed where no structure was found.
    label_map : (I, J) integer array
        Class indices on the source's grid.
    grid : ImageGrid
        Its source is one DICOM file with one frame of one sample per pixel.
    table : LabelTable
        Names and colours.
    model : ModelFacts
    created : datetime or None
        When the result was made; None: the dates of the source.
    content_qualification : {"RESEARCH", "PRODUCT", "SERVICE"}

    Returns
    -------
    WrittenObject

    Raises
    ------
    InputError
        The source is no gray single-frame image, or lacks what must be referred to.
    GeometryError
        The label map does not have the source's columns and rows.
    ImageReadError, StorageError
        The source is damaged; the file cannot be written.

    References
    ----------
    DICOM PS3.3 A.33.1, C.10.4, C.10.5, C.10.7; PS3.4 N.2.
    """
    if not label_map.any():
        path.unlink(missing_ok=True)
        return WrittenObject(path=None, notes=("No presentation state was written: no structure was found.",))
    with result_object(
        "PR",
        grid,
        series_number=SERIES_NUMBER,
        model=model,
        determined_by=[array_digest(label_map), table.to_json()["labels"]],
        created=created,
        qualification=content_qualification,
    ) as made:
        _check(made.source, label_map)
        image = made.reference()
        layers, annotations, notes = _annotations(image, label_map, table)
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=[image],
            content_label="SEGMENTATION",
            content_description="Contours made by software, for research"[:64],
            content_creator_name="medseg^",
            graphic_layers=layers,
            graphic_annotations=annotations,
            presentation_lut_transformation=_polarity(image),
            **made.common(),
        )
        _finish(state, made)
        return made.save(state, path, dates=_creation(made), notes=notes)


def _check(source: Dataset, label_map: NDArray[Any]) -> None:
    frames, samples = int(source.get("NumberOfFrames") or 1), int(source.get("SamplesPerPixel") or 1)
    if label_map.ndim != 2 or frames != 1 or samples != 1:
        raise InputError(
            f"a presentation state shows contours on a gray image of one frame, found {frames} frames, "
            f"{samples} samples per pixel and a label map of {label_map.ndim} axes; leave it out of export"
        )
    if label_map.shape != (source.Columns, source.Rows):
        raise GeometryError(
            f"the label map has {label_map.shape[0]} columns and {label_map.shape[1]} rows, "
            f"the source image {source.Columns} and {source.Rows}"
        )


def _annotations(
    image: Dataset, label_map: NDArray[Any], table: LabelTable
) -> tuple[list[hd.pr.GraphicLayer], list[hd.pr.GraphicAnnotation], tuple[str, ...]]:
    layers, annotations, notes = [], [], []
    for index, label in enumerate(table.labels, start=1):
        lines = outlines(label_map == index)
        if not lines:
            continue
        if len(lines) > _MOST_OUTLINES:
            count = len(lines) - _MOST_OUTLINES
            notes.append(f"{label.name}: {count} of its smallest outlines are not in the presentation state.")
        layer = _layer(label, index)
        layers.append(layer)
        annotations.append(
            hd.pr.GraphicAnnotation(
                referenced_images=[image],
                graphic_layer=layer,
                graphic_objects=[
                    hd.pr.GraphicObject(graphic_type="POLYLINE", graphic_data=piece, units="PIXEL")
                    for line in lines[:_MOST_OUTLINES]
                    for piece in pieces(line, _MOST_POINTS)
                ],
                text_objects=[_name(label, lines[0])],
            )
        )
    return layers, annotations, tuple(notes)


def _layer(label: Label, index: int) -> hd.pr.GraphicLayer:
    red, green, blue = (int(label.colour[k : k + 2], 16) for k in (1, 3, 5))
    # A code string: 16 capitals, digits, spaces and underscores; the number keeps cut names apart.
    name = f"S{index} {re.sub('[^A-Z0-9_ ]', '_', label.name.upper())}"[:16].strip()
    return hd.pr.GraphicLayer(
        layer_name=name,
        order=index,
        description=label.name[:64],
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )


def _name(label: Label, line: NDArray[np.float64]) -> hd.pr.TextObject:
    """The structure's name at the top of its largest outline."""
    column, row = (float(v) for v in line[int(line[:, 1].argmin())])
    return hd.pr.TextObject(
        text_value=label.name.replace("_", " "),
        units="PIXEL",
        anchor_point=(column, row),
        anchor_point_visible=False,
    )


def _polarity(image: Dataset) -> hd.PresentationLUTTransformation:
    # A presentation state takes the place of the photometric interpretation: IDENTITY would show the
    # negative of a MONOCHROME1 film.
    inverse = image.get("PhotometricInterpretation") == "MONOCHROME1"
    return hd.PresentationLUTTransformation(presentation_lut_shape="INVERSE" if inverse else "IDENTITY")


def _finish(state: hd.pr.GrayscaleSoftcopyPresentationState, made: ResultObject) -> None:
    """Body part, which consistency checks want, and the pixels' aspect, which highdicom takes for square."""
    source = made.source
    if source.get("BodyPartExamined"):
        state.BodyPartExamined = source.BodyPartExamined
    spacing = source.get("PixelSpacing") or source.get("ImagerPixelSpacing")
    area = state.DisplayedAreaSelectionSequence[0]
    if spacing and len(spacing) == 2 and float(spacing[0]) != float(spacing[1]):
        del area.PresentationPixelAspectRatio
        area.PresentationPixelSpacing = spacing
    elif source.get("PixelAspectRatio"):
        area.PresentationPixelAspectRatio = source.PixelAspectRatio


def _creation(made: ResultObject) -> dict[str, str]:
    """A presentation state has no content date but a creation date of its own."""
    renamed = {"ContentDate": "PresentationCreationDate", "ContentTime": "PresentationCreationTime"}
    return {renamed.get(keyword, keyword): value for keyword, value in made.dates.items()}
