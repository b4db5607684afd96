"""Write an ensemble: one bundle whose members are the networks of several bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from medseg.errors import BundleError
from medseg.models.bundle import CARD, GATE_PREFIX, RECORD, Bundle, read_bundle
from medseg.models.bundle_record import (
    ENSEMBLE_VERSION,
    BundleRecord,
    MemberRecord,
    TrainingRecord,
)
from medseg.models.bundle_writer import gate_tensors, stored_weights, whole_folder
from medseg.models.card import model_card
from medseg.provenance import whole_file, write_json, write_text

_ALIKE = (
    "network",
    "weights_precision",
    "spatial_dims",
    "in_channels",
    "labels",
    "regions",
    "preprocess",
    "inference",
    "postprocess",
    "recognise",
    "window",
)


def write_ensemble(
    folder: Path,
    members: Mapping[int, Bundle],
    *,
    cases: int,
    patients: int | None,
    settings_sha256: str,
) -> Bundle:
    """Write one bundle with the networks of several, one file each; one is in memory at a time.

    The gate is that of the first member, whose features the ensemble looks at. The same members give
    the same bytes of weights.

    Parameters
    ----------
    folder : Path
        Absent, empty, or a bundle.
    members : mapping of int to Bundle
        Fold -> bundle of one network; all of the same network, labels, preprocessing and inference.
    cases, patients : int, int or None
        Training images of all folds together, each counted once.
    settings_sha256 : str

    Raises
    ------
    BundleError
        No member, members that differ, or weights that are not finite.
    StorageError
        `folder` holds something else, or cannot be written.
    """
    bundles = {fold: members[fold] for fold in sorted(members)}
    first = _checked(bundles)
    with whole_folder(folder) as part:
        files = {
            _file(fold): _write_member(part / _file(fold), bundle, gated=bundle is first)
            for fold, bundle in bundles.items()
        }
        value = first.record.to_json() | {
            "format_version": ENSEMBLE_VERSION,
            "members": [_member(fold, bundle).model_dump(mode="json") for fold, bundle in bundles.items()],
            "training": _training(bundles, cases, patients, settings_sha256).model_dump(mode="json"),
            "metrics": [],
            "files": files,
        }
        # That of one member does not hold for the mean of all.
        value.pop("calibration", None)
        record = BundleRecord.model_validate(value)
        write_json(part / RECORD, record.to_json())
        write_text(part / CARD, model_card(record))
        written = read_bundle(part)
        # Nothing is published that cannot be loaded again.
        for position in range(written.member_count):
            written.load_network(position)
    return read_bundle(folder)


def _file(fold: int) -> str:
    return f"model-{fold}.safetensors"


def _checked(bundles: Mapping[int, Bundle]) -> Bundle:
    """The first member, once all are found to be alike."""
    if not bundles:
        raise BundleError("an ensemble needs one member or more, found none")
    fold, first = next(iter(bundles.items()))
    for other, bundle in bundles.items():
        if bundle.members:
            raise BundleError(f"member {other} is an ensemble itself; give bundles of one network")
        differs = [name for name in _ALIKE if getattr(bundle.record, name) != getattr(first.record, name)]
        if differs:
            raise BundleError(
                f"the members of folds {fold} and {other} differ in {', '.join(differs)}; an ensemble needs the same "
                "network, labels and preprocessing in all, so train all folds with the same settings"
            )
    return first


def _write_member(path: Path, bundle: Bundle, *, gated: bool) -> str:
    precision = bundle.record.weights_precision
    weights: dict[str, Any] = stored_weights(bundle.load_state(), bundle.name, precision)
    arrays = gate_tensors(bundle.load_gate()) if gated else {}
    data = save(weights | {GATE_PREFIX + name: tensor for name, tensor in arrays.items()})
    with whole_file(path) as part:
        part.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _member(fold: int, bundle: Bundle) -> MemberRecord:
    training = bundle.record.training
    return MemberRecord(
        file=_file(fold),
        fold=fold,
        cases=training.cases,
        patients=training.patients,
        epochs=training.epochs,
        seconds=training.seconds,
    )


def _training(
    bundles: Mapping[int, Bundle], cases: int, patients: int | None, settings_sha256: str
) -> TrainingRecord:
    records = [bundle.record.training for bundle in bundles.values()]
    return records[0].model_copy(
        update={
            "cases": cases,
            "patients": patients,
            "epochs": max(record.epochs for record in records),
            "seconds": round(sum(record.seconds for record in records), 1),
            "settings_sha256": settings_sha256,
            "input_ranges": _widest([record.input_ranges for record in records]),
        }
    )


def _widest(ranges: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """From the lowest to the highest value of any member; only what all of them tell."""
    names = [name for name in ranges[0] if all(name in one for one in ranges)]
    return {name: (min(r[name][0] for r in ranges), max(r[name][1] for r in ranges)) for name in names}
