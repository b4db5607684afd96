"""A bundle made ready to segment images: network, gate, clean-up, measurements, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from pydantic import TypeAdapter

from medseg.calibration.size_intervals import with_intervals
from medseg.errors import ConfigError, InputRefusedError
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import named_classes
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instance_records import CaseInstances
from medseg.evaluation.instances import find_instances
from medseg.evaluation.intensity import intensities_of
from medseg.evaluation.measure import DETECTOR_PLANE, lateral_pairs, measure_case
from medseg.evaluation.options import MeasureName
from medseg.evaluation.quantities import CaseMeasures
from medseg.inference.answer import Answer, Prediction
from medseg.inference.block_watch import StartWatch
from medseg.inference.device import autocast_dtype
from medseg.inference.engine_files import cache_folder
from medseg.inference.engine_settle import Engines
from medseg.inference.members import KEEP_BYTES, LoadedMembers, Members, SingleNetwork
from medseg.inference.options import EngineSetting, InferenceOptions, MapName, PostprocessStep, Precision
from medseg.inference.postprocess import postprocess
from medseg.inference.predictor import Predictor
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.pipeline.bundle_gate import (
    read_cohort_margin,
    read_gate,
    read_profile,
    read_ranges,
    read_result_room,
    read_sides,
)
from medseg.provenance import sha256_json
from medseg.quality.finding import Finding, GateCheck
from medseg.quality.flag import CaseFlags, ResultFacts
from medseg.quality.flags import judge_result
from medseg.quality.gate import GateStatistics
from medseg.quality.image_checks import check_image
from medseg.quality.input_facts import input_facts
from medseg.quality.options import FlagOptions, GateOptions
from medseg.quality.profile_checks import check_profile
from medseg.quality.ranges import plausibility_record
from medseg.quality.sides import check_sides_seen, side_vector
from medseg.quality.slice_steps import doubled_slices, slice_axis
from medseg.quality.spacing_check import spacing_checks
from medseg.quality.verdict import GateVerdict, judge_input
from medseg.transforms.options import Gray, PreprocessStep
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
    precision : {"auto", "fp32", "fp16", "bf16"}, optional
        See `device.autocast_dtype`.
    max_bytes, scratch : optional
        Ceiling of memory, and where sums go that do not fit below it; see `Predictor`.
    maps : sequence of MapName, optional
        Maps that come with each answer.
    engine : EngineSetting, optional
        What runs the networks; other than torch and auto only on a CPU.
    images : int, optional
        How many are to be segmented, for `auto`.
    recognise : RecogniseOptions, optional
        Which targets are told one by one; None: none.

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
        precision: Precision = "auto",
        max_bytes: int | None = None,
        scratch: Path | None = None,
        maps: Sequence[MapName] = (),
        engine: EngineSetting = "torch",
        images: int = 1,
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
        options = inference or InferenceOptions.model_validate(bundle.inference)
        self.gate: GateStatistics | None = read_gate(bundle)
        contiguous = options.layout == "contiguous"
        networks = networks_of(bundle, device=device, contiguous=contiguous)
        self.engine, self._device = engine, device
        self.engines = engines_of(
            bundle,
            networks,
            engine=engine,
            device=device,
            contiguous=contiguous,
            images=images,
            max_bytes=max_bytes,
        )
        self.predictor = Predictor(
            networks,
            steps=_STEPS.validate_python(bundle.preprocess),
            table=self.table,
            options=options,
            statistics=bundle.record.training.statistics or None,
            device=device,
            dtype=autocast_dtype(device, precision),
            max_bytes=max_bytes,
            scratch=scratch,
            regions=bundle.record.regions,
            features=self.gate is not None,
            maps=maps,
            engines=self.engines,
            keep_certainty=recognise is not None,
            temperature=bundle.record.temperature,
        )
        self.ranges = read_ranges(bundle)
        self.profile = read_profile(bundle)
        self.sides = read_sides(bundle)
        self.cohort_margin = read_cohort_margin(bundle)
        self.result_room = read_result_room(bundle)

    @property
    def facts(self) -> dict[str, str]:
        """Name, version and weights, for records and DICOM objects."""
        return self.bundle.facts

    @property
    def engine_facts(self) -> dict[str, Any]:
        """What was asked to run the networks, what does, and why, for records."""
        if self.engines is None:
            return {"asked": self.engine, "device": self._device, "choices": []}
        return self.engines.to_json()

    def segment(self, volume: Volume, *, case_id: str) -> CaseResult:
        """Segment, clean up, measure and judge one image.

        Raises
        ------
        InputRefusedError
            The image is not of the kind that the model was trained on, and the settings refuse those.
        """
        return self.judge(volume, self.answer(volume), case_id=case_id)

    def answer(self, volume: Volume, *, watch: StartWatch | None = None) -> Prediction:
        """What the network makes of one image, before clean-up; `watch` as in `Predictor.predict`.

        Raises
        ------
        InputRefusedError
            The image by itself is not one that the model can be shown, and the settings refuse those; or
            it has other axes or channels, which no setting accepts.
        """
        self._require_axes(volume)
        image, checks = self._look(volume)
        self._refuse(judge_input(image=image, checks=checks, options=self.gate_options))
        self._require_channels(volume)
        return self.predictor.predict(volume, watch=watch)

    def judge(self, volume: Volume, prediction: Answer, *, case_id: str) -> CaseResult:
        """Clean up, measure and judge an answer.

        Raises
        ------
        InputRefusedError
            The image is not of the kind that the model was trained on, and the settings refuse those.
        """
        image, checks = self._look(volume)
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
        verdict = self._judge(image, (*checks, *self._lie(volume, label_map)), prediction, record)
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
        measures = with_intervals(measures, self.bundle.record.calibration)
        facts = ResultFacts(
            label_map=label_map,
            table=self.table,
            measures=measures,
            confidence=prediction.confidence,
            ranges=self.ranges or None,
            cohort_margin=self.cohort_margin,
            record=record,
            gate=verdict.findings if self.gate is not None or verdict.findings else None,
            gate_checks=verdict.checks,
            doubled=_doubled(volume),
            even_slices=volume.source.format == "dicom" or None,
            affine=volume.affine,
            patient_orientation=volume.patient_orientation,
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

    def _look(self, volume: Volume) -> tuple[Sequence[Finding], Sequence[GateCheck]]:
        """What speaks against the image by itself, and all that it was compared in with the training images."""
        options = self.gate_options
        found = check_image(volume.array, in_channels=self.bundle.in_channels, options=options)
        if volume.array.size == 0:
            return found, ()
        checks = check_profile(input_facts(volume), self.profile, options)
        if self.bundle.spatial_dims == 2:
            # Pictures are brought to one size, whatever their spacing is.
            return found, checks
        ranges = self.bundle.record.training.input_ranges
        return found, (*spacing_checks(volume.spacing_mm, ranges, options), *checks)

    def _lie(self, volume: Volume, label_map: NDArray[Any]) -> tuple[GateCheck, ...]:
        """Whether the patient's left is on the left, by what was found."""
        if "sides" in self.gate_options.off or not lateral_pairs(self.table):
            return ()
        vector = None
        if self.sides is not None:
            negatives = self.profile is not None and self.profile.negatives
            vector = side_vector(volume, label_map, self.table, negatives=negatives)
        return (check_sides_seen(vector, self.sides),)

    def _require_axes(self, volume: Volume) -> None:
        """Refuse what has too few or too many axes for the network, whatever the settings accept."""
        size = " x ".join(str(n) for n in volume.spatial_shape)
        if volume.spatial_dims != self.bundle.spatial_dims:
            kinds = {2: "a picture, or a single slice,", 3: "a volume"}
            wanted = {2: "pictures", 3: "volumes"}[self.bundle.spatial_dims]
            raise InputRefusedError(
                f"the image is {kinds[volume.spatial_dims]} of {size} voxels, model {self.bundle.name} is for "
                f"{wanted}; use a model that was trained on such images"
            )

    def _require_channels(self, volume: Volume) -> None:
        turns_gray = any(isinstance(step, Gray) for step in self.predictor.steps)
        channels = 1 if turns_gray else volume.array.shape[0]
        if channels != self.bundle.in_channels:
            raise InputRefusedError(
                f"the image has {_channels(channels)}, model {self.bundle.name} takes "
                f"{_channels(self.bundle.in_channels)}; give the images of all channels in one file, or use a model "
                "that was trained on such images"
            )

    def _judge(
        self,
        image: Sequence[Finding],
        checks: Sequence[GateCheck],
        prediction: Answer,
        record: Mapping[str, float],
    ) -> GateVerdict:
        distance = None
        if self.gate is not None and prediction.features is not None:
            distance = self.gate.distance(prediction.features)
        return judge_input(
            image=image,
            checks=checks,
            distance=distance,
            statistics=self.gate,
            record=record,
            ranges=self.ranges,
            room=self.result_room,
            options=self.gate_options,
        )

    def _refuse(self, verdict: GateVerdict) -> None:
        if verdict.level == "refuse" and self.gate_options.refuse:
            raise InputRefusedError(
                f"{verdict.sentence}; model {self.bundle.name} is not used on it "
                "(--accept-unlike, or gate.refuse: false, segments it all the same)"
            )


def _doubled(volume: Volume) -> tuple[int, ...]:
    """Slices of a volume that are there twice; none of a picture."""
    if volume.spatial_dims == 2:
        return ()
    return doubled_slices(volume.array, slice_axis(volume.spacing_mm, 3))


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def engines_of(
    bundle: Bundle,
    networks: Members,
    *,
    engine: EngineSetting,
    device: str,
    contiguous: bool = False,
    images: int = 1,
    max_bytes: int | None = None,
) -> Engines | None:
    """What runs the networks of a bundle on a CPU; None where torch runs them as they are.

    That is on another device, and, unless an engine is asked for by name, where feature maps are to lie as another
    program had them (`contiguous`).

    Raises
    ------
    ConfigError
        An engine for CPUs is asked for on another device, or for a network whose channels are regions.
    MissingPackageError
        It is not installed.
    """
    plain = engine in ("auto", "torch")
    if device != "cpu" and not plain:
        raise ConfigError(
            f"engine {engine} runs on a CPU, the device is {device}; set device cpu or engine torch"
        )
    if bundle.record.regions and not plain:
        raise ConfigError(
            f"engine {engine}: masks of a network whose channels are regions are not compared; use engine torch"
        )
    if device != "cpu" or (plain and (contiguous or bundle.record.regions)):
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


def networks_of(bundle: Bundle, *, device: str, contiguous: bool = False) -> Members:
    """The network of a bundle, or the members of an ensemble; `contiguous` as in the inference option `layout`.

    Small members stay in memory from one image to the next; larger ones are there one at a time.
    """
    import torch

    from medseg.models.network import as_contiguous

    def load(position: int) -> nn.Module:
        network = bundle.load_network(position)
        return as_contiguous(network) if contiguous else network

    if bundle.member_count == 1:
        return SingleNetwork(load(0), torch.device(device))
    return LoadedMembers(
        [partial(load, position) for position in range(bundle.member_count)],
        device=torch.device(device),
        keep=bundle.member_count * bundle.weights_bytes <= KEEP_BYTES,
    )
