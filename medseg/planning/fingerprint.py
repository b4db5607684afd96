"""What the training data are like: grids, channels, structures and their values, one case at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case
from medseg.errors import ManifestError
from medseg.labels import LabelTable
from medseg.provenance import sha256_json, write_json
from medseg.volume import Volume

FINGERPRINT_VERSION = 1
# Values kept of all cases together, and of one case: enough for a percentile of 0.5 to be steady.
_SAMPLE = 1 << 21
_CASE_SAMPLE = 10_000
_LEAST_CASE_SAMPLE = 256
PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFingerprint:
    """One training case.

    Parameters
    ----------
    case_id : str
    shape : (I, J) or (I, J, K)
        As the file stores it.
    channels : int
    spacing_mm : tuple of float, or None
        Of the axes of `shape`; None where the file does not say.
    affine : (4, 4) nested tuple, or None
    patient_orientation : (str, str) or None
        As in `Volume`.
    modality, format : str
        As in `Volume` and its source.
    low, high : float
        Smallest and largest value of the image.
    whole : bool
        Whether the file stores whole numbers.
    zero_share : float
        Voxels in which every channel is 0, as a share of all.
    voxels : dict
        Label name -> voxels that can only be this label; the unions of schemes are written
        `lung_left|lung_right`. Labels without a voxel are left out.
    foreground_voxels : int
        Voxels that are some label, also where the mask does not tell which.
    """

    case_id: str
    shape: tuple[int, ...]
    channels: int
    spacing_mm: tuple[float, ...] | None
    affine: tuple[tuple[float, ...], ...] | None
    patient_orientation: tuple[str, str] | None
    modality: str
    format: str
    low: float
    high: float
    whole: bool
    zero_share: float
    voxels: Mapping[str, int]
    foreground_voxels: int

    def has(self, label: str) -> bool:
        """Whether some voxel is, or may be, this label."""
        return any(label in names.split("|") for names in self.voxels)

    @property
    def voxel_mm3(self) -> float | None:
        """Volume of a voxel (area in mm2 of a pixel); None where the spacing is unknown."""
        return None if self.spacing_mm is None else math.prod(self.spacing_mm)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, after a trip through JSON."""
        fields = dict(value)
        for name in ("shape", "spacing_mm", "patient_orientation"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        if fields["affine"] is not None:
            fields["affine"] = tuple(tuple(row) for row in fields["affine"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """Values of one channel in the foreground of all training cases."""

    low: float
    median: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureSize:
    """How large one label is in the cases that have it.

    Parameters
    ----------
    cases : int
        Training cases that have it.
    voxels_median, voxels_least : float
    mm3_median, mm3_least : float or None
        In mm3 (mm2 for pictures); None where a case does not say its spacing.
    """

    cases: int
    voxels_median: float = 0.0
    voxels_least: float = 0.0
    mm3_median: float | None = None
    mm3_least: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All training cases.

    Parameters
    ----------
    cases : tuple of CaseFingerprint
    intensities : tuple of ChannelStatistics
        By channel: percentiles 0.5, 50 and 99.5, mean and standard deviation in the foreground.
    structures : dict
        Label name -> StructureSize, for every label of the table.
    """

    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[ChannelStatistics, ...]
    structures: Mapping[str, StructureSize]

    @property
    def channels(self) -> int:
        """Channels of the images, the same for all cases."""
        return self.cases[0].channels

    @property
    def spatial_dims(self) -> int:
        """Axes of the images, the same for all cases."""
        return len(self.cases[0].shape)

    @property
    def smallest(self) -> str | None:
        """The label whose median size is the least; None where no label was seen."""
        seen = {name: size.voxels_median for name, size in self.structures.items() if size.cases}
        return min(seen, key=seen.__getitem__) if seen else None

    def missing(self) -> dict[str, tuple[str, ...]]:
        """Label name -> training cases whose masks have none of it; labels that all have are left out."""
        absent = {
            name: tuple(case.case_id for case in self.cases if not case.has(name)) for name in self.structures
        }
        return {name: cases for name, cases in absent.items() if cases}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "cases": [asdict(case) for case in self.cases],
            "intensities": [asdict(channel) for channel in self.intensities],
            "structures": {name: asdict(size) for name, size in self.structures.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(
            cases=tuple(CaseFingerprint.from_json(case) for case in value["cases"]),
            intensities=tuple(ChannelStatistics(**channel) for channel in value["intensities"]),
            structures={name: StructureSize(**size) for name, size in value["structures"].items()},
        )


def take_fingerprint(
    cases: Sequence[Case],
    *,
    table: LabelTable,
    read_image: Callable[[Sequence[Path]], Volume],
    read_label: Callable[[Path, Volume], NDArray[Any]],
    progress: Callable[[int, int, str], None] | None = None,
) -> Fingerprint:
    """Look at every training case, one in memory at a time.

    Parameters
    ----------
    cases : sequence of Case
        The training cases that have a mask, and none that is tested.
    table : LabelTable
    read_image, read_label : callable
        As for `data.dataset.prepare_cases`.
    progress : callable (done, total, case_id), optional

    Raises
    ------
    ManifestError
        No case, no labelled voxel in any of them, or cases with different numbers of axes or channels.
    """
    if not cases:
        raise ManifestError("no usable case with a mask is in the training split; check the list of cases")
    found: list[CaseFingerprint] = []
    samples: list[NDArray[np.float32]] = []
    kept = max(_LEAST_CASE_SAMPLE, min(_CASE_SAMPLE, _SAMPLE // len(cases)))
    for done, case in enumerate(cases, start=1):
        volume = read_image(case.images)
        label = read_label(_label_of(case), volume)
        sets = encode_mask(label, scheme=case.scheme, like=volume, table=table)[0]
        found.append(_case_fingerprint(case, volume, sets, table))
        samples.append(_foreground_values(volume.array, sets, table, count=kept))
        if progress is not None:
            progress(done, len(cases), case.case_id)
    _refuse_mixed(found)
    values = np.concatenate(samples, axis=1)
    if values.shape[1] == 0:
        raise ManifestError(
            f"the masks of all {len(cases)} training cases are empty, so there is nothing to learn; check "
            "the masks and their values in `labels`"
        )
    return Fingerprint(
        cases=tuple(found),
        intensities=tuple(_channel_statistics(channel) for channel in values),
        structures={name: _structure_size(name, found) for name in table.names[1:]},
    )


def cached_fingerprint(path: Path, key: Any, make: Callable[[], Fingerprint]) -> Fingerprint:
    """The fingerprint of a file that was written for the same key, or a new one, which is written.

    Parameters
    ----------
    key : JSON value
        What the fingerprint depends on: file hashes, label table, readers.
    """
    digest = sha256_json([FINGERPRINT_VERSION, key])
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            whole = known.pop("sha256") == sha256_json(known)
            if whole and known["key"] == digest:
                return Fingerprint.from_json(known["fingerprint"])
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # A damaged cache is made again.
    fingerprint = make()
    value = json.loads(json.dumps({"key": digest, "fingerprint": fingerprint.to_json()}))
    write_json(path, value | {"sha256": sha256_json(value)})
    return fingerprint


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise ManifestError(f"case {case.case_id} has no mask and cannot be trained on")
    return case.label


def _case_fingerprint(
    case: Case, volume: Volume, sets: NDArray[np.int16], table: LabelTable
) -> CaseFingerprint:
    array = volume.array
    counts = np.bincount(sets.ravel(), minlength=len(table.sets))
    affine = volume.affine
    return CaseFingerprint(
        case_id=case.case_id,
        shape=volume.spatial_shape,
        channels=int(array.shape[0]),
        spacing_mm=volume.spacing_mm,
        affine=None if affine is None else tuple(tuple(map(float, row)) for row in affine),
        patient_orientation=volume.patient_orientation,
        modality=volume.modality,
        format=volume.source.format,
        low=float(array.min()),
        high=float(array.max()),
        whole=_whole_numbers(array),
        zero_share=float(1 - np.count_nonzero(array.any(axis=0)) / max(1, sets.size)),
        voxels=_voxels(counts, table),
        foreground_voxels=int(counts[_foreground_sets(table)].sum()),
    )


def _voxels(counts: NDArray[np.intp], table: LabelTable) -> dict[str, int]:
    """Voxels by label, background and ignored voxels left out; unions as `lung_left|lung_right`."""
    return {
        "|".join(table.names[c] for c in sorted(members)): int(count)
        for count, members in zip(counts, table.sets, strict=True)
        if count and members != {0} and len(members) < table.class_count
    }


def _whole_numbers(array: NDArray[Any]) -> bool:
    """Whether the values are whole; pictures and radiographs come as floating point all the same."""
    if array.dtype.kind in "iu":
        return True
    part = array.reshape(-1)[:: max(1, array.size // 100_000)]
    return bool((part == np.rint(part)).all())


def _foreground_sets(table: LabelTable) -> NDArray[np.int64]:
    """Set indices whose voxels are certainly no background."""
    return np.flatnonzero(~table.set_matrix[:, 0])


def _foreground_values(
    array: NDArray[Any], sets: NDArray[np.int16], table: LabelTable, *, count: int
) -> NDArray[np.float32]:
    """(C, n) values at up to `count` labelled voxels, evenly spread over them."""
    wanted = np.zeros(len(table.sets), dtype=np.bool_)
    wanted[_foreground_sets(table)] = True
    places = np.flatnonzero(wanted[sets])
    places = places[:: max(1, -(-places.size // count))]
    return np.stack([channel.reshape(-1)[places] for channel in array]).astype(np.float32)


def _channel_statistics(values: NDArray[np.float32]) -> ChannelStatistics:
    low, median, high = (float(v) for v in np.percentile(values, PERCENTILES))
    exact = values.astype(np.float64)
    return ChannelStatistics(
        low=low, median=median, high=high, mean=float(exact.mean()), std=float(exact.std())
    )


def _structure_size(name: str, cases: Sequence[CaseFingerprint]) -> StructureSize:
    having = [case for case in cases if case.voxels.get(name)]
    if not having:
        return StructureSize(cases=0)
    voxels = [case.voxels[name] for case in having]
    volumes = [case.voxels[name] * (case.voxel_mm3 or math.nan) for case in having]
    known = not any(map(math.isnan, volumes))
    return StructureSize(
        cases=len(having),
        voxels_median=float(np.median(voxels)),
        voxels_least=float(min(voxels)),
        mm3_median=float(np.median(volumes)) if known else None,
        mm3_least=float(min(volumes)) if known else None,
    )


def _refuse_mixed(cases: Sequence[CaseFingerprint]) -> None:
    first = cases[0]
    for case in cases:
        if (len(case.shape), case.channels) != (len(first.shape), first.channels):
            raise ManifestError(
                f"case {case.case_id} has {len(case.shape)} axes and {case.channels} channels, case "
                f"{first.case_id} {len(first.shape)} and {first.channels}; train on images of one kind"
            )
