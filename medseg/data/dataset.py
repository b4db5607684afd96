"""Cases made ready for the network, once: read, preprocessed, encoded, kept on disk as plain arrays.

The cache holds, for each case, its image, its label and a sample of its labelled voxels (see
`medseg.data.cache`). The key is a hash of the files' bytes, the label table and the preprocessing
settings, so that a change of any makes a new entry; the JSON holds the hashes of the arrays, so that
a damaged or half-written entry is seen and made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.data.cache import (
    PreparedEntry,
    map_array,
    read_entry,
    sweep_cache,
    write_array,
    write_entry,
)
from medseg.data.encoding import encode_mask
from medseg.data.patches import Places, find_places
from medseg.errors import InputError, ManifestError, MedsegError, StorageError
from medseg.geometry import GridMap
from medseg.labels import LabelTable
from medseg.privacy import safe_name
from medseg.provenance import sha256_file, sha256_json
from medseg.volume import Volume

CACHE_VERSION = 2


class CaseFiles(Protocol):
    """What is needed of a manifest case."""

    @property
    def case_id(self) -> str: ...
    @property
    def images(self) -> tuple[Path, ...]: ...
    @property
    def label(self) -> Path | None: ...
    @property
    def scheme(self) -> str | None: ...


class PreparedLike(Protocol):
    """What is needed of a preprocessed image: its array, its grid, its spacing."""

    @property
    def array(self) -> NDArray[np.float32]: ...
    @property
    def grid(self) -> GridMap: ...
    @property
    def spacing_mm(self) -> tuple[float, ...] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """One case on the network's grid.

    Parameters
    ----------
    case_id : str
    image : (C, *spatial) float32 array
    label : (1, *spatial) int16 array or None
        Set indices of the label table; None where the case has no mask.
    spacing_mm : tuple of float, or None
    minima : tuple of float, or None
        Least value of each channel; None where it was not computed.
    places : Places or None
        Labelled voxels to centre patches on.
    """

    case_id: str
    image: NDArray[np.float32]
    label: NDArray[np.int16] | None
    spacing_mm: tuple[float, ...] | None = None
    minima: tuple[float, ...] | None = None
    places: Places | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFailure:
    """A case that could not be prepared, and why."""

    case_id: str
    error: MedsegError

    @property
    def text(self) -> str:
        """The reason, one sentence."""
        return str(self.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSet:
    """Prepared cases in the order they were given; arrays are memory-mapped when asked for."""

    entries: tuple[PreparedEntry, ...]
    failures: tuple[CaseFailure, ...] = ()
    made: int = 0

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Case ids by position."""
        return tuple(entry.case_id for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> PreparedCase:
        entry = self.entries[index]
        return PreparedCase(
            case_id=entry.case_id,
            image=map_array(entry.image, entry.case_id),
            label=None if entry.label is None else map_array(entry.label, entry.case_id),
            spacing_mm=entry.spacing_mm,
            minima=entry.minima,
            places=_places(entry),
        )

    def subset(self, case_ids: Iterable[str]) -> PreparedSet:
        """The cases named, in the order of this set.

        Raises
        ------
        ManifestError
            A name that is not in the set; the message says why where it failed earlier.
        """
        wanted = set(case_ids)
        missing = sorted(wanted - set(self.case_ids))
        if missing:
            reasons = {failure.case_id: failure.text for failure in self.failures}
            raise ManifestError(
                f"case {missing[0]} is not among the {len(self)} prepared cases"
                + (f": {reasons[missing[0]]}" if missing[0] in reasons else "")
            )
        return replace(self, entries=tuple(e for e in self.entries if e.case_id in wanted))

    def fingerprint(self) -> str:
        """Hash of all case ids and arrays, for settings digests and run records."""
        return sha256_json([[e.case_id, e.image_sha256, e.label_sha256] for e in self.entries])


def _places(entry: PreparedEntry) -> Places | None:
    if entry.places is None:
        return None
    voxels = map_array(entry.places, entry.case_id)
    return Places(sets=entry.sets, counts=entry.counts, offsets=entry.offsets, voxels=voxels)


def prepare_cases(
    cases: Sequence[CaseFiles],
    *,
    table: LabelTable,
    read_image: Callable[[Sequence[Path]], Volume],
    read_label: Callable[[Path, Volume], NDArray[Any]],
    transform: Callable[[Volume], PreparedLike],
    to_grid: Callable[[NDArray[np.int16], GridMap], NDArray[np.int16]],
    folder: Path,
    settings_digest: str,
    threads: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> PreparedSet:
    """Read, preprocess and encode every case, or take it from the cache in `folder`.

    Parameters
    ----------
    cases : sequence of Case
        Their files are hashed on every call; the hash is part of the cache key.
    table : LabelTable
        Encodes mask values to set indices. Schemes with `sides_by_position` are resolved on the
        grid of the file, before `to_grid`.
    read_image : callable (paths) -> Volume
    read_label : callable (path, like) -> (1, *source) int array
    transform : callable (Volume) -> Prepared
        Deterministic preprocessing.
    to_grid : callable ((1, *source) int16, GridMap) -> (1, *target) int16
        Nearest neighbour; outside is background.
    folder : Path
        The cache; made where it does not exist.
    settings_digest : str
        Hash of everything that `transform` and the readers depend on besides the files.
    threads : int, optional
        Cases prepared at the same time; the result does not depend on it.
    progress : callable (done, total, case_id), optional

    Returns
    -------
    PreparedSet
        Cases that raise a `MedsegError` are in `failures`, the others in `entries`.

    Raises
    ------
    StorageError
        The cache folder cannot be written; every case would fail alike.
    """
    maker = _Maker(
        table=table,
        read_image=read_image,
        read_label=read_label,
        transform=transform,
        to_grid=to_grid,
        folder=folder,
        settings_digest=settings_digest,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"cannot make the folder {folder}: {err.strerror}; change --output") from err
    sweep_cache(folder)
    entries: list[PreparedEntry] = []
    failures: list[CaseFailure] = []
    made = 0
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        results = pool.map(maker.prepare, cases) if threads > 1 else map(maker.prepare, cases)
        for done, (case, (outcome, fresh)) in enumerate(zip(cases, results, strict=True), start=1):
            if isinstance(outcome, PreparedEntry):
                entries.append(outcome)
            else:
                failures.append(CaseFailure(case_id=case.case_id, error=outcome))
            made += fresh
            if progress is not None:
                progress(done, len(cases), case.case_id)
    return PreparedSet(entries=tuple(entries), failures=tuple(failures), made=made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Prepares one case at a time; safe to call from several threads."""

    table: LabelTable
    read_image: Callable[[Sequence[Path]], Volume]
    read_label: Callable[[Path, Volume], NDArray[Any]]
    transform: Callable[[Volume], PreparedLike]
    to_grid: Callable[[NDArray[np.int16], GridMap], NDArray[np.int16]]
    folder: Path
    settings_digest: str

    def prepare(self, case: CaseFiles) -> tuple[PreparedEntry | MedsegError, bool]:
        """The entry of one case and whether it was made now; an error that concerns this case alone."""
        try:
            stem = f"{safe_name(case.case_id)}-{self._key(case)[:16]}"
            entry = read_entry(self.folder, stem, case.case_id)
            return (entry, False) if entry is not None else (self._make(case, stem), True)
        except StorageError:
            raise
        except MedsegError as err:
            return err, False

    def _key(self, case: CaseFiles) -> str:
        files = [*case.images, *([case.label] if case.label is not None else [])]
        try:
            hashes = [sha256_file(path) for path in files]
        except OSError as err:
            name = Path(err.filename).name if err.filename else case.images[0].name
            raise InputError(f"cannot read the file {name} of case {case.case_id}: {err.strerror}") from err
        return sha256_json(
            {
                "version": CACHE_VERSION,
                "files": hashes,
                "labelled": case.label is not None,
                "scheme": case.scheme,
                "table": self.table.to_json(),
                "settings": self.settings_digest,
            }
        )

    def _make(self, case: CaseFiles, stem: str) -> PreparedEntry:
        volume = self.read_image(case.images)
        prepared = self.transform(volume)
        image = np.ascontiguousarray(prepared.array, dtype=np.float32)
        if not np.isfinite(image).all():
            raise InputError(f"case {case.case_id} holds NaN or infinite values after preprocessing")
        label = None if case.label is None else self._label(case, case.label, volume, prepared.grid)
        places = None if label is None else self._places(label, stem)
        arrays = {"image": image, "label": label, "places": None if places is None else places.voxels}
        entry = PreparedEntry(
            case_id=case.case_id,
            shape=tuple(image.shape),
            spacing_mm=prepared.spacing_mm,
            minima=tuple(float(channel.min()) for channel in image),
            sets=() if places is None else places.sets,
            counts=() if places is None else places.counts,
            offsets=(0,) if places is None else places.offsets,
            **self._store(arrays, stem),
        )
        write_entry(self.folder / f"{stem}.json", entry)
        return entry

    def _store(self, arrays: dict[str, NDArray[Any] | None], stem: str) -> dict[str, Any]:
        """Write the arrays; paths and hashes as fields of an entry."""
        fields: dict[str, Any] = {}
        for name, array in arrays.items():
            path = self.folder / f"{stem}.{name}.npy"
            fields[name] = None if array is None else path
            fields[f"{name}_sha256"] = None if array is None else write_array(path, array)
        return fields

    def _places(self, label: NDArray[np.int16], stem: str) -> Places:
        # From the case's hash, so that the same case gives the same places in every run.
        seed = int(hashlib.sha256(stem.encode()).hexdigest()[:16], 16)
        return find_places(label, ignored_set=len(self.table.sets) - 1, seed=seed)

    def _label(self, case: CaseFiles, path: Path, volume: Volume, grid: GridMap) -> NDArray[np.int16]:
        sets = encode_mask(self.read_label(path, volume), scheme=case.scheme, like=volume, table=self.table)
        return np.ascontiguousarray(self.to_grid(sets, grid), dtype=np.int16)
