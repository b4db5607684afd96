"""LabelTable: which structures a task knows, how masks name them, what a partial mask leaves open.

A mask of a task is stored with the *values* of the table. Inside, stages use *class indices*
0..L-1 (0 is background, then the labels by value). Training labels use *set indices*: one entry of
`LabelTable.sets` says which classes a voxel may belong to. The first L sets are the single classes,
so a complete mask looks the same in both; a voxel of a mask that only says "lung" has the set
{lung_left, lung_right}, and an ignored voxel has the set of all classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import LabelError

BACKGROUND = "background"
MAX_VALUE = 65535
_SLAB = 1 << 22
Side = Literal["left", "right", "both", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept: scheme designator, value, meaning (DICOM PS3.3 8.8)."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One structure. `pair` names its mirror image on the other side of the body."""

    name: str
    value: int
    colour: str
    side: Side = "none"
    code: Code | None = None
    pair: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScheme:
    """How the masks of one source name things.

    Parameters
    ----------
    values : mapping of int to tuple of str
        Mask value -> the names that a voxel of this value may have; several where the mask does
        not tell. `background` is a name. Value 0 is background unless given.
    sides_by_position : bool
        Two lateral components of one value are told apart by where they lie: the one that lies
        towards the patient's left gets the left label.
    medial_open : mapping of str to float
        Label name -> share of the width of its mask, 0..1, from the body's midline, in which a voxel of
        this label may as well be background. For masks that go on behind the heart, where the task
        leaves the heart out.
    """

    name: str
    values: Mapping[int, tuple[str, ...]]
    sides_by_position: bool = False
    medial_open: Mapping[str, float] = field(default_factory=dict)

    def unions(self) -> tuple[tuple[str, ...], ...]:
        """Names that a voxel may have, for every kind of voxel that the scheme knows."""
        return (*self.values.values(), *((name, BACKGROUND) for name in self.medial_open))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """The structures of a task, its regions, and the schemes of its sources.

    Parameters
    ----------
    labels : tuple of Label
        By ascending value, background left out.
    regions : mapping of str to tuple of str
        Unions of labels that are evaluated and trained as one, such as lung = left + right.
    ignore : int or None
        Mask value whose voxels count neither for nor against anything.
    schemes : mapping of str to LabelScheme
        Other namings that masks of the task use.
    """

    labels: tuple[Label, ...]
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: int | None = None
    schemes: Mapping[str, LabelScheme] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [label.name for label in self.labels]
        values = [label.value for label in self.labels]
        if len(set(names)) != len(names) or len(set(values)) != len(values):
            raise LabelError(f"label names and values must differ, found {names} with {values}")
        if values != sorted(values) or (values and values[0] < 1):
            raise LabelError(f"label values must ascend from 1, found {values}")
        known = {BACKGROUND, *names}
        for label in self.labels:
            if label.pair is not None and self._pair_of(label) != label.name:
                raise LabelError(
                    f"label {label.name} names the pair {label.pair}, which does not name it back"
                )
        unions = [(f"region {n}", m) for n, m in self.regions.items()]
        unions += [(f"scheme {s.name}", m) for s in self.schemes.values() for m in s.unions()]
        for where, members in unions:
            unknown = [name for name in members if name not in known]
            if unknown or not members:
                raise LabelError(f"{where} names {unknown or 'nothing'}; known labels: {sorted(known)}")

    def _pair_of(self, label: Label) -> str | None:
        return next((other.pair for other in self.labels if other.name == label.pair), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by class index, background first."""
        return (BACKGROUND, *(label.name for label in self.labels))

    @property
    def class_count(self) -> int:
        """L: the labels and background."""
        return len(self.labels) + 1

    @property
    def values(self) -> NDArray[np.int64]:
        """(L,) mask value by class index."""
        return np.array([0, *(label.value for label in self.labels)], dtype=np.int64)

    def class_index(self, name: str) -> int:
        """Class index of a label name."""
        if name not in self.names:
            raise LabelError(f"no label {name!r}; known labels: {', '.join(self.names)}")
        return self.names.index(name)

    @property
    def sets(self) -> tuple[frozenset[int], ...]:
        """Classes by set index: the L single classes, the unions of schemes and their mirrors, all."""
        single = [frozenset({index}) for index in range(self.class_count)]
        unions = {
            frozenset(self.class_index(name) for name in members)
            for scheme in self.schemes.values()
            for members in scheme.unions()
        }
        mirror = self.mirror_classes
        unions |= {frozenset(int(mirror[c]) for c in union) for union in unions}
        unions.add(frozenset(range(self.class_count)))
        partial = sorted((u for u in unions if len(u) > 1), key=lambda u: (len(u), sorted(u)))
        return (*single, *partial)

    @property
    def set_matrix(self) -> NDArray[np.bool_]:
        """(S, L): whether set s admits class c."""
        matrix = np.zeros((len(self.sets), self.class_count), dtype=np.bool_)
        for index, members in enumerate(self.sets):
            matrix[index, list(members)] = True
        return matrix

    @property
    def mirror_classes(self) -> NDArray[np.int64]:
        """(L,) class index after the body is mirrored left to right."""
        return np.array(
            [0, *(self.class_index(label.pair or label.name) for label in self.labels)], dtype=np.int64
        )

    @property
    def mirror_sets(self) -> NDArray[np.int64]:
        """(S,) set index after the body is mirrored left to right."""
        mirror, sets = self.mirror_classes, self.sets
        return np.array([sets.index(frozenset(int(mirror[c]) for c in s)) for s in sets], dtype=np.int64)

    def region_classes(self) -> dict[str, tuple[int, ...]]:
        """Class indices of every evaluated structure: each label, then each region."""
        table: dict[str, tuple[int, ...]] = {
            label.name: (self.class_index(label.name),) for label in self.labels
        }
        table |= {n: tuple(self.class_index(m) for m in members) for n, members in self.regions.items()}
        return table

    def encode(self, mask: NDArray[Any], scheme: str | None = None) -> NDArray[np.int16]:
        """Mask values -> set indices, for training and evaluation.

        Parameters
        ----------
        mask : array of any shape
            Values of this table, or of `scheme` where given.
        scheme : str or None
            Name in `schemes`; sides by position are not resolved here.

        Raises
        ------
        LabelError
            A value that neither table nor scheme names, with its count, or values that are not whole.
        """
        whole = np.issubdtype(mask.dtype, np.integer) or mask.dtype == np.bool_
        if not whole and (not np.isfinite(mask).all() or (mask != np.round(mask)).any()):
            raise LabelError("a mask holds whole numbers, found fractions or NaN")
        sets = self.sets
        lookup = self._value_sets(scheme)
        values = mask.astype(np.int64)
        if values.size == 0:
            return np.zeros(mask.shape, dtype=np.int16)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > MAX_VALUE:
            raise LabelError(f"mask values must lie in 0..{MAX_VALUE}, found {low}..{high}")
        counts = np.bincount(values.ravel(), minlength=high + 1)
        found = [int(value) for value in np.flatnonzero(counts)]
        unknown = [value for value in found if value not in lookup]
        if unknown:
            naming = f"scheme {scheme}" if scheme else "the label table"
            raise LabelError(
                f"mask values {unknown[:5]} are not named by {naming} "
                f"(voxels by value: { {value: int(counts[value]) for value in unknown[:5]} }); named: {sorted(lookup)}"
            )
        indices = np.zeros(high + 1, dtype=np.int16)
        for value in found:
            indices[value] = sets.index(lookup[value])
        return np.asarray(indices[values], dtype=np.int16)

    def class_indices(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Mask values -> class indices, for masks that are complete; little memory beside the result.

        Parameters
        ----------
        mask : integer array of any shape

        Returns
        -------
        array of the same shape and memory order
            uint8, uint16 from 256 classes on.

        Raises
        ------
        LabelError
            A value that the table does not name, or the value that is to be ignored.
        """
        kind = np.uint8 if self.class_count <= 256 else np.uint16
        low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
        if low < 0 or high > MAX_VALUE:
            raise LabelError(f"mask values must lie in 0..{MAX_VALUE}, found {low}..{high}")
        known = np.zeros(high + 1, dtype=np.bool_)
        lookup = np.zeros(high + 1, dtype=kind)
        for index, value in enumerate(self.values):
            if value <= high:
                known[value], lookup[value] = True, index
        classes = np.empty_like(mask, dtype=kind)
        unknown: set[int] = set()
        slabs = np.array_split(np.arange(mask.shape[-1]), max(1, mask.size // _SLAB)) if mask.ndim else []
        for slab in slabs:
            part = mask[..., slab[0] : slab[-1] + 1] if slab.size else mask[..., :0]
            if not known[part].all():
                unknown |= set(np.unique(part[~known[part]]).tolist())
            classes[..., slab[0] : slab[-1] + 1] = lookup[part]
        if unknown:
            raise LabelError(
                f"mask values {sorted(unknown)[:5]} are not named by the label table; named: {self.values.tolist()}"
            )
        return classes

    def _value_sets(self, scheme: str | None) -> dict[int, frozenset[int]]:
        everything = frozenset(range(self.class_count))
        if scheme is None:
            lookup = {int(value): frozenset({index}) for index, value in enumerate(self.values)}
        elif scheme in self.schemes:
            lookup = {0: frozenset({0})}
            lookup |= {
                value: frozenset(self.class_index(name) for name in members)
                for value, members in self.schemes[scheme].values.items()
            }
        else:
            raise LabelError(f"no label scheme {scheme!r}; known: {sorted(self.schemes)}")
        if self.ignore is not None:
            lookup[self.ignore] = everything
        return lookup

    def decode(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Class indices -> mask values, in the smallest integer type; the array itself where they are the same."""
        values = self.values
        if (values == np.arange(len(values))).all():
            return classes
        values = values.astype(np.min_scalar_type(int(values.max())))
        decoded = np.empty_like(classes, dtype=values.dtype)
        # NumPy makes 64-bit numbers of what it looks up with.
        for rows in _slabs(classes):
            decoded[rows] = values[classes[rows]]
        return decoded

    def count(self, classes: NDArray[Any]) -> NDArray[np.int64]:
        """(L,) voxels of each class in an array of class indices.

        Raises
        ------
        LabelError
            A class index that the table does not have.
        """
        counts = np.zeros(self.class_count, dtype=np.int64)
        for rows in _slabs(classes):
            part = classes[rows].ravel(order="K")
            if part.size and not 0 <= int(part.min()) <= int(part.max()) < self.class_count:
                raise LabelError(
                    f"class indices must be 0..{self.class_count - 1}, found {int(part.min())}..{int(part.max())}"
                )
            counts += np.bincount(part, minlength=self.class_count)
        return counts

    def to_json(self) -> dict[str, Any]:
        """The table as plain JSON values, for bundles, sidecars and run records."""
        return {
            "labels": [
                {
                    "name": label.name,
                    "value": label.value,
                    "colour": label.colour,
                    "side": label.side,
                    "pair": label.pair,
                    "code": None
                    if label.code is None
                    else {
                        "scheme": label.code.scheme,
                        "value": label.code.value,
                        "meaning": label.code.meaning,
                    },
                }
                for label in self.labels
            ],
            "regions": {name: list(members) for name, members in self.regions.items()},
            "ignore": self.ignore,
            "schemes": {
                scheme.name: {
                    "values": {str(value): list(members) for value, members in scheme.values.items()},
                    "sides_by_position": scheme.sides_by_position,
                    "medial_open": dict(scheme.medial_open),
                }
                for scheme in self.schemes.values()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelTable:
        """The table that `to_json` wrote."""
        labels = tuple(
            Label(**{**item, "code": Code(**item["code"]) if item.get("code") else None})
            for item in value["labels"]
        )
        schemes = {
            name: LabelScheme(
                name=name,
                values={int(v): tuple(members) for v, members in item["values"].items()},
                sides_by_position=bool(item.get("sides_by_position", False)),
                medial_open={n: float(share) for n, share in item.get("medial_open", {}).items()},
            )
            for name, item in value.get("schemes", {}).items()
        }
        regions = {name: tuple(members) for name, members in value.get("regions", {}).items()}
        return cls(labels=labels, regions=regions, ignore=value.get("ignore"), schemes=schemes)


def _slabs(array: NDArray[Any]) -> Iterator[tuple[slice, ...]]:
    """Boxes of about a million voxels along the axis that is slowest in memory."""
    if array.ndim == 0 or array.size == 0:
        return
    axis = int(np.argmax(np.abs(array.strides)))
    step = max(1, _SLAB * array.shape[axis] // array.size)
    for start in range(0, array.shape[axis], step):
        yield (*(slice(None) for _ in range(axis)), slice(start, start + step))
