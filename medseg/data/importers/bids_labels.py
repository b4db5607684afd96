"""Names of the values of BIDS masks: from dseg.tsv beside or above them, or from the mask's own name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medseg.data.importers.bids_names import BidsFile, bids_file, name_parts, read_tsv
from medseg.data.importers.file_names import list_files
from medseg.data.importers.records import ImportOptions, LabelNames, Listing, NamedValue
from medseg.errors import ManifestError
from medseg.labels import MAX_VALUE

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def label_names(listing: Listing, folder: Path, options: ImportOptions) -> LabelNames:
    """The one table that all masks of the listing follow; those that disagree are fatal problems.

    A `_dseg` is named by the nearest table: a file `*dseg.tsv` in its folder or one above, whose
    entities the mask has too (the inheritance principle); columns index, name, and color. A
    `_mask` has the value 1, named by its entity label or desc.

    Parameters
    ----------
    listing : Listing
        Its cases are read, its problems added to.
    folder : Path
        Root of the tree; no table is looked for above it.
    options : ImportOptions
        Names given there take the place of tables.
    """
    if options.label_names:
        return LabelNames()
    tables = _Tables(root=folder)
    found: dict[int, tuple[NamedValue, Path]] = {}
    for mask in _masks(listing):
        try:
            named = tables.names_of(mask)
        except ManifestError as err:
            listing.add(str(err), fatal=True)
            return LabelNames()
        for item in named:
            first, where = found.setdefault(item.value, (item, mask.path))
            if first.name != item.name:
                text = f"the value {item.value} is {first.name} in {where} and {item.name} in {mask.path}"
                listing.add(f"{text}; choose one kind of mask with --label-pattern", fatal=True)
                return LabelNames()
    return LabelNames(values=tuple(found[value][0] for value in sorted(found)))


def _masks(listing: Listing) -> Iterable[BidsFile]:
    named = (bids_file(case.label) for case in listing.cases if case.label is not None)
    return (mask for mask in named if mask is not None)


@dataclass(slots=True, kw_only=True)
class _Tables:
    """The tables of a tree, each folder listed and each table read once."""

    root: Path
    _folders: dict[Path, list[Path]] = field(default_factory=dict)
    _read: dict[Path, tuple[NamedValue, ...]] = field(default_factory=dict)

    def names_of(self, mask: BidsFile) -> tuple[NamedValue, ...]:
        """The values of a mask; none where no table names them."""
        path = self._nearest(mask)
        if path is not None:
            if path not in self._read:
                self._read[path] = _read_table(path)
            return self._read[path]
        if mask.suffix != "mask":
            return ()
        name = mask.entities.get("label") or mask.entities.get("desc") or "mask"
        return (NamedValue(value=1, name=name),)

    def _nearest(self, mask: BidsFile) -> Path | None:
        """The table in the nearest folder; of several there, the one with the most entities."""
        home = mask.path.parent
        while home.is_relative_to(self.root):
            if home not in self._folders:
                self._folders[home] = [path for path in list_files(home) if path.name.endswith(".tsv")]
            fitting = []
            for path in self._folders[home]:
                entities, words = name_parts(path.stem)
                if words == (mask.suffix,) and entities.items() <= mask.entities.items():
                    fitting.append((len(entities), path))
            if fitting:
                return max(fitting)[1]
            home = home.parent
        return None


def _read_table(path: Path) -> tuple[NamedValue, ...]:
    found: dict[int, NamedValue] = {}
    for number, row in enumerate(read_tsv(path), start=1):
        index, name = row.get("index", ""), row.get("name", "")
        if not (index.isascii() and index.isdigit() and int(index) <= MAX_VALUE and name):
            raise ManifestError(
                f"{path}: row {number} needs an index from 0 to {MAX_VALUE} and a name, "
                f"found {index[:20]!r} and {name[:40]!r}"
            )
        if int(index) in found:
            raise ManifestError(f"{path}: the index {index} stands twice")
        color = row.get("color", "")
        found[int(index)] = NamedValue(
            value=int(index), name=name, color=color.lower() if _COLOR.fullmatch(color) else None
        )
    return tuple(item for value, item in sorted(found.items()) if value != 0)
