"""Which regions of a label table are looked at as wholes, and how their probabilities share memory. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.labels import LabelTable

Classes = tuple[int, ...]
"""Class indices of a region, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionPlan:
    """Regions of several labels, sorted into layers whose regions share no label.

    A voxel lies in at most one region of a layer, so a layer keeps one number a voxel, however many regions it has.

    Parameters
    ----------
    names : mapping of str to tuple of int
        Classes of each region that has more than one, in ascending order.
    layers : tuple of tuple of tuple of int
        The same classes, each once.
    """

    names: Mapping[str, Classes] = field(default_factory=dict)
    layers: tuple[tuple[Classes, ...], ...] = ()

    @classmethod
    def of(cls, table: LabelTable) -> UnionPlan:
        """The regions of a table."""
        known = table.region_classes()
        names = {name: tuple(sorted(set(known[name]))) for name in table.regions}
        names = {name: classes for name, classes in names.items() if len(classes) > 1}
        layers: list[list[Classes]] = []
        for classes in dict.fromkeys(names.values()):
            room = (layer for layer in layers if not any(set(classes) & set(other) for other in layer))
            layer = next(room, None)
            if layer is None:
                layers.append([classes])
            else:
                layer.append(classes)
        return cls(names=names, layers=tuple(map(tuple, layers)))

    @property
    def voxel_bytes(self) -> int:
        """Memory of the layers for each voxel."""
        return 2 * len(self.layers)

    def layer(self, classes: Classes) -> int:
        """Number of the layer that a region lies in."""
        return next(number for number, layer in enumerate(self.layers) if classes in layer)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "names": {name: list(classes) for name, classes in self.names.items()},
            "layers": [[list(classes) for classes in layer] for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UnionPlan:
        """The plan that `to_json` wrote."""
        return cls(
            names={name: tuple(classes) for name, classes in value["names"].items()},
            layers=tuple(tuple(tuple(classes) for classes in layer) for layer in value["layers"]),
        )
