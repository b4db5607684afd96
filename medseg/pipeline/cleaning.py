"""The clean-up of predicted masks: as the settings say, or tuned on out-of-fold or validation predictions.

Test cases that a network is judged by are never looked at; out-of-fold predictions are those of networks
that did not see the case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.data.manifest import Case
from medseg.errors import MedsegError, StorageError
from medseg.inference.options import PostprocessStep
from medseg.pipeline.answers import AnswerStore
from medseg.pipeline.context import Context
from medseg.pipeline.looks import Watched
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.tuning import Masks, Tuning, candidates, tune
from medseg.provenance import sha256_json, write_json

if TYPE_CHECKING:
    from medseg.models.bundle import Bundle
    from medseg.pipeline.model import LoadedModel

STAGE = "predict"
RECORD = "postprocess.json"
Groups = Sequence[tuple["Bundle", Sequence[Case]]]


def answers(context: Context) -> AnswerStore:
    """Where raw predictions are kept."""
    return AnswerStore(context.run.cache / "answers")


def answer_key(context: Context, bundle: Bundle, case_id: str) -> str:
    """What a raw prediction depends on."""
    sections = {name: context.section(name) for name in ("preprocess", "inference", "gate")}
    version = context.run.record["versions"].get("medseg")
    # The confidence of recognised targets needs more of a prediction to be kept; that of regions was not told before.
    kept = [] if context.settings.recognise is None else ["certainty"]
    kept += ["regions"] if context.table.regions else []
    heat = bundle.record.temperature
    return sha256_json(
        [
            version,
            bundle.weights_sha256,
            sections,
            list(context.facts[case_id]["image_sha256"]),
            *kept,
            *([] if heat == 1.0 else [heat]),
        ]
    )


def tuning_cases(context: Context) -> tuple[Case, ...]:
    """Cases that clean-up may be tuned on: each out of its fold, or those that validate."""
    return context.labelled(context.in_split("test" if context.every_fold else "validation"))


def tuned(
    context: Context, groups: Groups, load: Callable[[Bundle], LoadedModel]
) -> tuple[PostprocessStep, ...]:
    """Choose the steps, write postprocess.json and tell what they do.

    Parameters
    ----------
    context : Context
    groups : sequence of (bundle, cases)
        Cases that may be looked at, by the bundle that did not see them.
    load : callable (Bundle) -> LoadedModel
    """
    cases = _answered(context, groups, load)
    if not cases:
        context.reporter.note(
            "postprocess: auto has no out-of-fold and no validation predictions to tune on; masks are not cleaned"
        )
        write_json(context.run.path / RECORD, {"data": "none", "steps": [], "structures": {}, "tried": []})
        return ()
    masks = [partial(_masks, context, case, key) for case, key in cases]
    unit = _unit(context, [case for case, _ in cases])
    tries = candidates(context.table, _sizes(context, [case for case, _ in cases], unit), unit=unit)
    total = len(cases)
    found = tune(
        masks,
        tries,
        table=context.table,
        progress=lambda done, _: context.reporter.advanced(STAGE, done, total, "trying clean-up steps"),
    )
    what = "out-of-fold predictions" if context.every_fold else "predictions of the validation cases"
    write_json(context.run.path / RECORD, {"data": f"{what}, {total} cases", **found.to_json()})
    context.reporter.note(f"postprocess: auto, tuned on {what} of {total} cases: {_said(found)}")
    return found.steps


def _answered(
    context: Context, groups: Groups, load: Callable[[Bundle], LoadedModel]
) -> list[tuple[Case, str]]:
    """Cases with a raw prediction in the store, and its key; made where there is none."""
    store, watched, done, found = answers(context), Watched(context), 0, []
    total = sum(len(cases) for _, cases in groups)
    for bundle, cases in groups:
        model: LoadedModel | None = None
        for case in cases:
            key = answer_key(context, bundle, case.case_id)
            try:
                if store.read(case.case_id, key) is None:
                    model = model or load(bundle)
                    volume = image_reader(context.config)(case.images)
                    store.write(case.case_id, key, watched.answer(model, case, volume))
                found.append((case, key))
            except StorageError:
                raise
            except MedsegError as err:
                # The loop over the results tells it where the case is among them.
                context.run.log("no raw prediction", error=type(err).__name__)
            done += 1
            context.reporter.advanced(STAGE, done, total, "predicting, to tune the clean-up")
    return found


def _masks(context: Context, case: Case, key: str) -> Masks:
    answer = answers(context).read(case.case_id, key)
    if answer is None:
        raise StorageError(
            f"the raw prediction of case {case.case_id} in {answers(context).folder} is damaged; run again"
        )
    volume = image_reader(context.config)(case.images)
    reference = read_reference(case, volume, context.config, context.table)[0]
    return Masks(label_map=answer.label_map, reference=reference, spacing_mm=volume.spacing_mm)


def _unit(context: Context, cases: Sequence[Case]) -> str | None:
    """The unit of size limits: one that every image has."""
    facts = [context.facts[case.case_id] for case in cases]
    known = [fact["spacing_mm"] is not None for fact in facts]
    if all(known):
        return "ml" if len(facts[0]["shape"]) == 3 else "mm2"
    return None if any(known) else "pixels"


def _sizes(context: Context, cases: Sequence[Case], unit: str | None) -> dict[str, list[float]]:
    """Size of each label in each reference."""
    sizes: dict[str, list[float]] = {}
    for case in cases:
        fact = context.facts[case.case_id]
        scale = 1.0
        if unit in ("ml", "mm2"):
            scale = float(np.prod(fact["spacing_mm"])) / (1000.0 if unit == "ml" else 1.0)
        for name, voxels in fact["voxels"].items():
            sizes.setdefault(name, []).append(voxels * scale)
    return sizes


def _said(found: Tuning) -> str:
    if not found.steps:
        return f"none of {len(found.tried)} steps raises Dice"
    gains = [
        f"{name} {found.before[name]:.4f} to {found.after[name]:.4f}"
        for name in found.before
        if found.after[name] != found.before[name]
    ]
    return f"{', '.join(_step(step) for step in found.steps)} (Dice {', '.join(gains)})"


def _step(step: PostprocessStep) -> str:
    value: dict[str, Any] = step.model_dump(exclude_none=True, exclude={"use", "labels", "count"})
    limits = " ".join(f"{name} {amount:g}" for name, amount in value.items())
    return " ".join(part for part in (step.use, *step.labels, limits) if part)
