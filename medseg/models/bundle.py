"""Bundle: trained weights and all that is needed to use them, checked before use.

A folder with bundle.json (`bundle_record.BundleRecord`), model.safetensors and CARD.md; an ensemble has
model-0.safetensors, model-1.safetensors and so on. There is no pickle and no class path in it: the network is
named by its options and built by `registry`.

torch and safetensors are imported by the functions that touch weights, so that listing models takes no time.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from medseg.errors import BundleError, LabelError
from medseg.labels import LabelTable
from medseg.models.bundle_record import FORMAT_VERSIONS, BundleRecord, MemberRecord, MetricRecord
from medseg.models.options import NetworkOptions
from medseg.provenance import sha256_file, sha256_json

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.models.network import SegmentationNetwork

RECORD = "bundle.json"
CARD = "CARD.md"
GATE_PREFIX = "gate."
_MOST_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose record has been read and checked; weights are read when asked for.

    Parameters
    ----------
    folder : Path
    record : BundleRecord
        All of bundle.json.
    table : LabelTable
        L classes, in the order of the network's output.
    """

    folder: Path
    record: BundleRecord
    table: LabelTable

    @property
    def name(self) -> str:
        """Name and, for shipped bundles, address."""
        return self.record.name

    @property
    def version(self) -> str:
        """Version of the model, three numbers."""
        return self.record.version

    @property
    def network(self) -> NetworkOptions:
        """Which network, and its arguments."""
        return self.record.network

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.record.spatial_dims

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.record.in_channels

    @property
    def preprocess(self) -> tuple[dict[str, Any], ...]:
        """Preprocessing steps as JSON, in order."""
        return self.record.preprocess

    @property
    def inference(self) -> dict[str, Any]:
        """Inference options as JSON."""
        return self.record.inference

    @property
    def postprocess(self) -> tuple[dict[str, Any], ...]:
        """Clean-up steps as JSON, in order."""
        return self.record.postprocess

    @property
    def metrics(self) -> tuple[MetricRecord, ...]:
        """Results on held-out cases."""
        return self.record.metrics

    @property
    def licence(self) -> str:
        """SPDX identifier of the licence of the weights."""
        return self.record.licence

    @property
    def members(self) -> tuple[MemberRecord, ...]:
        """The networks of an ensemble; empty for a bundle of one."""
        return self.record.members

    @property
    def member_count(self) -> int:
        """Number of networks, at least 1."""
        return len(self.record.weight_files)

    @property
    def weights_sha256(self) -> str:
        """What the weights must hash to; for an ensemble the hash of its members' hashes, in their order."""
        hashes = [self.record.files[name] for name in self.record.weight_files]
        return hashes[0] if len(hashes) == 1 else sha256_json(hashes)

    @property
    def weights_bytes(self) -> int:
        """Size of one member in memory, float32, as its file tells; 0 where the file is missing."""
        path = self.folder / self.record.weight_files[0]
        size = path.stat().st_size if path.is_file() else 0
        return size * (2 if self.record.weights_precision == "fp16" else 1)

    def member(self, fold: int) -> Bundle:
        """The bundle with the one network that never saw a fold.

        Raises
        ------
        BundleError
            It is no ensemble, or has no such member.
        """
        found = next((member for member in self.members if member.fold == fold), None)
        if found is None:
            folds = ", ".join(str(member.fold) for member in self.members)
            self._refuse(
                f"there is no member of fold {fold}; "
                + (f"it has the folds {folds}" if folds else "it is a single network, leave out --fold")
            )
        gate = self.record.gate
        if gate is not None and found is not self.members[0]:
            # Its arrays describe the features of the first member.
            gate = gate.model_copy(update={"tensors": ()})
        files = {found.file: self.record.files[found.file]}
        changes = {"members": (found,), "files": files, "gate": gate}
        return replace(self, record=self.record.model_copy(update=changes))

    @property
    def card(self) -> str:
        """Text of CARD.md, made from the record where the file is missing."""
        path = self.folder / CARD
        if path.is_file():
            return path.read_text(encoding="utf-8")
        from medseg.models.card import model_card

        return model_card(self.record)

    def describe(self) -> dict[str, Any]:
        """What a list of models says about it, as JSON values."""
        record = self.record
        return {
            "name": record.name,
            "version": record.version,
            "description": record.description,
            "licence": record.licence,
            "intended_use": record.intended_use,
            "network": record.network.use,
            "members": self.member_count,
            "spatial_dims": record.spatial_dims,
            "structures": list(self.table.names[1:]),
            "metrics": [metric.model_dump(mode="json") for metric in record.metrics],
            "weights_sha256": self.weights_sha256,
        }

    @property
    def facts(self) -> dict[str, str]:
        """Name, version, weights and licence, for records and DICOM objects."""
        return {
            "name": self.name,
            "version": self.version,
            "weights_sha256": self.weights_sha256,
            "licence": self.licence,
        }

    def check_weights(self) -> None:
        """Compare the bytes of every weights file with the record, without loading them.

        Raises
        ------
        BundleError
            A file is missing, or is not the one of the record.
        """
        for name in self.record.weight_files:
            try:
                found = sha256_file(self.folder / name)
            except OSError as err:
                raise BundleError(
                    f"{self.folder / name} cannot be read: {err.strerror or err}; fetch the bundle again"
                ) from err
            self._check_digest(name, found)

    def load_network(self, member: int = 0) -> SegmentationNetwork:
        """The trained network, float32, in evaluation mode, on the CPU; of an ensemble one member by position.

        Raises
        ------
        BundleError
            The weights are missing, damaged, not finite, or do not fit the network of the record.
        """
        from medseg.models.registry import build_network

        network = build_network(
            self.network,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            class_count=self.record.channel_count,
            seed=0,
        )
        state = self.load_state(member)
        self._check_fit(network, state, self.record.weight_files[member])
        network.load_state_dict(state, strict=True)
        return network.eval()

    def load_state(self, member: int = 0) -> dict[str, Tensor]:
        """Weights by name, floating-point ones as float32; digest and finiteness are checked."""
        import torch
        from safetensors.torch import load

        name = self.record.weight_files[member]
        tensors = {n: t for n, t in self._tensors(load, name).items() if not n.startswith(GATE_PREFIX)}
        broken = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
        if broken:
            self._refuse(f"{len(broken)} of {len(tensors)} tensors hold NaN or infinity, first {broken[0]}")
        return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}

    def load_gate(self) -> dict[str, NDArray[Any]]:
        """Arrays of the input gate by name, such as mean (F,) and precision (F, F); empty without a gate.

        Those of an ensemble lie beside the weights of its first member, whose features they describe.

        Raises
        ------
        BundleError
            The file is damaged, or its arrays are not those that the record names, or not finite.
        """
        if self.record.gate is None:
            return {}
        from safetensors.numpy import load

        name = self.record.weight_files[0]
        tensors = self._tensors(load, name).items()
        found = {n.removeprefix(GATE_PREFIX): array for n, array in tensors if n.startswith(GATE_PREFIX)}
        named = set(self.record.gate.tensors)
        if set(found) != named:
            self._refuse(f"gate names the arrays {sorted(named)}, {name} holds {sorted(found)}")
        if not all(np.isfinite(array).all() for array in found.values()):
            self._refuse("the arrays of the gate hold NaN or infinity")
        return found

    def _tensors(self, load: Callable[[bytes], dict[str, Any]], name: str) -> dict[str, Any]:
        from safetensors import SafetensorError

        try:
            return load(self._weights(name))
        except SafetensorError as err:
            self._refuse(f"{name} is not a safetensors file: {err}")

    def _weights(self, name: str) -> bytes:
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as err:
            raise BundleError(
                f"{path} cannot be read: {err.strerror or err}; fetch the bundle again"
            ) from err
        self._check_digest(name, hashlib.sha256(data).hexdigest())
        return data

    def _check_digest(self, name: str, found: str) -> None:
        expected = self.record.files[name]
        if found != expected:
            self._refuse(
                f"{name} has SHA-256 {found[:12]}..., the record says {expected[:12]}...; "
                "the file was changed or cut off, fetch the bundle again"
            )

    def _check_fit(self, network: SegmentationNetwork, state: Mapping[str, Tensor], file: str) -> None:
        expected = network.state_dict()
        labels = f"{self.table.class_count} classes ({', '.join(self.table.names)})"
        for head in network.head_names:
            name = f"{head}.bias"
            if name in state and state[name].shape != expected[name].shape:
                cell = expected[name].shape[0] // network.class_count
                self._refuse(
                    f"the label table has {labels}, {file} has {state[name].shape[0] / cell:g} in {name}"
                )
        missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
        if missing or extra:
            self._refuse(
                f"{file} does not fit network {self.network.use}: the network needs {_some(missing)} that "
                f"the file lacks, the file has {_some(extra)} that the network lacks"
            )
        for name, tensor in sorted(state.items()):
            if tensor.shape != expected[name].shape:
                self._refuse(
                    f"{file} does not fit network {self.network.use}: {name} is {tuple(tensor.shape)} in "
                    f"the file, {tuple(expected[name].shape)} in the network"
                )

    def _refuse(self, text: str) -> NoReturn:
        raise BundleError(f"bundle {self.name} in {self.folder}: {text}")


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shipped_folder() -> Path:
    """Where the bundles lie that are installed with medseg."""
    return Path(str(resources.files("medseg") / "bundles"))


def list_bundles() -> tuple[Bundle, ...]:
    """The bundles that are installed with medseg, by name.

    Raises
    ------
    BundleError
        One of them is damaged.
    """
    return tuple(_read(shipped_folder() / name) for name in _shipped_names())


def _shipped_names() -> list[str]:
    folder = shipped_folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}")) if folder.is_dir() else []


def read_bundle(name_or_path: str | Path) -> Bundle:
    """A bundle by shipped name, or by the path of its folder; a shipped name wins over a folder so called.

    The record is read and checked; weights are not touched.

    Raises
    ------
    BundleError
        There is no such bundle (the message lists those at hand), or its record is damaged, of another
        format version, or not consistent.
    """
    text, names = os.fspath(name_or_path), _shipped_names()
    if text in names:
        return _read(shipped_folder() / text)
    path = Path(text)
    path = path.parent if path.name == RECORD else path
    if (path / RECORD).is_file():
        return _read(path)
    at_hand = f"shipped: {', '.join(names) or 'none'}"
    if path.is_dir():
        raise BundleError(f"{path} is a folder without {RECORD}, so it is not a bundle; {at_hand}")
    close = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise BundleError(
        f"there is no bundle {text}: neither shipped nor a folder; {hint}{at_hand}; "
        "a trained bundle is given by its path"
    )


def _read(folder: Path) -> Bundle:
    path = folder / RECORD
    try:
        if path.stat().st_size > _MOST_RECORD_BYTES:
            raise BundleError(
                f"{path} is larger than {_MOST_RECORD_BYTES >> 20} MiB; it is not a bundle record"
            )
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as err:
        raise BundleError(f"{path} cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path} is not valid JSON: {err}; fetch the bundle again") from err
    version = value.get("format_version") if isinstance(value, dict) else None
    if version not in FORMAT_VERSIONS:
        raise BundleError(
            f"{path} has format_version {version!r}, this medseg reads {' and '.join(map(str, FORMAT_VERSIONS))}; "
            "update medseg or convert the bundle"
        )
    try:
        record = BundleRecord.model_validate(value)
        return Bundle(folder=folder, record=record, table=record.table())
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise BundleError(f"{path}: {where}: {first['msg']} ({err.error_count()} problems in all)") from err
    except LabelError as err:
        raise BundleError(f"{path}: labels: {err}") from err


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
