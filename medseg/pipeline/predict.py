"""Stage `predict`: masks, measurements and flags of the chosen cases, each file whole or absent."""

from __future__ import annotations

from typing import Any

from medseg.errors import ConfigError, MedsegError, StorageError
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline import case_files
from medseg.pipeline.context import Context
from medseg.pipeline.readers import image_reader
from medseg.provenance import sha256_json

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
    """Predict each case that has no result of this very model, settings and image."""
    import torch

    from medseg.pipeline.model import LoadedModel

    torch.set_num_threads(context.threads)
    config, bundle = context.config, model_bundle(context)
    model = LoadedModel(
        bundle,
        device=context.device(),
        gate_options=config.gate,
        flag_options=config.flags,
        measures=config.measure,
        inference=config.inference,
        cleaning=config.postprocess,
    )
    read, verdicts = image_reader(config), {"pass": 0, "note": 0, "review": 0, "fail": 0}
    cases = context.chosen(which(context))
    for done, case in enumerate(cases, start=1):
        folder, key = context.run.case_folder(case.case_id), case_key(context, bundle, case.case_id)
        try:
            if not case_files.is_done(folder, key):
                volume = read(case.images)
                result = model.segment(volume, case_id=case.case_id)
                case_files.write_result(
                    folder, case_id=case.case_id, key=key, volume=volume, result=result, model=model
                )
            record = case_files.read_record(folder) or {}
            verdicts[str(record["verdict"])] += 1
        except StorageError:
            raise
        except MedsegError as err:
            context.fail(case.case_id, STAGE, str(err))
        context.reporter.advanced(STAGE, done, len(cases), case.case_id)
    said = ", ".join(f"{count} {name}" for name, count in verdicts.items() if count and name != "pass")
    return {
        "text": f"{sum(verdicts.values())} cases{f': {said}' if said else ''}",
        "verdicts": verdicts,
        "device": context.device(),
        "threads": context.threads,
    }


def model_bundle(context: Context) -> Bundle:
    """The bundle that this run predicts with: its own, or the one the settings name."""
    if context.config.training is not None:
        return read_bundle(context.model_folder)
    if context.config.model.start_from is None:
        raise ConfigError("without a section training, model.start_from must name the model to use")
    return read_bundle(context.config.model.start_from)


def case_key(context: Context, bundle: Bundle, case_id: str) -> str:
    """What the result of one case depends on."""
    sections = ("preprocess", "inference", "postprocess", "measure", "gate", "flags")
    return sha256_json(
        [
            context.run.record["versions"].get("medseg"),
            bundle.weights_sha256,
            {name: context.section(name) for name in sections},
            list(context.facts[case_id]["image_sha256"]),
        ]
    )
