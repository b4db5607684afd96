"""The bundle of a run: trained weights, what they expect of an image, how good they were.

The functions that touch weights import torch when they are called; dry runs read this module too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.config.schema import RunConfig
from medseg.data.dataset import PreparedSet
from medseg.inference.options import PostprocessStep
from medseg.models.bundle import Bundle, read_bundle
from medseg.models.bundle_record import BundleAbout, MetricRecord, TrainingRecord
from medseg.quality.input_ranges import fit_input_ranges

if TYPE_CHECKING:
    from medseg.models.network import SegmentationNetwork
    from medseg.pipeline.context import Context
    from medseg.training.records import TrainingResult


def image_size(config: RunConfig) -> tuple[int, ...] | None:
    """Size that preprocessing gives every image, None where images keep sizes of their own."""
    sizes = [getattr(step, "size", None) for step in config.preprocess if step.use in ("resize", "pad")]
    return next((tuple(size) for size in reversed(sizes) if size is not None), None)


def spatial_dims(config: RunConfig, facts: Mapping[str, Mapping[str, Any]] | None = None) -> int:
    """Number of axes of the images, from the settings or, where those do not say, from the data."""
    patch = None if config.training is None else config.training.patch_size
    size = config.inference.window or patch or image_size(config)
    if size is not None:
        return len(size)
    return next((len(fact["shape"]) for fact in (facts or {}).values()), 2)


def write_trained(
    context: Context, *, network: SegmentationNetwork, result: TrainingResult, train_set: PreparedSet
) -> Bundle:
    """Write the bundle of a finished training, with the input gate of its training images."""
    from medseg.models.bundle_writer import write_bundle
    from medseg.pipeline.calibration import calibrate

    calibration = calibrate(context, network)
    patients = {case.case_id: case.patient_id for case in context.cases}
    config = context.config
    return write_bundle(
        context.model_folder,
        about=config.bundle or _unnamed(config),
        network=network,
        table=context.table,
        preprocess=[step.model_dump(mode="json") for step in config.preprocess],
        training=TrainingRecord(
            data=_data_text(context),
            cases=len(train_set),
            patients=len({patients[case_id] for case_id in train_set.case_ids}),
            epochs=result.epochs_run,
            seconds=round(result.seconds, 1),
            started_from=config.model.start_from,
            settings_sha256=context.run.record["settings_sha256"],
            input_ranges=fit_input_ranges(
                (context.facts[case_id]["shape"], context.facts[case_id]["spacing_mm"])
                for case_id in train_set.case_ids
            ),
        ),
        inference=config.inference.model_dump(mode="json"),
        postprocess=[]
        if config.postprocess == "auto"
        else [s.model_dump(mode="json") for s in config.postprocess],
        recognise=None if config.recognise is None else config.recognise.model_dump(mode="json"),
        window=config.inference.window or image_size(config),
        gate=calibration.arrays,
        gate_limits=calibration.limits,
    )


def with_metrics(context: Context, metrics: Sequence[MetricRecord]) -> None:
    """Write the results on held-out cases into the bundle of the run."""
    from medseg.models.bundle_writer import update_bundle

    update_bundle(read_bundle(context.model_folder), metrics=metrics)


def with_cleaning(context: Context, steps: Sequence[PostprocessStep]) -> None:
    """Write the clean-up steps that were tuned into the bundle of the run."""
    from medseg.models.bundle_writer import update_bundle

    values = [step.model_dump(mode="json") for step in steps]
    update_bundle(read_bundle(context.model_folder), postprocess=values)


def _unnamed(config: RunConfig) -> BundleAbout:
    """What medseg knows by itself; a fine-tuned model stays under the licence of the one it started from."""
    parent = None if config.model.start_from is None else read_bundle(config.model.start_from)
    started = () if parent is None else (f"Started from the weights of {parent.name} {parent.version}.",)
    return BundleAbout(
        name=config.name.lower(),
        version="0.1.0",
        description=config.about or f"Trained by the pipeline {config.name}.",
        licence="LicenseRef-unstated" if parent is None else parent.licence,
        attribution=() if parent is None else (*started, *parent.record.attribution),
        intended_use="Research use only, not a medical device.",
    )


def _data_text(context: Context) -> str:
    source = context.config.data.source
    if source.use == "phantom":
        return f"{source.cases} synthetic studies (recipe {source.recipe}, seed {source.seed})"
    if source.use == "manifest":
        return f"manifest {source.path.name}"
    return "a folder of images"
