"""A MONAI bundle folder -> a medseg bundle. Nothing that the folder says is executed.

References: MONAI, "Bundle specification" (format of 0.9 to 1.6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import BundleError
from medseg.interop import monai_metadata, monai_transforms
from medseg.interop.monai_config import CONFIGS, MonaiConfig, read_inference_config
from medseg.interop.monai_networks import MonaiModel, monai_model, monai_state
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.provenance import sha256_file

Step = dict[str, Any]
_WEIGHTS = ("model.pt", "model.pth", "model.ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiImport:
    """What a user decides about an import, where the bundle does not say or cannot be followed.

    Parameters
    ----------
    values : mapping of str to JSON value
        Values of the configuration in their places, such as ``{"network_def::out_channels": 3}``.
    preprocess, postprocess : sequence of dict or None
        Steps as JSON, instead of those of the bundle.
    inference : dict or None
        Inference options as JSON, instead of the inferer of the bundle.
    table : LabelTable or None
        Classes in the order of the network's output.
    name, licence : str or None
        Of the medseg bundle; by default the folder's name, and what the metadata say.
    weights : Path or None
        File of the weights; by default models/model.pt.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Sequence[Step] | None = None
    postprocess: Sequence[Step] | None = None
    inference: Mapping[str, Any] | None = None
    table: LabelTable | None = None
    name: str | None = None
    licence: str | None = None
    weights: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBundle:
    """A MONAI bundle, understood; its weights not yet read.

    Parameters
    ----------
    model : MonaiModel
    table : LabelTable
    about : BundleAbout
    preprocess, postprocess : tuple of dict
        Steps as JSON.
    inference : dict
    weights : Path
    lines : tuple of str
        What became of each part, for people.
    config : MonaiConfig
    source : str
        What the training data were, as far as it is told.
    """

    model: MonaiModel
    table: LabelTable
    about: BundleAbout
    preprocess: tuple[Step, ...]
    postprocess: tuple[Step, ...]
    inference: Mapping[str, Any]
    weights: Path
    lines: tuple[str, ...]
    config: MonaiConfig
    source: str


def is_monai_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    return any((folder / CONFIGS / f"inference{ending}").is_file() for ending in (".json", ".yaml", ".yml"))


def read_monai_bundle(folder: Path, decided: MonaiImport) -> ReadBundle:
    """Understand the configuration of a bundle.

    Raises
    ------
    BundleError
        A part that cannot be followed without executing it, or that medseg does not have, with its place and what
        to do.
    """
    config = read_inference_config(folder).with_values(decided.values)
    metadata = monai_metadata.read_metadata(folder)
    if not config.has("network_def"):
        config.refuse("network_def", "is missing; medseg builds the network that it describes")
    model = monai_model(config.plain("network_def"))
    table = decided.table or monai_metadata.label_table(metadata, class_count=model.class_count)
    if table.class_count != model.class_count:
        raise BundleError(
            f"{config.path}: network_def gives {model.class_count} classes, the label table names "
            f"{table.class_count} with "
            f"background ({', '.join(table.names)})"
        )
    dims = model.spatial_dims
    prepared, cleaned, shown = _steps(config, decided, table, dims)
    return ReadBundle(
        model=model,
        table=table,
        about=monai_metadata.about(
            metadata, name=decided.name or _plain_name(folder), licence=decided.licence
        ),
        preprocess=prepared.steps,
        postprocess=cleaned.steps,
        inference=shown.inference,
        weights=decided.weights or _weights(folder),
        lines=(*prepared.lines, *shown.lines, *cleaned.lines),
        config=config,
        source=str(metadata.get("data_source") or "not told"),
    )


def import_monai_bundle(read: ReadBundle, target: Path) -> Bundle:
    """Read the weights and write the medseg bundle, whole or not at all.

    Raises
    ------
    BundleError
        The weights are not tensors, or not those of the network.
    StorageError
        `target` holds something else, or cannot be written.
    """
    from medseg.interop.monai_weights import read_weights
    from medseg.models.bundle_writer import write_bundle
    from medseg.models.registry import build_network

    model = read.model
    network = build_network(
        model.options,
        spatial_dims=model.spatial_dims,
        in_channels=model.in_channels,
        class_count=model.class_count,
        seed=0,
    )
    state = monai_state(read_weights(read.weights), model.options)
    expected = network.state_dict()
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    extra = sorted(set(state) - set(expected))
    if wrong or extra:
        raise BundleError(
            f"{read.weights} does not hold the weights of network_def: {len(wrong)} of {len(expected)} "
            "tensors are missing or "
            f"of another shape{f', first {wrong[0]}' if wrong else ''}; {len(extra)} are too many"
            f"{f', first {extra[0]}' if extra else ''}"
        )
    window = read.inference.get("window")
    return write_bundle(
        target,
        about=read.about,
        network=network,
        state=state,
        table=read.table,
        preprocess=read.preprocess,
        inference=read.inference,
        postprocess=read.postprocess,
        window=None if window is None else tuple(window),
        training=TrainingRecord(
            data=f"Imported from a MONAI bundle; training data: {read.source}",
            cases=0,
            epochs=0,
            seconds=0.0,
            settings_sha256=sha256_file(read.config.path),
        ),
    )


def _steps(
    config: MonaiConfig, decided: MonaiImport, table: LabelTable, dims: int
) -> tuple[monai_transforms.Taken, monai_transforms.Taken, monai_metadata.Windows]:
    if decided.inference is None:
        shown = monai_metadata.windows(config, spatial_dims=dims)
    else:
        shown = monai_metadata.Windows(
            inference=dict(decided.inference), pad=None, lines=("inferer: as your settings say",)
        )
    if decided.preprocess is None:
        prepared = monai_transforms.preprocessing(config, spatial_dims=dims)
        more = () if shown.pad is None else (shown.pad,)
        prepared = monai_transforms.Taken(steps=(*prepared.steps, *more), lines=prepared.lines)
    else:
        said = ("preprocessing: as your settings say",)
        prepared = monai_transforms.Taken(steps=tuple(decided.preprocess), lines=said)
    if decided.postprocess is None:
        cleaned = monai_transforms.postprocessing(config, names=table.names)
    else:
        said = ("postprocessing: as your settings say",)
        cleaned = monai_transforms.Taken(steps=tuple(decided.postprocess), lines=said)
    return prepared, cleaned, shown


def _weights(folder: Path) -> Path:
    models = folder / "models"
    return next((models / name for name in _WEIGHTS if (models / name).is_file()), models / _WEIGHTS[0])


def _plain_name(folder: Path) -> str:
    plain = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")
    return plain[:80] or "monai-bundle"
