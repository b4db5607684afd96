"""Probabilities and sizes against references: fitted on cases that train nothing, and told of those evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.calibration.look import CalibrationSummary, CaseLook, fit_record, look_at, summarise_looks
from medseg.calibration.sizes import SizePair
from medseg.data.manifest import Case
from medseg.data.tables import write_csv
from medseg.errors import MedsegError, StorageError
from medseg.memory import return_free_memory
from medseg.models.bundle_writer import update_bundle
from medseg.models.calibration_record import CalibrationRecord
from medseg.pipeline.looks import chosen_cases, look_key, looks, seed_of
from medseg.pipeline.readers import image_reader, read_reference
from medseg.provenance import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.models.bundle import Bundle
    from medseg.pipeline.context import Context
    from medseg.pipeline.model import LoadedModel

Groups = Sequence[tuple["Bundle", Sequence[Case]]]
Load = Callable[["Bundle"], "LoadedModel"]


def fit_on_validation(context: Context, groups: Groups, load: Load) -> CalibrationRecord | None:
    """Fit temperature and intervals on the validation cases of a run, and write them into its bundle.

    None, with a note, where there are no such cases.
    """
    load = loading(load)
    found = _looks(context, groups, load, stage="predict", text="calibrating on validation cases")
    if not found:
        context.reporter.note("no validation case with a mask: probabilities and sizes are not calibrated")
        return None
    bundle = groups[0][0]
    scaling = load(groups[-1][0]).predictor.scaling
    record = fit_record(
        found,
        scaling,
        context.table,
        data=f"validation split of {context.config.name}",
    )
    update_bundle(bundle, calibration=record)
    context.reporter.note(record_text(record))
    return record


def evaluate_probabilities(
    context: Context,
    groups: Groups,
    load: Load,
    *,
    sizes: Iterable[tuple[str, Mapping[str, SizePair]]],
    what: str,
) -> CalibrationSummary | None:
    """Write calibration.json and its tables for the evaluated cases.

    Where every fold is tested in its turn, these are also what temperature and intervals of the ensemble are fitted
    on: no other case was kept from all its networks.

    Parameters
    ----------
    context : Context
    groups, load
        Cases by the bundle that predicts them, and how one is loaded.
    sizes : iterable of (patient_id, pairs)
        Of all evaluated cases.
    what : str
        Which cases these are.
    """
    load = loading(load)
    found = _looks(context, groups, load, stage="evaluate", text="probabilities", handed_over=True)
    if not found:
        return None
    options, bundle = context.config.evaluation, groups[0][0]
    summary = summarise_looks(
        found,
        temperature=bundle.record.temperature,
        data=f"{what} of {context.config.name}, {len(found)} images",
        samples=options.samples,
        level=options.level,
        seed=options.seed,
    )
    write_summary(context.run.path / "evaluation", summary)
    if context.every_fold and context.config.training is not None:
        from medseg.models.bundle import read_bundle

        record = fit_record(
            found,
            load(groups[-1][0]).predictor.scaling,
            context.table,
            data=f"{what} of {context.config.name}",
            of="members",
            sizes=sizes,
        )
        update_bundle(read_bundle(context.model_folder), calibration=record)
        context.reporter.note(record_text(record))
    return summary


def loading(load: Load) -> Load:
    """The same, with the model that was loaded last kept for the next call."""
    held: dict[str, LoadedModel] = {}

    def once(bundle: Bundle) -> LoadedModel:
        name = bundle.weights_sha256
        if name not in held:
            held.clear()
            held[name] = load(bundle)
        return held[name]

    return once


def write_summary(folder: Path, summary: CalibrationSummary) -> None:
    """calibration.json, calibration.csv and calibration_bins.csv."""
    write_json(folder / "calibration.json", summary.to_json())
    write_csv(folder / "calibration.csv", summary.rows())
    write_csv(folder / "calibration_bins.csv", summary.bin_rows())


def record_text(record: CalibrationRecord) -> str:
    """What was fitted, in one line for people."""
    heat = record.temperature
    parts = [
        "no temperature"
        if heat is None
        else f"temperature {heat.value:.3f} (negative log-likelihood {heat.nll_before:.4f} to {heat.nll_after:.4f})"
    ]
    for name, size in record.sizes.items():
        level = "" if size.percent is None else f" ({100 * size.level:g} %)"
        parts.append(f"true size of {name}{level}: {size.text}")
    return f"calibrated on {record.data}: {'; '.join(parts)}"


def _looks(
    context: Context, groups: Groups, load: Load, *, stage: str, text: str, handed_over: bool = False
) -> list[CaseLook]:
    """Go through the cases, at most `MOST_CASES`; those that cannot be are left out.

    Where looks that were handed over do, they have no sizes, and only cases without one are predicted.
    """
    every = [case for _, cases in groups for case in cases]
    kept = chosen_cases(every, dims=groups[0][0].spatial_dims) if groups else set()
    found, done = [], 0
    for bundle, cases in groups:
        for case in (case for case in cases if case.case_id in kept):
            try:
                look = _handed_over(context, bundle, case) if handed_over else None
                found.append(look or _look(context, load(bundle), case))
            except StorageError:
                raise
            except MedsegError as err:
                # The loop over the results tells it where the case is among them.
                context.run.log("no look at probabilities", error=type(err).__name__)
            return_free_memory()
            done += 1
            context.reporter.advanced(stage, done, len(kept), text)
    return found


def _handed_over(context: Context, bundle: Bundle, case: Case) -> CaseLook | None:
    key = look_key(context, bundle, case.case_id)
    return looks(context).read(case.case_id, key, patient_id=case.patient_id)


def _look(context: Context, model: LoadedModel, case: Case) -> CaseLook:
    volume: Any = image_reader(context.config)(case.images)
    return look_at(
        model.predictor,
        volume,
        read_reference(case, volume, context.config, context.table),
        cleaning=model.cleaning,
        patient_id=case.patient_id,
        seed=seed_of(case.case_id),
    )
