"""A bundle made ready to segment images: network, gate, clean-up, measurements, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import TypeAdapter

from medseg.errors import InputRefusedError
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import named_classes
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instance_records import CaseInstances
from medseg.evaluation.instances import find_instances
from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import DETECTOR_PLANE, measure_case
from medseg.evaluation.options import MeasureName
from medseg.evaluation.quantities import CaseMeasures
from medseg.inference.members import KEEP_BYTES, LoadedMembers, Members
from medseg.inference.options import InferenceOptions, PostprocessStep
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Answer, Predictor
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.pipeline.calibration import read_gate, read_ranges
from medseg.quality.finding import Finding
from medseg.quality.flag import CaseFlags, ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.gate import GateStatistics
from medseg.quality.image_checks import check_image
from medseg.quality.options import FlagOptions, GateOptions
from medseg.quality.ranges import plausibility_record
from medseg.quality.verdict import GateVerdict, judge_input
from medseg.transforms.options import PreprocessStep
from medseg.volume import Volume

if TYPE_CHECKING:
    from torch import nn

_STEPS: TypeAdapter[tuple[PreprocessStep, ...]] = TypeAdapter(tuple[PreprocessStep, ...])
_CLEANING: TypeAdapter[tuple[PostprocessStep, ...]] = TypeAdapter(tuple[PostprocessStep, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """All that a model says about one image.

    Parameters
    ----------
    label_map : (*source) integer array
        Class indices after clean-up, on the grid of the image.
    measures : CaseMeasures
    prediction : Answer
        Its label map is the one after clean-up.
    gate : GateVerdict
    flags : CaseFlags
    instances : CaseInstances or None
        Recognised targets, where they are asked for.
    """

    label_map: NDArray[Any]
    measures: CaseMeasures
    prediction: Answer
    gate: GateVerdict
    flags: CaseFlags
    instances: CaseInstances | None = None


class LoadedModel:
    """A bundle in memory.

    Parameters
    ----------
    bundle : Bundle
    device : str
    gate_options, flag_options : optional
        Limits of the settings.
    measures : sequence of MeasureName
    inference, cleaning : optional
        Instead of those of the bundle.
    fold : int, optional
        In a cross-validation, the fold that the bundle never saw; results say so.
    max_bytes, scratch : optional
        Ceiling of memory, and where sums go that do not fit below it; see `Predictor`.
    recognise : RecogniseOptions, optional
        Which targets are told one by one; None: none.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        gate_options: GateOptions | None = None,
        flag_options: FlagOptions | None = None,
        measures: Sequence[MeasureName] = (),
        inference: InferenceOptions | None = None,
        cleaning: Sequence[PostprocessStep] | None = None,
        fold: int | None = None,
        max_bytes: int | None = None,
        scratch: Path | None = None,
        recognise: RecogniseOptions | None = None,
    ) -> None:
        self.bundle = bundle
        self.fold = fold
        self.table: LabelTable = bundle.table
        self.gate_options = gate_options or GateOptions()
        self.flag_options = flag_options or FlagOptions()
        self.measures = tuple(measures)
        self.recognise = recognise
        if recognise is not None:
            named_classes(self.table, recognise)
        self.cleaning = _CLEANING.validate_python(bundle.postprocess) if cleaning is None else tuple(cleaning)
        self.predictor = Predictor(
            networks_of(bundle, device=device),
            steps=_STEPS.validate_python(bundle.preprocess),
            table=self.table,
            options=inference or InferenceOptions.model_validate(bundle.inference),
            statistics=bundle.record.training.statistics or None,
            device=device,
            max_bytes=max_bytes,
            scratch=scratch,
            keep_certainty=recognise is not None,
        )
        self.gate: GateStatistics | None = read_gate(bundle)
        self.ranges = read_ranges(bundle)

    @property
    def facts(self) -> dict[str, str]:
        """Name, version and weights, for records and DICOM objects."""
        return {
            "name": self.bundle.name,
            "version": self.bundle.version,
            "weights_sha256": self.bundle.weights_sha256,
            "licence": self.bundle.licence,
        }

    def segment(self, volume: Volume, *, case_id: str) -> CaseResult:
        """Segment, clean up, measure and judge one image.

        Raises
        ------
        InputRefusedError
            The image is not of the kind that the model was trained on, and the settings refuse those.
        """
        return self.judge(volume, self.answer(volume), case_id=case_id)

    def answer(self, volume: Volume) -> Answer:
        """What the network makes of one image, before clean-up.

        Raises
        ------
        InputRefusedError
            The image by itself is not one that the model can be shown, and the settings refuse those.
        """
        self._refuse(judge_input(image=self._look(volume), options=self.gate_options))
        return self.predictor.predict(volume)

    def judge(self, volume: Volume, prediction: Answer, *, case_id: str) -> CaseResult:
        """Clean up, measure and judge an answer.

        Raises
        ------
        InputRefusedError
            The image is not of the kind that the model was trained on, and the settings refuse those.
        """
        image = self._look(volume)
        label_map = prediction.label_map
        if self.cleaning:
            label_map = postprocess(label_map, self.cleaning, table=self.table, spacing_mm=volume.spacing_mm)
        # Neither the raw labels nor the prepared image is of use from here on, and both are large.
        prediction = prediction.bare(label_map)
        record = plausibility_record(
            label_map,
            table=self.table,
            patient_orientation=volume.patient_orientation,
            affine=volume.affine,
            confidence=prediction.confidence,
        )
        verdict = self._judge(image, prediction, record)
        self._refuse(verdict)
        measures = measure_case(
            label_map,
            table=self.table,
            measures=self.measures,
            case_id=case_id,
            spacing_mm=volume.spacing_mm,
            spacing_origin=volume.spacing_origin,
            patient_orientation=volume.patient_orientation,
            affine=volume.affine,
            intensities=intensities_of(volume),
        )
        facts = ResultFacts(
            label_map=label_map,
            table=self.table,
            measures=measures,
            confidence=prediction.confidence,
            ranges=self.ranges or None,
            record=record,
            gate=verdict.findings if self.gate is not None else None,
        )
        targets = self._targets(label_map, volume, prediction, case_id=case_id)
        return CaseResult(
            label_map=label_map,
            measures=measures,
            # What the confidence of targets was looked up in is as large as the prepared image.
            prediction=replace(prediction, certainty=None),
            gate=verdict,
            flags=judge_result(facts, self.flag_options),
            instances=targets,
        )

    def _targets(
        self, label_map: NDArray[Any], volume: Volume, prediction: Answer, *, case_id: str
    ) -> CaseInstances | None:
        if self.recognise is None:
            return None
        at_detector = volume.spacing_origin == "imager_pixel_spacing"
        return find_instances(
            label_map,
            ImageFacts.of(
                volume,
                intensities=intensities_of(volume),
                size_note=DETECTOR_PLANE if at_detector else "",
            ),
            table=self.table,
            options=self.recognise,
            case_id=case_id,
            certainty=prediction.certainty,
        )

    def _look(self, volume: Volume) -> Sequence[Finding]:
        return check_image(volume.array, in_channels=self.bundle.in_channels, options=self.gate_options)

    def _judge(
        self, image: Sequence[Finding], prediction: Answer, record: Mapping[str, float]
    ) -> GateVerdict:
        distance = None
        if self.gate is not None and prediction.features is not None:
            distance = self.gate.distance(prediction.features)
        return judge_input(
            image=image,
            distance=distance,
            statistics=self.gate,
            record=record,
            ranges=self.ranges,
            options=self.gate_options,
        )

    def _refuse(self, verdict: GateVerdict) -> None:
        if verdict.level == "refuse" and self.gate_options.refuse:
            raise InputRefusedError(
                f"{verdict.sentence}; model {self.bundle.name} is not used on it "
                "(--accept-unlike, or gate.refuse: false, segments it all the same)"
            )


def networks_of(bundle: Bundle, *, device: str) -> nn.Module | Members:
    """The network of a bundle, or the members of an ensemble.

    Small members stay in memory from one image to the next; larger ones are there one at a time.
    """
    import torch

    if bundle.member_count == 1:
        return bundle.load_network()
    return LoadedMembers(
        [partial(bundle.load_network, position) for position in range(bundle.member_count)],
        device=torch.device(device),
        keep=bundle.member_count * bundle.weights_bytes <= KEEP_BYTES,
    )
