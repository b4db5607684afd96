"""The work of stage `train`: prepare the cases once, train or fine-tune, write the bundle. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from medseg import __version__
from medseg.data.dataset import PreparedSet, prepare_cases
from medseg.data.loader import BatchLoader, auto_workers
from medseg.data.manifest import Case
from medseg.errors import ConfigError, ManifestError
from medseg.models.bundle import read_bundle
from medseg.models.network import SegmentationNetwork
from medseg.models.registry import build_network
from medseg.models.transfer import load_matching
from medseg.pipeline import bundling
from medseg.pipeline.context import Context
from medseg.pipeline.readers import image_reader, mask_reader
from medseg.pipeline.validation import dice_validation
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


def fit(context: Context) -> dict[str, Any]:
    """Train and write the bundle of the run; a killed training goes on where it stood."""
    training = _options(context)
    torch.set_num_threads(context.threads)
    train_set, validation_set = prepare(context, "train"), prepare(context, "validation")
    network, transfer = start_network(context, in_channels=train_set[0].image.shape[0])
    table, device = context.table, context.device()
    loss = build_loss(
        training.loss,
        set_matrix=table.set_matrix,
        regions=table.region_classes(),
    )
    with (
        distributed.process_group(device=torch.device(device)) as processes,
        _loader(context, train_set, training, device, processes) as loader,
    ):
        result = train_network(
            network=network,
            loader=loader,
            validate=dice_validation(
                validation_set, table=table, inference=context.config.inference, device=device
            )
            if len(validation_set)
            else None,
            options=training,
            loss=loss,
            folder=context.run.path / "training",
            progress=_progress(context),
            resume=context.resuming,
            device=torch.device(device),
            settings={
                "start_from": transfer,
                "validation": validation_set.fingerprint(),
                **{name: context.section(name) for name in ("preprocess", "augment", "labels", "inference")},
            },
        )
    bundle = bundling.write_trained(context, network=network, result=result, train_set=train_set)
    return _summary(result, bundle_sha256=bundle.weights_sha256, transfer=transfer)


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
        spatial_dims=bundling.spatial_dims(context.config),
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
    workers = context.config.compute.workers
    table = context.table
    return BatchLoader(
        cases,
        batch_size=training.batch_size,
        seed=training.seed,
        workers=auto_workers(cores=context.threads, device="cuda" if device.startswith("cuda") else "cpu")
        if workers == "auto"
        else workers,
        augment=compile_augment(context.config.augment, table.mirror_sets),
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
        done = (state.epoch - 1) * state.steps + state.step
        dice = state.metrics.get("dice")
        text = f"epoch {state.epoch}/{state.epochs} loss {state.loss:.3f}"
        text += f" dice {dice:.4f}" if dice is not None else ""
        text += f" {state.images_per_second:.1f} images/s, {state.seconds_left:.0f} s left"
        context.reporter.advanced(STAGE, done, state.epochs * state.steps, text)

    return show


def _summary(result: TrainingResult, *, bundle_sha256: str, transfer: dict[str, Any]) -> dict[str, Any]:
    best = f", best Dice {result.best_metric:.4f} in epoch {result.best_epoch}" if result.best_metric else ""
    return {
        "text": f"{result.epochs_run} epochs{best}, {result.images_per_second:.1f} images/s",
        "weights_sha256": result.weights_sha256,
        "bundle_weights_sha256": bundle_sha256,
        "best_metric": result.best_metric,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs_run,
        "updates": result.updates,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "precision": result.precision,
        "precision_reason": result.precision_reason,
        "threads": result.threads,
        "stopped_by": result.stopped_by,
        "start": transfer,
    }
