"""The work of stage `plan`: fingerprint, decisions, probe, and the settings that come of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter

from medseg.amounts import bytes_text
from medseg.config.schema import RunConfig
from medseg.data.manifest import Case, Split
from medseg.errors import ConfigError
from medseg.models.bundle import read_bundle
from medseg.models.options import AutoNetworkOptions, NetworkOptions
from medseg.pipeline import plan_checks, probe
from medseg.pipeline.after_training import FACT as AFTER
from medseg.pipeline.after_training import foresee_stages
from medseg.pipeline.calibration import LEAST_IMAGES, MOST_IMAGES, VARIANTS
from medseg.pipeline.context import Context
from medseg.pipeline.epoch_budget import EpochBudget, resolved_training
from medseg.pipeline.folds import fold_context, watched_split
from medseg.pipeline.plan_settings import data_facts, decide, without_training
from medseg.pipeline.prediction_memory import FACT, foresee_prediction
from medseg.pipeline.prepared_grids import prepared_grid, unseen_case
from medseg.pipeline.readers import image_reader, mask_reader
from medseg.planning.cost import Prediction, ProbeResult, Work
from medseg.planning.decision import Decision, chosen, given
from medseg.planning.fingerprint import Fingerprint, cached_fingerprint, take_fingerprint
from medseg.planning.grids import Grid, median_spacing
from medseg.planning.image_plan import plan_augment, plan_orientation, plan_preprocess
from medseg.planning.machine import Machine, this_machine
from medseg.planning.plan import Plan
from medseg.planning.schedule_plan import (
    Pupil,
    plan_ema,
    plan_learning_rate,
    plan_optimiser,
    plan_samples,
    plan_schedule,
    plan_validation,
    shown_voxels,
)
from medseg.planning.shape_plan import ShapePlan, ShapePlanner, Wishes
from medseg.training.options import TrainingSettings
from medseg.transforms.options import PreprocessStep

FINGERPRINT_FILE = "fingerprint.json"
# Plans whose probe takes more than the budget are made smaller so many times.
_MOST_TRIES = 3
_STEPS: TypeAdapter[tuple[PreprocessStep, ...]] = TypeAdapter(tuple[PreprocessStep, ...])


def make_plan(context: Context) -> tuple[Plan, RunConfig]:
    """Decide everything that the settings leave open.

    Raises
    ------
    MedsegError
        See `plan.run`.
    """
    if context.settings.training is None:
        return without_training(context)
    planner = _Planner(context=context, training=context.settings.training)
    return planner.plan()


@dataclass(kw_only=True)
class _Planner:
    """One plan in the making."""

    context: Context
    training: TrainingSettings
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        context, settings = self.context, self.context.settings
        self.settings = settings
        # Where every fold is tested in its turn, all cases train; one training has those of one fold.
        self.train_cases = context.labelled(context.in_split("train"))
        part = fold_context(context, 0) if context.every_fold else context
        self.folds = len(set(context.folds.values())) if context.every_fold else 1
        self.fit_cases = part.labelled(part.in_split("train"))
        self.validation_cases = part.labelled(part.in_split(watched_split(settings.data.split)))
        self.machine: Machine = this_machine(
            settings.budget, device=context.device(), threads=context.threads
        )
        start = settings.model.start_from
        self.parent = None if start is None else read_bundle(start)

    def plan(self) -> tuple[Plan, RunConfig]:
        """Fingerprint, choices, probe, epochs."""
        self.notes += plan_checks.structures(self.context)
        fingerprint = self._fingerprint()
        images = self._preprocess(fingerprint)
        steps = self._steps(images)
        train, validation = self._grids(fingerprint, steps)
        self.notes += plan_checks.grids(self.training, train)
        shapes = self._shape_planner(fingerprint, steps, train, validation)
        augment = self._augment(fingerprint, train)
        shape = shapes.plan()

        def decided(shape: ShapePlan, part: int = 1) -> tuple[list[Decision], RunConfig, Work]:
            """All but the epochs, where an epoch is this part of what it might be."""
            made = [images, augment, *shape.decisions]
            made += self._schedule(shape, train, validation, made, part=part)
            config = decide(self.settings, [*made, chosen("training.epochs", 1, "")])
            return made, config, self._work(config, fingerprint, train, validation)

        for attempt in range(1, _MOST_TRIES + 1):
            decisions, config, work = decided(shape)
            result = self._probe(config, shape, fingerprint, train, validation)
            smaller = self._smaller(shapes, shape, result)
            if smaller is None:
                break
            if attempt == _MOST_TRIES:
                self.notes.append(f"even a smaller training took more than the budget: {_taken_text(result)}")
                break
            shape = smaller
        seconds = float(self.settings.budget.time)
        budget, part = EpochBudget(training=self.training, budget_s=seconds, folds=self.folds), 1
        while budget.holds_too_few(config, result, work):
            part *= 2
            decisions, config, work = decided(shape, part)
        self.notes += plan_checks.epochs(self.training, work)
        decisions.append(budget.decide(config, result, work))
        config = decide(self.settings, decisions)
        prediction = None
        if result is not None:
            prediction = budget.predict(config, result, work)
        return self._finished(fingerprint, shape, decisions, config, result, prediction), config

    def _fingerprint(self) -> Fingerprint:
        context = self.context
        inputs = {case.case_id: context.run.record["inputs"][case.case_id] for case in self.train_cases}
        key = [inputs, context.table.to_json(), context.section("data"), self.settings.refuses_colour]

        def make() -> Fingerprint:
            return take_fingerprint(
                self.train_cases,
                table=context.table,
                read_image=image_reader(self.settings),
                read_label=mask_reader(self.settings),
                progress=lambda done, total, case: context.reporter.advanced(
                    "plan", done, total, f"looking at {case}"
                ),
            )

        return cached_fingerprint(context.run.path / FINGERPRINT_FILE, key, make)

    def _preprocess(self, fingerprint: Fingerprint) -> Decision:
        settings = self.settings
        if settings.preprocess != "auto":
            return given("preprocess", [step.model_dump(mode="json") for step in settings.preprocess])
        parent = self.parent
        if parent is not None and parent.spatial_dims == fingerprint.spatial_dims:
            reason = f"that of {parent.name} {parent.version}, whose weights are taken"
            return chosen("preprocess", list(parent.preprocess), reason)
        orient, _ = plan_orientation(fingerprint)
        first = _STEPS.validate_python([orient] if orient else [])
        oriented = [prepared_grid(case, first) for case in fingerprint.cases]
        return plan_preprocess(fingerprint, oriented, machine=self.machine, declared=settings.data.modality)

    def _steps(self, images: Decision) -> tuple[PreprocessStep, ...]:
        if self.settings.preprocess != "auto":
            return self.settings.preprocess
        return _STEPS.validate_python(images.value)

    def _grids(
        self, fingerprint: Fingerprint, steps: Sequence[PreprocessStep]
    ) -> tuple[list[Grid], list[Grid]]:
        """Prepared grids of the training and of the validation cases."""
        facts, like = self.context.facts, fingerprint.cases[0]
        fitted = {case.case_id for case in self.fit_cases}
        unseen = [unseen_case(c.case_id, facts[c.case_id], like=like) for c in self.validation_cases]
        return (
            [prepared_grid(case, steps) for case in fingerprint.cases if case.case_id in fitted],
            [prepared_grid(case, steps) for case in unseen],
        )

    def _shape_planner(
        self,
        fingerprint: Fingerprint,
        steps: Sequence[PreprocessStep],
        train: Sequence[Grid],
        validation: Sequence[Grid],
    ) -> ShapePlanner:
        gray = any(step.use == "gray" for step in steps)
        return ShapePlanner(
            grids=train,
            largest_voxels=max(grid.voxels for grid in (*train, *validation)),
            in_channels=1 if gray else fingerprint.channels,
            class_count=self.context.table.class_count,
            machine=self.machine,
            wishes=self._wishes(),
        )

    def _wishes(self) -> Wishes:
        settings, training, parent = self.settings, self.training, self.parent
        model: NetworkOptions | str = "auto"
        reason = ""
        if not isinstance(settings.model, AutoNetworkOptions):
            model = settings.model
        elif parent is not None:
            model = parent.network.model_copy(update={"start_from": settings.model.start_from})
            reason = f"that of {parent.name} {parent.version}, whose weights are taken"
        return Wishes(
            model=model,  # type: ignore[arg-type]
            model_reason=reason,
            patch=training.patch_size,
            batch=training.batch_size,
            window=settings.inference.window,
        )

    def _augment(self, fingerprint: Fingerprint, train: Sequence[Grid]) -> Decision:
        if self.settings.augment != "auto":
            return given("augment", [step.model_dump(mode="json") for step in self.settings.augment])
        return plan_augment(fingerprint, self.context.table, spacing_mm=median_spacing(train))

    def _schedule(
        self,
        shape: ShapePlan,
        train: Sequence[Grid],
        validation: Sequence[Grid],
        decisions: Sequence[Decision],
        *,
        part: int = 1,
    ) -> list[Decision]:
        training, batch = self.training, shape.candidate.sampling.batch
        pupil = Pupil(
            network=shape.candidate.model.use, dims=len(train[0].shape), pretrained=self.parent is not None
        )
        optimiser = self._or("optimiser", lambda: plan_optimiser(pupil))
        samples = self._or("samples_per_epoch", lambda: plan_samples(len(train), batch, part=part))
        window = next(d.value for d in decisions if d.name == "inference.window")
        overlap = self.settings.inference.overlap
        shown = shown_voxels([grid.shape for grid in validation], window, overlap=overlap)
        epoch = (samples.value or len(train)) * math.prod(shape.candidate.sampling.patch)
        return [
            samples,
            optimiser,
            self._or("schedule", lambda: plan_schedule(pupil)),
            self._or(
                "learning_rate",
                lambda: plan_learning_rate(
                    batch * training.accumulate, optimiser=optimiser.value["use"], pupil=pupil
                ),
            ),
            self._or("ema", lambda: plan_ema(pupil)),
            self._or("validate_every", lambda: plan_validation(validation_voxels=shown, epoch_voxels=epoch)),
        ]

    def _or(self, name: str, make: Any) -> Decision:
        value = getattr(self.training, name)
        if value == "auto":
            found: Decision = make()
            return found
        return given(
            f"training.{name}", value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        )

    def _work(
        self, config: RunConfig, fingerprint: Fingerprint, train: Sequence[Grid], validation: Sequence[Grid]
    ) -> Work:
        training = resolved_training(config)
        samples = training.samples_per_epoch or len(train)
        validated = self._shown(config, validation)
        sources = [math.prod(case.shape) for case in fingerprint.cases]
        sources += [math.prod(self.context.facts[case.case_id]["shape"]) for case in self.validation_cases]
        return Work(
            steps_per_epoch=-(-samples // training.batch_size),
            validate_every=training.validate_every,
            validation_voxels=validated,
            preparation_voxels=float(sum(sources)),
            calibration_voxels=self._calibrated(config, train, validation),
        )

    def _calibrated(self, config: RunConfig, train: Sequence[Grid], validation: Sequence[Grid]) -> float:
        """Voxels shown for the input gate: images of a part of the cases, and variants of it, halved."""
        if len(train) < LEAST_IMAGES:
            return 0.0
        dims = len(train[0].shape)
        parts = [min(1.0, MOST_IMAGES[dims] / max(1, len(grids))) for grids in (train, validation)]
        features = parts[0] * sum(grid.voxels for grid in train) * VARIANTS[dims] / 2
        shown = [
            part * self._shown(config, grids) for part, grids in zip(parts, (train, validation), strict=True)
        ]
        return sum(shown) + features

    def _shown(self, config: RunConfig, grids: Sequence[Grid]) -> float:
        inference, training = config.inference, resolved_training(config)
        window = inference.window or training.patch_size
        return shown_voxels([grid.shape for grid in grids], window, overlap=inference.overlap)

    def _probe(
        self,
        config: RunConfig,
        shape: ShapePlan,
        fingerprint: Fingerprint,
        train: Sequence[Grid],
        validation: Sequence[Grid],
    ) -> ProbeResult | None:
        if not config.budget.probe:
            return None
        context = self.context
        by_id = {grid.case_id: grid for grid in (*train, *validation)}
        sizes: dict[Split, list[tuple[Case, int]]] = {
            "train": [(c, by_id[c.case_id].voxels) for c in self.fit_cases],
            "validation": [(c, by_id[c.case_id].voxels) for c in self.validation_cases],
        }
        cases = probe.choose_cases(sizes)
        shown = [by_id[case.case_id] for case in cases if case.split == "validation"]
        return probe.measure(
            config,
            probe.ProbeCases(
                cases=cases,
                facts={case.case_id: context.facts[case.case_id] for case in cases},
                validation_voxels=self._shown(config, shown),
                source_voxels=float(sum(math.prod(context.facts[case.case_id]["shape"]) for case in cases)),
            ),
            run=context.run,
            sample_voxels=shape.candidate.sampling.voxels,
            waiting=lambda: context.reporter.advanced("plan", 0, 1, "training a few steps to measure them"),
        )

    def _smaller(
        self, shapes: ShapePlanner, shape: ShapePlan, result: ProbeResult | None
    ) -> ShapePlan | None:
        """The next smaller training where the probe took more than the budget; None where it did not."""
        machine = self.machine
        if result is None:
            return None
        over_ram = result.ram_bytes > machine.ram_bytes
        over_gpu = bool(result.gpu_bytes and machine.gpu_bytes and result.gpu_bytes > machine.gpu_bytes)
        if not over_ram and not over_gpu:
            return None
        if len(list(shapes.candidates())) == 1:
            self.notes.append(
                f"the given settings take more than the budget of {bytes_text(machine.ram_bytes)}: "
                f"{_taken_text(result)}"
            )
            return None
        try:
            return shapes.plan(after=shape.number)
        except ConfigError as err:
            has, took = machine.ram_bytes / 1e6, result.ram_bytes / 1e6
            raise ConfigError(
                f"budget.ram is {has:.0f} MB, but the smallest training of these images took {took:.0f} MB when "
                f"it was tried; set budget.ram to {math.ceil(took / 50) * 50} MB or more"
            ) from err

    def _finished(
        self,
        fingerprint: Fingerprint,
        shape: ShapePlan,
        decisions: Sequence[Decision],
        config: RunConfig,
        result: ProbeResult | None,
        prediction: Prediction | None,
    ) -> Plan:
        dims, channels = fingerprint.spatial_dims, shape.memory.in_channels
        predicting, notes = foresee_prediction(self.context, config, spatial_dims=dims, in_channels=channels)
        facts = data_facts(self.context, fingerprint.spatial_dims, fingerprint.channels) | {
            FACT: predicting,
            "parameters": shape.memory.parameters,
            "machine": self.machine.to_json(),
            "estimated_ram_bytes": shape.ram_bytes,
            "structures": fingerprint.to_json()["structures"],
            "missing": {name: list(cases) for name, cases in fingerprint.missing().items()},
            "probe": None if result is None else plan_checks.plain(result),
        }
        after, told = foresee_stages(
            self.context,
            config,
            like=fingerprint.cases[0],
            probe=result,
            shown=lambda grids: self._shown(config, grids),
        )
        facts[AFTER] = after
        notes = (*self.notes, *notes, *told)
        return Plan(decisions=tuple(decisions), notes=notes, facts=facts, prediction=prediction)


def _taken_text(result: ProbeResult | None) -> str:
    """Memory that a probe took."""
    if result is None:
        return "nothing was measured"
    gpu = "" if result.gpu_bytes is None else f" and {bytes_text(result.gpu_bytes)} of GPU memory"
    return f"{bytes_text(result.ram_bytes)}{gpu}"
