"""One predicted label map against its reference, instance by instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.evaluation.detection_records import CaseDetection, StructureDetection
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import (
    Structures,
    named_classes,
    predicted_structures,
    reference_structures,
)
from medseg.evaluation.instance_match import find_overlaps, match_structure
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions
from medseg.evaluation.instance_records import Instance
from medseg.evaluation.instances import instances_of
from medseg.evaluation.joint_counts import joint_histogram
from medseg.evaluation.overlap import structure_counts
from medseg.labels import LabelTable

Confidences = Mapping[tuple[str, int], float]
"""(structure, number of the instance) -> confidence."""


def detect_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    image: ImageFacts,
    *,
    table: LabelTable,
    recognise: RecogniseOptions,
    options: DetectionOptions,
    case_id: str,
    patient_id: str = "",
    confidences: Confidences | None = None,
) -> CaseDetection:
    """Match the instances of a prediction to those of a reference.

    Parameters
    ----------
    prediction : (I, J) or (I, J, K) integer array
        Class indices on the grid of the image.
    reference : same shape, or with a leading axis of length 1
        Set indices (`LabelTable.encode`).
    image : ImageFacts
    table : LabelTable
    recognise : RecogniseOptions
        What is an instance, on both sides: the least size counts for the reference, too.
    options : DetectionOptions
    case_id, patient_id : str
        The patient is the unit of resampling; "" stands for the case itself.
    confidences : mapping, optional
        Of the predicted instances, numbered as `find_instances` numbers them.

    Raises
    ------
    GeometryError
        The two grids differ, or a least size in a unit that the image does not have.
    ConfigError
        A structure that the table does not have.
    """
    if reference.ndim == prediction.ndim + 1 and reference.shape[0] == 1:
        reference = reference[0]
    if reference.shape != prediction.shape:
        raise GeometryError(
            f"prediction and reference must share a grid, found {prediction.shape} and {reference.shape}"
        )
    mine = predicted_structures(prediction, table, recognise)
    theirs = reference_structures(reference, table, recognise)
    matrix = table.set_matrix
    histogram = joint_histogram(reference, prediction, set_count=len(matrix), class_count=table.class_count)
    texts = [_texts(s, image, table=table, options=recognise) for s in (mine, theirs)]
    found: list[StructureDetection] = []
    for name, members in named_classes(table, recognise).items():
        overlaps = find_overlaps(
            mine,
            theirs,
            name,
            table=table,
            members=members,
            options=recognise,
            axis=image.axis,
            voxel_size=image.voxel_size,
            centres=options.match == "centre",
        )
        sure = [(confidences or {}).get((name, n + 1)) for n in range(len(overlaps.predicted))]
        found.append(
            match_structure(
                overlaps,
                structure=name,
                judged=structure_counts(histogram, matrix, members).state != "not_judged",
                options=options,
                confidences=sure,
                predicted_texts=texts[0].get(name, ()),
                reference_texts=texts[1].get(name, ()),
            )
        )
    return CaseDetection(case_id=case_id, patient_id=patient_id or case_id, structures=tuple(found))


def _texts(
    structures: Structures, image: ImageFacts, *, table: LabelTable, options: RecogniseOptions
) -> dict[str, Sequence[str]]:
    """Size and place of each instance in words."""
    texts: dict[str, list[str]] = {}
    for instance in instances_of(structures, image, table=table, options=options, case_id="").instances:
        texts.setdefault(instance.structure, []).append(instance_text(instance))
    return dict(texts)


def instance_text(instance: Instance) -> str:
    """Size, long axis and place in words."""
    words = [instance.size.text, f"long axis {instance.quantities['long_axis'].text}", instance.place.text]
    return ", ".join(word for word in words if word)
