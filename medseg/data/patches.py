"""Which part of a prepared image a training sample shows.

The voxels that a sample may be centred on are found once, when a case is prepared: at most
`PLACES_PER_SET` of each label set, so that no volume is scanned while a network trains. Every choice is
a function of the sample's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.labels import LabelTable

PLACES_PER_SET = 2000
JITTER = 0.25
# Apart from the streams of the augmentation steps, which are numbered from 0.
_STREAM = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Some voxels of each label set of one case.

    Parameters
    ----------
    sets : tuple of int
        Set indices that are present, ascending; background and the ignored set are left out.
    counts : tuple of int
        Voxels of each of these sets in the whole case.
    offsets : tuple of int
        Rows `offsets[n]` to `offsets[n + 1]` of `voxels` belong to `sets[n]`; one entry more than `sets`.
    voxels : (N, d) int32 array
        Voxel indices.
    """

    sets: tuple[int, ...]
    counts: tuple[int, ...]
    offsets: tuple[int, ...]
    voxels: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one sample shows of an image, and what is known of the image without reading it.

    Parameters
    ----------
    size, start : tuple of int, or None
        The patch and its first voxel, which may be negative where the patch is larger than the image;
        None: the whole image.
    spacing_mm : tuple of float, or None
    minima : tuple of float, or None
        Least value of each channel of the whole image.
    """

    size: tuple[int, ...] | None = None
    start: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    minima: tuple[float, ...] | None = None


def find_places(label: NDArray[np.int16], *, ignored_set: int, seed: int) -> Places:
    """Voxels of every label set, at most `PLACES_PER_SET` of each, drawn at random.

    Parameters
    ----------
    label : (1, *spatial) int16 array
        Set indices of the label table.
    ignored_set : int
        The set of all classes, which says nothing.
    seed : int
        Not negative; the same seed gives the same places.
    """
    flat = label.reshape(-1)
    where = np.flatnonzero((flat != 0) & (flat != ignored_set))
    where = where[np.argsort(flat[where], kind="stable")]
    sets, first, counts = np.unique(flat[where], return_index=True, return_counts=True)
    chosen = [
        _some(where[start : start + count], np.random.default_rng([seed, int(index)]))
        for index, start, count in zip(sets, first, counts, strict=True)
    ]
    joined = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    voxels = np.stack(np.unravel_index(joined, label.shape[1:]), axis=1).astype(np.int32)
    return Places(
        sets=tuple(int(s) for s in sets),
        counts=tuple(int(c) for c in counts),
        offsets=(0, *np.cumsum([len(part) for part in chosen]).tolist()),
        voxels=voxels,
    )


def _some(where: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    if len(where) <= PLACES_PER_SET:
        return where
    return np.sort(random.choice(where, PLACES_PER_SET, replace=False))


def structure_sets(table: LabelTable) -> tuple[tuple[int, ...], ...]:
    """Set indices that lie surely in each structure: every label, then every region that is no label.

    A voxel that a mask calls "left or right" belongs to the region of both and to neither label.
    """
    found = []
    for members in table.region_classes().values():
        inside = tuple(index for index, classes in enumerate(table.sets) if classes <= set(members))
        if inside and 0 not in members and inside not in found:
            found.append(inside)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSampler:
    """Draws the patch of a sample: anywhere in the image, or around a voxel of some structure.

    Parameters
    ----------
    size : tuple of int
        Voxels of the prepared grid along each axis.
    foreground : float
        Share of the samples that are centred on a structure, 0 to 1.
    structures : tuple of tuple of int
        Set indices of each structure, as from `structure_sets`; those that a case holds are drawn with
        equal chance, so that a small one is seen as often as a large one.
    """

    size: tuple[int, ...]
    foreground: float
    structures: tuple[tuple[int, ...], ...] = ()

    def is_centred(self, number: int) -> bool:
        """Whether sample `number`, counted from the start of the training, is centred on a structure.

        The centred samples lie evenly among the others: any n samples in a row hold n * foreground of
        them, give or take one, whatever the batch size and the number of training processes.
        """
        return floor((number + 1) * self.foreground) > floor(number * self.foreground)

    def start(
        self, shape: Sequence[int], places: Places | None, *, centred: bool, seed: int, case_id: str
    ) -> tuple[int, ...]:
        """First voxel of the patch, negative where the image is smaller than the patch.

        Parameters
        ----------
        shape : sequence of int
            Spatial shape of the image. A patch reaches beyond it only where the image is smaller, and
            then on both sides alike.
        places : Places or None
        centred : bool
            Whether to look for a structure; a case without any gives a patch from anywhere.
        seed : int
            Not negative.
        case_id : str
            For messages.

        Raises
        ------
        ConfigError
            The patch has another number of axes than the image.
        """
        if len(shape) != len(self.size):
            raise ConfigError(
                f"training.patch_size {list(self.size)} names {len(self.size)} axes, "
                f"the prepared image of case {case_id} has {len(shape)}"
            )
        random = np.random.default_rng([seed, _STREAM])
        size, room = np.asarray(self.size), np.asarray(shape) - self.size
        voxel = self._voxel(places, random) if centred and places is not None else None
        if voxel is None:
            begin = random.integers(0, np.maximum(room, 0) + 1)
        else:
            shift = random.uniform(-JITTER, JITTER, len(size)) * size
            begin = np.clip(np.round(voxel - size / 2 + shift), 0, np.maximum(room, 0)).astype(np.int64)
        return tuple(int(b) for b in np.where(room > 0, begin, room // 2))

    def _voxel(self, places: Places, random: np.random.Generator) -> NDArray[np.int32] | None:
        counts = dict(zip(places.sets, places.counts, strict=True))
        present = [s for s in ([i for i in members if i in counts] for members in self.structures) if s]
        if not present:
            return None
        members = present[int(random.integers(len(present)))]
        weights = np.array([counts[index] for index in members], dtype=np.float64)
        chosen = members[int(random.choice(len(members), p=weights / weights.sum()))]
        row = places.sets.index(chosen)
        return np.asarray(places.voxels[random.integers(places.offsets[row], places.offsets[row + 1])])

    def describe(self) -> dict[str, object]:
        """What the patches depend on, as plain values for settings digests."""
        return {
            "size": list(self.size),
            "foreground": self.foreground,
            "structures": [list(members) for members in self.structures],
        }
