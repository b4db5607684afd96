"""What a trained network makes of its training and validation images: the measure for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.data.manifest import Case
from medseg.errors import InputError
from medseg.evaluation.measure import measure_case
from medseg.inference.answer import Prediction
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Predictor
from medseg.labels import LabelTable
from medseg.memory import return_free_memory
from medseg.pipeline import bundling
from medseg.pipeline.bundle_gate import FAMILY, PROFILE, RANGE
from medseg.pipeline.readers import image_reader
from medseg.provenance import sha256_json
from medseg.quality.cohort import cohort_record
from medseg.quality.family import cohort_margin, result_room
from medseg.quality.gate import fit_gate
from medseg.quality.input_facts import InputFacts, input_facts
from medseg.quality.profile import fit_profile, profile_to_json
from medseg.quality.ranges import fit_ranges, plausibility_record
from medseg.quality.sides import fit_sides, side_test_to_json, side_vector
from medseg.transforms.augment import compile_augment
from medseg.transforms.options import PreprocessStep
from medseg.volume import Volume

if TYPE_CHECKING:
    from torch import nn

    from medseg.pipeline.context import Context

LEAST_IMAGES = 50
MOST_IMAGES = {2: 1000, 3: 60}
"""Training images that are predicted, by their number of axes; as many validation images again."""
VARIANTS = {2: 3, 3: 1}
"""Versions of a training image that are looked at: as it is, and augmented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Arrays and numbers of the input gate as a bundle stores them; None where there are too few images."""

    arrays: dict[str, NDArray[np.float32]] | None = None
    limits: dict[str, Any] | None = None


@dataclass(slots=True)
class _Seen:
    features: list[NDArray[np.float32]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    images: list[InputFacts] = field(default_factory=list)
    image_patients: list[str] = field(default_factory=list)
    sides: list[NDArray[np.float64] | None] = field(default_factory=list)

    def add(self, features: NDArray[np.float32] | None, patient_id: str) -> None:
        if features is not None:
            self.features.append(features)
            self.patients.append(patient_id)


def calibrate(context: Context, network: nn.Module) -> Calibration:
    """Predict every labelled training and validation image, and keep what is usual.

    Of many images a part is looked at that does not depend on their order.

    Features of training images, as they are and as augmentation varies them, make the gate: what the
    network was trained to bear is not unusual. Those of validation images set its limits beside the
    left-out training images. Sizes, places and confidences of all results make the ranges.
    """
    config = context.config
    training = context.labelled(context.in_split("train"))
    validation = context.labelled(context.in_split("validation"))
    if len(training) < LEAST_IMAGES:
        context.reporter.note(
            f"no input gate: {len(training)} training images are too few to tell what is unusual "
            f"(at least {LEAST_IMAGES})"
        )
        return Calibration()
    dims = bundling.spatial_dims(config, context.facts)
    training, validation = (_sample(cases, MOST_IMAGES[dims]) for cases in (training, validation))
    predictor = Predictor(
        network,
        steps=config.preprocess,
        table=context.table,
        options=config.inference,
        device=context.device(),
    )
    records: list[dict[str, float]] = []
    patients: list[str] = []
    seen = {"train": _Seen(), "validation": _Seen()}
    for done, case in enumerate([*training, *validation], start=1):
        found, record, facts, sides = _one(context, predictor, case)
        records.append(record)
        patients.append(case.patient_id)
        part = seen["validation" if case.split == "validation" else "train"]
        part.images.append(facts)
        part.image_patients.append(case.patient_id)
        part.sides.append(sides)
        for variant in range(VARIANTS[dims] if case.split == "train" else 1):
            part.add(_features(context, predictor, found.whole.array, variant), case.patient_id)
        return_free_memory()
        context.reporter.advanced("train", done, len(training) + len(validation), "learning what is usual")
    limits: dict[str, Any] = {RANGE + name: values for name, values in fit_ranges(records).items()}
    limits |= family_limits(records, patients)
    limits |= _profile(context, seen["train"], seen["validation"])
    if not seen["train"].features:
        return Calibration(limits=limits)
    held_out = (
        np.array(seen["validation"].features, dtype=np.float32) if seen["validation"].features else None
    )
    gate = fit_gate(np.array(seen["train"].features), held_out, groups=seen["train"].patients)
    return Calibration(arrays=gate.arrays(), limits=limits | gate.to_json())


def family_limits(records: Sequence[Mapping[str, float]], patients: Sequence[str]) -> dict[str, Any]:
    """Room of the ranges of results, as numbers of the gate; nothing where there are too few results for ranges."""
    if len(records) < LEAST_IMAGES:
        return {}
    room, margin = result_room(records, patients), cohort_margin(records, patients)
    return {FAMILY: {"result_room": room, "cohort_margin": margin, "results": float(len(records))}}


def _profile(context: Context, training: _Seen, validation: _Seen) -> dict[str, Any]:
    """What the images themselves are like, and which side is which, as numbers of the gate."""
    profile = fit_profile(
        training.images,
        validation.images,
        groups=training.image_patients,
        modalities=context.config.data.modality,
        unit_matters=keeps_unit(context.config.preprocess),
        negatives=shows_negatives(context),
    )
    test = fit_sides(training.sides, validation.sides, groups=training.image_patients)
    found: dict[str, Any] = {} if test is None else dict(side_test_to_json(test))
    return found if profile is None else found | profile_to_json(profile, PROFILE)


def shows_negatives(context: Context) -> bool:
    """Whether augmentation inverts images."""
    return any(step.use == "invert" for step in context.config.augment)


def keeps_unit(steps: Sequence[PreprocessStep]) -> bool:
    """Whether values reach the network in their unit: no step scales each image by itself."""
    by_image = {"percentile", "range", "zscore", "masked", "nonzero", "histogram", "clahe", "otsu"}
    return not any(getattr(step, "method", None) in by_image and step.use != "crop" for step in steps)


def _sample(cases: Sequence[Case], most: int) -> tuple[Case, ...]:
    """At most so many cases, chosen by the hash of their names, in their order."""
    if len(cases) <= most:
        return tuple(cases)
    kept = {case.case_id for case in sorted(cases, key=lambda case: sha256_json(case.case_id))[:most]}
    return tuple(case for case in cases if case.case_id in kept)


def _features(
    context: Context, predictor: Predictor, image: NDArray[np.float32], variant: int
) -> NDArray[np.float32] | None:
    """Features of a prepared image, augmented where `variant` is not 0."""
    if variant:
        table = context.table
        vary = compile_augment(context.config.augment, table.mirror_sets)
        blank = torch.zeros((1, *image.shape[1:]), dtype=torch.int16)
        image = vary(torch.from_numpy(image.copy()), blank, variant)[0].numpy()
    return predictor.features(image)


def _one(
    context: Context, predictor: Predictor, case: Case
) -> tuple[Prediction, dict[str, float], InputFacts, NDArray[np.float64] | None]:
    volume = image_reader(context.config)(case.images)
    found = predictor.predict(volume)
    try:
        # Steps that are still to be tuned are not known yet.
        steps = () if context.config.postprocess == "auto" else context.config.postprocess
        label_map = postprocess(found.label_map, steps, table=context.table, spacing_mm=volume.spacing_mm)
    except InputError:
        # A step in mm cannot be applied to a picture without spacing; its raw mask still tells what is usual.
        label_map = found.label_map
    record = result_record(label_map, volume, context.table, found.confidence)
    sides = side_vector(volume, label_map, context.table, negatives=shows_negatives(context))
    return found, record, input_facts(volume), sides


def result_record(
    label_map: NDArray[Any],
    volume: Volume,
    table: LabelTable,
    confidence: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, float]:
    """All numbers of one result that ranges are kept of."""
    place: Any = {"affine": volume.affine, "patient_orientation": volume.patient_orientation}
    measures = measure_case(
        label_map, table=table, measures=(), case_id="", spacing_mm=volume.spacing_mm, **place
    )
    record = plausibility_record(label_map, table=table, confidence=confidence, **place)
    return record | cohort_record(label_map, table=table, measures=measures, **place)
