"""A bundle made ready to segment images: network, gate, clean-up, measurements, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import TypeAdapter

from medseg.errors import ConfigError, InputRefusedError
from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import measure_case
from medseg.evaluation.options import MeasureName
from medseg.evaluation.quantities import CaseMeasures
from medseg.inference.engine_files import cache_folder
from medseg.inference.engine_settle import Engines
from medseg.inference.members import KEEP_BYTES, LoadedMembers, Members, SingleNetwork
from medseg.inference.options import EngineSetting, InferenceOptions, PostprocessStep
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Answer, Predictor
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.pipeline.calibration import read_gate, read_ranges
from medseg.provenance import sha256_json
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
    """

    label_map: NDArray[Any]
    measures: CaseMeasures
    prediction: Answer
    gate: GateVerdict
    flags: CaseFlags


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
    engine : EngineSetting, optional
        What runs the networks; other than torch and auto only on a CPU.
    images : int, optional
        How many are to be segmented, for `auto`.

    Raises
    ------
    ConfigError
        An engine for CPUs is asked for on another device.
    MissingPackageError
        It is not installed.
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
        engine: EngineSetting = "torch",
        images: int = 1,
    ) -> None:
        self.bundle = bundle
        self.fold = fold
        self.table: LabelTable = bundle.table
        self.gate_options = gate_options or GateOptions()
        self.flag_options = flag_options or FlagOptions()
        self.measures = tuple(measures)
        self.cleaning = _CLEANING.validate_python(bundle.postprocess) if cleaning is None else tuple(cleaning)
        networks = networks_of(bundle, device=device)
        self.engine, self._device = engine, device
        self.engines = engines_of(
            bundle, networks, engine=engine, device=device, images=images, max_bytes=max_bytes
        )
        self.predictor = Predictor(
            networks,
            steps=_STEPS.validate_python(bundle.preprocess),
            table=self.table,
            options=inference or InferenceOptions.model_validate(bundle.inference),
            statistics=bundle.record.training.statistics or None,
            device=device,
            max_bytes=max_bytes,
            scratch=scratch,
            engines=self.engines,
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

    @property
    def engine_facts(self) -> dict[str, Any]:
        """What was asked to run the networks, what does, and why, for records."""
        if self.engines is None:
            return {"asked": self.engine, "device": self._device, "choices": []}
        return self.engines.to_json()

    @property
    def engine_lines(self) -> tuple[str, ...]:
        """What runs the networks and why, for people; nothing where that is torch as set."""
        choices = [] if self.engine == "torch" else self.engine_facts["choices"]
        return tuple(f"engine {choice['engine']}: {choice['because']}" for choice in choices)

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
        return CaseResult(
            label_map=label_map,
            measures=measures,
            prediction=prediction,
            gate=verdict,
            flags=judge_result(facts, self.flag_options),
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


def engines_of(
    bundle: Bundle,
    networks: Members,
    *,
    engine: EngineSetting,
    device: str,
    images: int = 1,
    max_bytes: int | None = None,
) -> Engines | None:
    """What runs the networks of a bundle on a CPU; None on another device, where torch runs them as they are.

    Raises
    ------
    ConfigError
        An engine for CPUs is asked for on another device.
    MissingPackageError
        It is not installed.
    """
    if device != "cpu":
        if engine not in ("auto", "torch"):
            raise ConfigError(
                f"engine {engine} runs on a CPU, the device is {device}; set device cpu or engine torch"
            )
        return None
    weights = sha256_json([bundle.network.model_dump(mode="json"), bundle.weights_sha256])
    return Engines(
        networks,
        setting=engine,
        weights=weights,
        in_channels=bundle.in_channels,
        weights_bytes=bundle.weights_bytes,
        images=images,
        folder=cache_folder(),
        max_bytes=max_bytes,
    )


def networks_of(bundle: Bundle, *, device: str) -> Members:
    """The network of a bundle, or the members of an ensemble.

    Small members stay in memory from one image to the next; larger ones are there one at a time.
    """
    import torch

    if bundle.member_count == 1:
        return SingleNetwork(bundle.load_network(), torch.device(device))
    return LoadedMembers(
        [partial(bundle.load_network, position) for position in range(bundle.member_count)],
        device=torch.device(device),
        keep=bundle.member_count * bundle.weights_bytes <= KEEP_BYTES,
    )
