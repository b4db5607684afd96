"""The work of stage `train`: prepare the cases once, train or fine-tune, write the bundle. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medseg import __version__
from medseg.amounts import time_text
from medseg.data.dataset import PreparedSet, prepare_cases
from medseg.data.loader import BatchLoader, auto_workers
from medseg.data.manifest import Case
from medseg.data.patches import PatchSampler, structure_sets
from medseg.errors import ConfigError, ManifestError
from medseg.memory import PeakMemory, return_free_memory
from medseg.models.bundle import read_bundle
from medseg.models.network import SegmentationNetwork
from medseg.models.registry import build_network
from medseg.models.transfer import load_matching
from medseg.pipeline import bundling, ranks
from medseg.pipeline.context import Context
from medseg.pipeline.folds import watched_split
from medseg.pipeline.readers import image_reader, mask_reader
from medseg.pipeline.validation import dice_validation
from medseg.planning.cost import compare
from medseg.provenance import sha256_json, write_json
from medseg.training import distributed
from medseg.training.losses import build_loss
from medseg.training.options import TrainingOptions
from medseg.training.records import Progress, TrainingResult
from medseg.training.trainer import train as train_network
from medseg.transforms.augment import compile_augment
from medseg.transforms.preprocess import label_to_grid, preprocess
from medseg.volume import Volume

STAGE = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training: the network with its weights, what it started from, its cases."""

    network: SegmentationNetwork
    result: TrainingResult
    transfer: dict[str, Any]
    train_set: PreparedSet
    seconds_before: float


def fit(context: Context) -> dict[str, Any]:
    """Train and write the bundle of the run; a killed training goes on where it stood."""
    begin = time.monotonic()
    with PeakMemory() as peak:
        trained = train_once(context, folder=context.run.path / "training", resume=context.resuming)
        return_free_memory()
        bundle = bundling.write_trained(
            context, network=trained.network, result=trained.result, train_set=trained.train_set
        )
        # What earlier processes of this training took counts, too; their preparation is this one's.
        seconds = time.monotonic() - begin + trained.seconds_before
    found = compare(context.prediction, ram_bytes=peak.total_bytes, seconds=seconds)
    if found is not None:
        context.reporter.note(f"the training {found.text}")
    summary = _summary(
        trained.result,
        bundle_sha256=bundle.weights_sha256,
        transfer=trained.transfer,
        keep=_options(context).keep,
    )
    return summary | {
        "ram_bytes": peak.total_bytes,
        "comparison": None if found is None else found.to_json(),
    }


def train_once(
    context: Context,
    *,
    folder: Path,
    resume: bool,
    sets: tuple[PreparedSet, PreparedSet] | None = None,
    on_validation: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train the network of the settings on the cases of the context, in a folder of its own.

    Of several processes, process 0 prepares the cases and lets the others call this with what it was given.

    Parameters
    ----------
    context : Context
    folder : Path
        Checkpoints, curves and weights.
    resume : bool
        Whether a checkpoint of the folder is used; else it is removed.
    sets : (PreparedSet, PreparedSet), optional
        Training and validation cases, where they are prepared already.
    on_validation : callable (epoch, values), optional
        Called in process 0 after each validation; what it raises ends the training.
    """
    training = _options(context)
    train_set, validation_set = sets or (
        prepare(context, "train"),
        prepare(context, watched_split(context.config.data.split)),
    )
    ranks.lead(context, folder=folder, resume=resume)
    place = distributed.processes()
    torch.set_num_threads(max(1, context.threads // place.local_size))
    network, transfer = start_network(context, in_channels=train_set[0].image.shape[0])
    table, device = context.table, distributed.local_device(context.device())
    loss = build_loss(training.loss, set_matrix=table.set_matrix, regions=table.region_classes())
    validate = dice_validation(
        validation_set, table=table, inference=context.config.inference, device=str(device)
    )
    with _loader(context, train_set, training, device.type, place) as loader:
        started = time.monotonic()
        result = train_network(
            network=network,
            loader=loader,
            validate=validate if len(validation_set) else None,
            options=training,
            loss=loss,
            folder=folder,
            progress=_progress(context),
            tell=context.reporter.note,
            on_validation=on_validation,
            resume=resume,
            device=device,
            settings={
                "start_from": transfer,
                "validation": validation_set.fingerprint(),
                **{name: context.section(name) for name in ("preprocess", "augment", "labels", "inference")},
            },
        )
    earlier = max(0.0, result.seconds - (time.monotonic() - started))
    return Trained(
        network=network, result=result, transfer=transfer, train_set=train_set, seconds_before=earlier
    )


def _options(context: Context) -> TrainingOptions:
    if context.config.training is None:
        raise ConfigError("the YAML has no section training; add one, or leave the stage out")
    return context.config.training


def prepare(context: Context, split: str) -> PreparedSet:
    """Preprocessed cases of a split, from the cache where they are there."""
    cases: Sequence[Case] = context.labelled(context.in_split(split))
    if split == "train" and not cases:
        raise ManifestError("no usable case with a mask is in the training split; check the list of cases")
    steps = context.config.preprocess

    def transform(volume: Volume) -> Any:
        return preprocess(volume, steps)

    prepared = prepare_cases(
        cases,
        table=context.table,
        read_image=image_reader(context.config),
        read_label=mask_reader(context.config),
        transform=transform,
        to_grid=label_to_grid,
        folder=context.run.cache / "prepared",
        settings_digest=sha256_json([__version__, context.section("preprocess"), context.section("data")]),
        threads=context.threads,
        progress=lambda done, total, case: context.reporter.advanced(STAGE, done, total, f"preparing {case}"),
    )
    for failure in prepared.failures:
        context.fail(failure.case_id, STAGE, failure.text)
    return prepared


def start_network(context: Context, *, in_channels: int) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """The network of the settings, with the weights it starts from, and a record of those."""
    options, training = context.config.model, context.config.training
    network = build_network(
        options,
        spatial_dims=bundling.spatial_dims(context.config, context.facts),
        in_channels=in_channels,
        class_count=context.table.class_count,
        seed=training.seed if training is not None else 0,
    )
    if options.start_from is None:
        return network, {"from": None}
    bundle = read_bundle(options.start_from)
    report = load_matching(network, bundle, table=context.table)
    write_json(context.run.path / "transfer.json", report.to_json())
    context.reporter.note(f"starts from {bundle.name} {bundle.version}: {report.text}")
    context.reporter.table("Weights at the start", ("", "tensors", "which"), report.rows)
    return network, {"from": bundle.name, "weights_sha256": bundle.weights_sha256, "report": report.text}


def _loader(
    context: Context,
    cases: PreparedSet,
    training: TrainingOptions,
    device: str,
    processes: distributed.Processes,
) -> BatchLoader:
    workers, cores = context.config.compute.workers, torch.get_num_threads()
    table = context.table
    return BatchLoader(
        cases,
        batch_size=training.batch_size,
        seed=training.seed,
        workers=auto_workers(cores=cores, device="cuda" if device == "cuda" else "cpu")
        if workers == "auto"
        else workers,
        augment=compile_augment(context.config.augment, table.mirror_sets),
        patches=None
        if training.patch_size is None
        else PatchSampler(
            size=training.patch_size, foreground=training.foreground, structures=structure_sets(table)
        ),
        on_worker_failure=context.config.compute.on_worker_failure,
        note=context.reporter.note,
        samples_per_epoch=training.samples_per_epoch,
        weights=_weights(context, cases, training.case_weights),
        rank=processes.rank,
        world_size=processes.world_size,
    )


def _weights(context: Context, cases: PreparedSet, column: str | None) -> list[float] | None:
    if column is None:
        return None
    by_id = {case.case_id: case.columns for case in context.cases}
    try:
        return [float(by_id[case_id][column]) for case_id in cases.case_ids]
    except (KeyError, ValueError) as err:
        raise ManifestError(
            f"training.case_weights names the column {column!r}, which lacks a number for some case: {err}"
        ) from err


def _progress(context: Context) -> Any:
    def show(state: Progress) -> None:
        if context.on_progress is not None:
            context.on_progress(state)
        done = (state.epoch - 1) * state.steps + state.step
        dice = state.metrics.get("dice")
        text = f"epoch {state.epoch}/{state.epochs}, loss {state.loss:.3f}"
        text += f", Dice {dice:.4f}" if dice is not None else ""
        text += f", {state.images_per_second:.1f} samples/s, {time_text(state.seconds_left)} left"
        context.reporter.advanced(STAGE, done, state.epochs * state.steps, text)

    return show


def _summary(
    result: TrainingResult, *, bundle_sha256: str, transfer: dict[str, Any], keep: str
) -> dict[str, Any]:
    best = f", best Dice {result.best_metric:.4f} in epoch {result.best_epoch}" if result.best_metric else ""
    last = next((row["dice"] for row in reversed(result.history) if "dice" in row), None)
    if keep == "last":
        # The best epoch of cases that choose nothing is no result.
        best = "" if last is None else f", Dice {last:.4f} in the last epoch"
    text = f"{result.epochs_run} epochs{best}, {result.images_per_second:.1f} samples/s"
    text += f", network at work {result.shares.get('network', 0):.0%} of the time"
    return {
        "text": text + (f"; {result.refit}" if result.refit else ""),
        "weights_sha256": result.weights_sha256,
        "bundle_weights_sha256": bundle_sha256,
        "best_metric": result.best_metric if keep == "best" else None,
        "best_epoch": result.best_epoch if keep == "best" else None,
        "last_dice": last,
        "epochs": result.epochs_run,
        "updates": result.updates,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "shares": {part: round(share, 4) for part, share in result.shares.items()},
        "refit": result.refit,
        "precision": result.precision,
        "precision_reason": result.precision_reason,
        "threads": result.threads,
        "stopped_by": result.stopped_by,
        "start": transfer,
    }
