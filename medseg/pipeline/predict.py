"""Stage `predict`: masks, measurements and flags of the chosen cases, each file whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from medseg.data.manifest import Case
from medseg.errors import ConfigError, EngineError, MedsegError, StorageError
from medseg.inference.options import PostprocessStep
from medseg.memory import ResidentPeak
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline import bundling, case_files, prediction_memory, recognition
from medseg.pipeline.context import Context
from medseg.pipeline.folds import member_of
from medseg.pipeline.looks import Watched
from medseg.pipeline.readers import image_reader
from medseg.provenance import sha256_json

if TYPE_CHECKING:
    from medseg.pipeline.model import LoadedModel

STAGE = "predict"


def plan(context: Context) -> str:
    """One line for the dry run."""
    return f"masks of the {which(context)} cases with {_model_name(context)}"


def which(context: Context) -> str:
    """The split whose cases are predicted: the widest that evaluation and report ask for."""
    wanted = {context.settings.evaluation.cases, context.settings.report.cases} - {"none"}
    return "all" if "all" in wanted or context.settings.training is None else (sorted(wanted) or ["test"])[0]


def _model_name(context: Context) -> str:
    return "the trained model" if context.settings.training else str(context.settings.model.start_from)


def run(context: Context) -> dict[str, Any]:
    """Predict each case that has no result of this very model, settings and image.

    Where every fold is tested in its turn, each case is predicted by the network that never saw its patient.
    """
    import torch

    torch.set_num_threads(context.threads)
    cases = context.chosen(which(context))
    cleaning = _cleaning(context)
    _calibrate(context, cleaning)
    work = _Work(context=context, cleaning=cleaning, total=len(cases))
    with ResidentPeak() as peak:
        for bundle, group in groups_of(context, cases):
            work.predict(bundle, group)
    memory = prediction_memory.compared(context, peak.most_bytes)
    targets = _write_targets(context)
    said = ", ".join(f"{count} {name}" for name, count in work.verdicts.items() if count and name != "pass")
    cases_text = f"{sum(work.verdicts.values())} cases{f': {said}' if said else ''}{targets}"
    return {
        "text": "; ".join((cases_text, *prediction_memory.text_of(memory))),
        **memory,
        "verdicts": work.verdicts,
        "cleaning": None if cleaning is None else [step.model_dump(mode="json") for step in cleaning],
        "device": context.device(),
        "threads": context.threads,
    }


def _write_targets(context: Context) -> str:
    """Write the table of recognised targets of all cases; their number in words, "" where none are asked for."""
    if context.config.recognise is None:
        return ""
    folders = [context.run.case_folder(case.case_id) for case in context.chosen(which(context))]
    records = (case_files.read_record(folder) for folder in folders)
    count = recognition.write_tables(context.run.path, (record for record in records if record))
    return f", {count} targets"


@dataclass(slots=True, kw_only=True)
class _Work:
    """The cases of a run, bundle by bundle."""

    context: Context
    cleaning: tuple[PostprocessStep, ...] | None
    total: int
    done: int = 0
    verdicts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("pass", "note", "review", "fail"), 0)
    )
    watched: Watched = field(init=False)

    def __post_init__(self) -> None:
        self.watched = Watched(self.context)

    def predict(self, bundle: Bundle, cases: Sequence[Case]) -> None:
        """Write the results of the cases of one bundle; it is loaded when the first case needs it."""
        context = self.context
        fold = context.folds[cases[0].case_id] if context.every_fold else None
        load = cache(partial(load_model, context, bundle, cleaning=self.cleaning, fold=fold))
        for case in cases:
            try:
                self._one(bundle, case, load)
            except (StorageError, EngineError):
                raise
            except MedsegError as err:
                context.fail(case.case_id, STAGE, str(err))
            self.done += 1
            context.reporter.advanced(STAGE, self.done, self.total, case.case_id)

    def _one(self, bundle: Bundle, case: Case, load: Callable[[], LoadedModel]) -> None:
        from medseg.pipeline.cleaning import answer_key, answers

        context = self.context
        folder = context.run.case_folder(case.case_id)
        key = case_key(context, bundle, case.case_id, cleaning=self.cleaning)
        if not case_files.is_done(folder, key):
            model, volume = load(), image_reader(context.config)(case.images)
            raw = None
            if not case_files.maps_of(context.config.export):
                raw = answers(context).read(case.case_id, answer_key(context, bundle, case.case_id))
            answer = self.watched.answer(model, case, volume) if raw is None else raw
            result = model.judge(volume, answer, case_id=case.case_id)
            case_files.write_result(
                folder, case_id=case.case_id, key=key, volume=volume, result=result, model=model
            )
        record = case_files.read_record(folder) or {}
        self.verdicts[str(record["verdict"])] += 1


def load_model(
    context: Context,
    bundle: Bundle,
    *,
    cleaning: tuple[PostprocessStep, ...] | None = (),
    fold: int | None = None,
) -> LoadedModel:
    """A bundle in memory, with the limits of the settings."""
    from medseg.pipeline.model import LoadedModel

    config = context.config
    context.run.cache.mkdir(parents=True, exist_ok=True)
    return LoadedModel(
        bundle,
        device=context.device(),
        gate_options=config.gate,
        flag_options=config.flags,
        measures=config.measure,
        inference=config.inference,
        cleaning=cleaning,
        fold=fold,
        precision=config.predict.precision,
        max_bytes=config.predict.max_ram,
        scratch=context.run.cache,
        maps=case_files.maps_of(config.export),
        engine=config.predict.engine,
        images=len(context.cases),
        recognise=config.recognise,
    )


def _cleaning(context: Context) -> tuple[PostprocessStep, ...] | None:
    """The clean-up steps of the settings; tuned ones go into the bundle. None: those of the bundle."""
    steps = context.config.postprocess
    if steps != "auto":
        return steps
    if context.config.training is None:
        return None
    from medseg.pipeline.cleaning import tuned, tuning_cases

    chosen = tuned(
        context, groups_of(context, tuning_cases(context)), lambda bundle: load_model(context, bundle)
    )
    bundling.with_cleaning(context, chosen)
    return chosen


def _calibrate(context: Context, cleaning: tuple[PostprocessStep, ...] | None) -> None:
    """Fit temperature and intervals of a model that was trained here, where some cases only validate.

    The networks of a cross-validation have no such cases; the ensemble is calibrated on what evaluates it.
    """
    config = context.config
    if config.training is None or context.every_fold or not config.evaluation.calibration:
        return
    from medseg.pipeline.calibrating import fit_on_validation

    cases = context.labelled(context.in_split("validation"))
    fit_on_validation(context, groups_of(context, cases), partial(load_model, context, cleaning=cleaning))


def groups_of(context: Context, cases: Sequence[Case]) -> list[tuple[Bundle, Sequence[Case]]]:
    """Cases by the bundle that predicts them."""
    if not cases:
        return []
    if not context.every_fold:
        return [(model_bundle(context), cases)]
    folds = sorted({context.folds[case.case_id] for case in cases})
    by_fold = {fold: [c for c in cases if context.folds[c.case_id] == fold] for fold in folds}
    return [(read_bundle(member_of(context, members[0].case_id)), members) for members in by_fold.values()]


def model_bundle(context: Context) -> Bundle:
    """The bundle that this run predicts with: its own, or the one the settings name."""
    if context.config.training is not None:
        return read_bundle(context.model_folder)
    if context.config.model.start_from is None:
        raise ConfigError("without a section training, model.start_from must name the model to use")
    return read_bundle(context.config.model.start_from)


def case_key(
    context: Context, bundle: Bundle, case_id: str, *, cleaning: Sequence[PostprocessStep] | None
) -> str:
    """What the result of one case depends on."""
    sections: dict[str, Any] = {
        name: context.section(name) for name in ("preprocess", "inference", "measure", "gate", "flags")
    }
    if context.settings.recognise is not None:
        sections["recognise"] = context.section("recognise")
    steps = bundle.postprocess if cleaning is None else [step.model_dump(mode="json") for step in cleaning]
    engine = context.config.predict.engine
    return sha256_json(
        [
            *([] if engine == "torch" else [engine]),
            context.run.record["versions"].get("medseg"),
            bundle.weights_sha256,
            sections | {"postprocess": list(steps)},
            list(context.facts[case_id]["image_sha256"]),
            # Results whose regions have no confidence of their own are made again.
            *(["regions"] if context.table.regions else []),
            # Results without maps keep the key that they had before there were any.
            *([known.model_dump(mode="json")] if (known := bundle.record.calibration) else []),
            *([maps] if (maps := list(case_files.maps_of(context.config.export))) else []),
        ]
    )
