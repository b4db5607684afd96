"""Write a bundle, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from medseg.errors import BundleError, StorageError
from medseg.labels import LabelTable
from medseg.models.bundle import CARD, GATE_PREFIX, RECORD, Bundle, read_bundle
from medseg.models.bundle_record import (
    WEIGHTS,
    BundleAbout,
    BundleRecord,
    GateRecord,
    MetricRecord,
    TrainingRecord,
    WeightsPrecision,
)
from medseg.models.calibration_record import CalibrationRecord
from medseg.models.card import model_card
from medseg.models.network import SegmentationNetwork
from medseg.provenance import TEMPORARY_SUFFIX, whole_file, write_json, write_text


def write_bundle(
    folder: Path,
    *,
    about: BundleAbout,
    network: SegmentationNetwork,
    table: LabelTable,
    preprocess: Sequence[Mapping[str, Any]],
    training: TrainingRecord,
    state: Mapping[str, Tensor] | None = None,
    inference: Mapping[str, Any] | None = None,
    postprocess: Sequence[Mapping[str, Any]] = (),
    recognise: Mapping[str, Any] | None = None,
    window: tuple[int, ...] | None = None,
    metrics: Sequence[MetricRecord] = (),
    gate: Mapping[str, NDArray[Any]] | None = None,
    gate_limits: Mapping[str, Any] | None = None,
    regions: Sequence[int] = (),
) -> Bundle:
    """Write bundle.json, model.safetensors and CARD.md into `folder`, and read them back.

    The same arguments give the same bytes. An older bundle in `folder` is replaced as a whole.

    Parameters
    ----------
    folder : Path
        Absent, empty, or a bundle.
    about : BundleAbout
        Name, licence, intended use and limits; values beyond the range of its `weights_precision` are refused.
    network : SegmentationNetwork
        Says how it was built; its weights are stored unless `state` is given.
    table : LabelTable
        Classes in the order of the network's output.
    preprocess, inference, postprocess, recognise : JSON values
        Option models as `model_dump(mode="json")` gives them.
    training : TrainingRecord
    state : mapping of str to tensor, optional
        Weights to store instead, such as a moving average.
    window : tuple of int, optional
        Window that the network was trained on, voxels.
    metrics : sequence of MetricRecord, optional
    gate, gate_limits : optional
        Arrays of the input gate by name (lower-case), stored in their own precision, and its numbers.
    regions : sequence of int, optional
        Class that each channel of the network writes, where channels are regions that overlap.

    Raises
    ------
    BundleError
        Weights that are not finite or do not fit the network, or too many classes.
    StorageError
        `folder` holds something else, or cannot be written.
    """
    if (len(regions) or table.class_count) != network.class_count:
        raise BundleError(
            f"bundle {about.name}: the network has {network.class_count} classes, "
            f"the label table {table.class_count} ({', '.join(table.names)})"
        )
    weights = stored_weights(
        network.state_dict() if state is None else state, about.name, about.weights_precision
    )
    arrays = {GATE_PREFIX + name: tensor for name, tensor in gate_tensors(gate or {}).items()}
    data = save(weights | arrays)
    record = BundleRecord(
        **about.model_dump(),
        network=network.options.model_copy(update={"start_from": None}),
        spatial_dims=2 if network.spatial_dims == 2 else 3,
        in_channels=network.in_channels,
        labels=table.to_json(),
        regions=tuple(regions),
        preprocess=tuple(dict(step) for step in preprocess),
        inference=dict(inference or {}),
        postprocess=tuple(dict(step) for step in postprocess),
        recognise=None if recognise is None else dict(recognise),
        window=window,
        training=training,
        gate=None if gate is None and not gate_limits else _gate(gate or {}, gate_limits or {}),
        metrics=tuple(metrics),
        files={WEIGHTS: hashlib.sha256(data).hexdigest()},
    )
    with whole_folder(folder) as part:
        with whole_file(part / WEIGHTS) as path:
            path.write_bytes(data)
        write_json(part / RECORD, record.to_json())
        write_text(part / CARD, model_card(record))
        # Nothing is published that cannot be loaded again.
        read_bundle(part).load_network()
    return read_bundle(folder)


def update_bundle(
    bundle: Bundle,
    *,
    metrics: Sequence[MetricRecord] | None = None,
    postprocess: Sequence[Mapping[str, Any]] | None = None,
    calibration: CalibrationRecord | None = None,
    gate_limits: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write other results, clean-up steps, a calibration or numbers of the gate into a bundle; its weights stay, byte for byte.

    Parameters
    ----------
    bundle : Bundle
    metrics, postprocess, calibration : optional
        Take the place of those that are there.
    gate_limits : mapping, optional
        Added to the numbers of the gate; those of the same names are replaced.
    """
    value = bundle.record.to_json()
    if metrics is not None:
        value["metrics"] = [metric.model_dump(mode="json") for metric in metrics]
    if postprocess is not None:
        value["postprocess"] = [dict(step) for step in postprocess]
    if calibration is not None:
        value["calibration"] = calibration.model_dump(mode="json")
    if gate_limits is not None:
        gate = value.get("gate") or GateRecord().model_dump(mode="json")
        value["gate"] = {**gate, "limits": {**gate["limits"], **gate_limits}}
    record = BundleRecord.model_validate(value)
    with whole_folder(bundle.folder) as part:
        for name in record.files:
            shutil.copyfile(bundle.folder / name, part / name)
        write_json(part / RECORD, record.to_json())
        write_text(part / CARD, model_card(record))
    return read_bundle(bundle.folder)


def stored_weights(state: Mapping[str, Tensor], name: str, precision: WeightsPrecision) -> dict[str, Tensor]:
    """Weights as a bundle called `name` stores them.

    Raises
    ------
    BundleError
        A value is not finite, or beyond the range of the precision.
    """
    kind = torch.float16 if precision == "fp16" else torch.float32
    stored = {}
    for key in sorted(state):
        value = state[key].detach().cpu()
        value = value.to(kind) if value.is_floating_point() else value
        if not torch.isfinite(value).all():
            cause = "" if not torch.isfinite(state[key]).all() else f", beyond the range of {precision}"
            raise BundleError(f"bundle {name}: {key} holds NaN or infinity{cause}; it is not written")
        # A copy of its own: tensors that share memory cannot be stored.
        stored[key] = value.clone(memory_format=torch.contiguous_format)
    return stored


def gate_tensors(gate: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Arrays of the input gate as tensors, by name, sorted."""
    return {name: _tensor(array) for name, array in sorted(gate.items())}


def _tensor(array: NDArray[Any]) -> Tensor:
    if not np.isfinite(array).all():
        raise BundleError("the arrays of the input gate must be finite")
    return torch.from_numpy(np.array(array, order="C", copy=True))


def _gate(arrays: Mapping[str, NDArray[Any]], limits: Mapping[str, Any]) -> GateRecord:
    return GateRecord(tensors=tuple(sorted(arrays)), limits=dict(limits))


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` that takes its place when the block ends well."""
    part = folder.with_name(f".{folder.name}{TEMPORARY_SUFFIX}")
    old = folder.with_name(f".{folder.name}.old{TEMPORARY_SUFFIX}")
    try:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
            raise StorageError(f"{folder} exists and is not a bundle; choose another folder or empty it")
        for stale in (part, old):
            shutil.rmtree(stale, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        _replace(folder, part=part, old=old)
    except OSError as err:
        raise StorageError(
            f"cannot write {folder}: {err.strerror or err}; free space or change --output"
        ) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(folder: Path, *, part: Path, old: Path) -> None:
    if not folder.exists():
        os.replace(part, folder)
        return
    os.replace(folder, old)
    try:
        os.replace(part, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
