"""What a start from a bundle did: tensors, labels, and the settings that stood in the way. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.labels import LabelTable
from medseg.models.options import NetworkOptions

_FEW = 4
_NOT_SHAPE = frozenset({"start_from", "inflate", "dropout", "drop_path", "deep_supervision", "activation"})
_BY_AXIS = frozenset({"cell", "strides", "kernels"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What became of each tensor of the network.

    Parameters
    ----------
    bundle, version, weights_sha256 : str
        Where the weights come from.
    taken : tuple of str
        Tensors that are equal to those of the bundle.
    resized : mapping of str to str
        Tensors fitted to other channels, labels, kernels or axes, and in words what was fitted.
    new : tuple of str
        Tensors with fresh weights.
    unused : tuple of str
        Tensors of the bundle that went nowhere.
    labels : mapping of str to tuple of str
        For each class the classes of the bundle that its part of the head comes from; none: fresh.
    hints : tuple of str
        Settings that, given otherwise, would take more of the bundle.
    """

    bundle: str
    version: str = ""
    weights_sha256: str = ""
    taken: tuple[str, ...]
    resized: Mapping[str, str]
    new: tuple[str, ...]
    unused: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hints: tuple[str, ...] = ()

    @property
    def labels_taken(self) -> tuple[str, ...]:
        """Classes whose part of the head comes from the bundle."""
        return tuple(name for name, found in self.labels.items() if found)

    @property
    def labels_new(self) -> tuple[str, ...]:
        """Classes that start fresh."""
        return tuple(name for name, found in self.labels.items() if not found)

    @property
    def text(self) -> str:
        """The report in one line, for a log."""
        total = len(self.taken) + len(self.resized) + len(self.new)
        text = f"{len(self.taken)} of {total} tensors taken from {self.bundle}"
        text += f", {len(self.resized)} fitted" if self.resized else ""
        text += f", {len(self.new)} fresh" if self.new else ""
        text += f"; labels that start fresh: {', '.join(self.labels_new)}" if self.labels_new else ""
        return "; ".join((text, *self.hints))

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """The report as a table of what happened, to how many, and to which."""
        found = [("taken", str(len(self.taken)), _compact(self.taken))]
        by_how: dict[str, list[str]] = {}
        for name, how in self.resized.items():
            by_how.setdefault(how, []).append(name)
        found += [(f"fitted: {how}", str(len(names)), _compact(names)) for how, names in by_how.items()]
        found.append(("new", str(len(self.new)), _compact(self.new)))
        found.append(("not used", str(len(self.unused)), _compact(self.unused)))
        found.append(
            ("labels taken", str(len(self.labels_taken)), ", ".join(map(self._label, self.labels_taken)))
        )
        found.append(("labels new", str(len(self.labels_new)), ", ".join(self.labels_new)))
        return tuple(row for row in found if row[1] != "0")

    def _label(self, name: str) -> str:
        sources = self.labels[name]
        return name if sources == (name,) else f"{name} (from {' + '.join(sources)})"

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, for the run folder."""
        return {
            "bundle": self.bundle,
            "version": self.version,
            "weights_sha256": self.weights_sha256,
            "counts": {
                "taken": len(self.taken),
                "resized": len(self.resized),
                "new": len(self.new),
                "unused": len(self.unused),
            },
            "taken": list(self.taken),
            "resized": dict(self.resized),
            "new": list(self.new),
            "unused": list(self.unused),
            "labels": {name: list(found) for name, found in self.labels.items()},
            "hints": list(self.hints),
        }


def _compact(names: Iterable[str]) -> str:
    """A few names, or how many there are in each part of the network."""
    names = list(names)
    if len(names) <= _FEW:
        return ", ".join(names)
    parts: dict[str, int] = {}
    for name in names:
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def label_sources(table: LabelTable, other: LabelTable) -> dict[str, tuple[str, ...]]:
    """For each class of a table, background included, the classes of another that it may start from.

    In this order: the class of the same name; the members of the region of that name; the class that bears
    the name of the smallest region which the class is part of.
    """
    return {name: _sources(name, table, other) for name in table.names}


def _sources(name: str, table: LabelTable, other: LabelTable) -> tuple[str, ...]:
    if name in other.names:
        return (name,)
    if name in other.regions:
        return tuple(other.regions[name])
    around = [
        region for region, members in table.regions.items() if name in members and region in other.names
    ]
    return (min(around, key=lambda region: len(table.regions[region])),) if around else ()


def option_hints(options: NetworkOptions, other: NetworkOptions, *, same_axes: bool) -> tuple[str, ...]:
    """Settings that shape the networks and differ, with the value that would take more of the bundle."""
    if options.use != other.use:
        return (f"set model.use to {other.use} (found {options.use}) to take more",)
    wanted, found = (o.model_dump(mode="json") for o in (options, other))
    names = [n for n in wanted if n not in _NOT_SHAPE and (same_axes or n not in _BY_AXIS)]
    return tuple(
        f"set model.{name} to {_plain(found[name])} (found {_plain(wanted[name])}) to take more"
        for name in names
        if wanted[name] != found[name]
    )


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
