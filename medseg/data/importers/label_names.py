"""Names of labels: read from dataset.json, made fit for a pipeline, and written as YAML to paste."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.data.importers.records import LabelNames, Listing, NamedValue, plain
from medseg.labels import BACKGROUND, MAX_VALUE

#: Names that the settings keep for themselves.
RESERVED = frozenset({BACKGROUND, "all", "none", "other", "ignore"})
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_NAME = 64


def fit_name(name: str, *, value: int | None = None, taken: Sequence[str] = ()) -> str:
    """A label name as a pipeline allows it: a letter, then letters, digits, `_` and `-`, 64 at most.

    Accents are dropped and other characters become `_`. A name of which nothing stays becomes
    `label_<value>`; one that does not begin with a letter gets `label_` before it, a reserved one
    `_label` behind it, and one that is taken its value or a number.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    fit = _UNFIT.sub("_", plain).strip("_-")
    if not fit:
        fit = "label" if value is None else f"label_{value}"
    elif not fit[0].isalpha():
        fit = f"label_{fit}"
    if fit in RESERVED:
        fit = f"{fit}_label"
    fit = fit[:_MAX_NAME].rstrip("_-")
    number, unique = value if value is not None else 2, fit
    while unique in taken:
        unique = f"{fit[: _MAX_NAME - 8].rstrip('_-')}_{number}"
        number += 1
    return unique


def read_label_names(listing: Listing, labels: object, *, order: object = None) -> LabelNames:
    """The label table of a dataset.json, in either direction; what is wrong is noted in `listing`.

    Parameters
    ----------
    listing : Listing
        Its problems are added to; all of them fatal, since a wrong value makes a wrong model.
    labels : object
        `{"1": "liver"}` (MSD, nnU-Net v1) or `{"liver": 1, "tumour": [2, 3], "ignore": 4}` (nnU-Net v2).
    order : object, optional
        regions_class_order of nnU-Net v2: kept as a comment.
    """
    if not isinstance(labels, dict) or not labels:
        listing.add("labels: expected names and values, found none", fatal=True)
        return LabelNames()
    if all(isinstance(key, str) and key.strip().isdigit() for key in labels):
        entries = [(name, key) for key, name in labels.items()]
    else:
        entries = list(labels.items())
        if all(isinstance(entry, str) and _whole(entry) is None for entry in labels.values()):
            listing.add("labels: neither names nor values are whole numbers", fatal=True)
            return LabelNames()
    named: list[tuple[str, tuple[int, ...]]] = []
    for name, entry in entries:
        if not isinstance(name, str):
            listing.add(f"labels.{_plain(entry)}: expected a name, found {name!r:.80}", fatal=True)
            continue
        values = [_whole(v) for v in (entry if isinstance(entry, list) else [entry])]
        known = tuple(v for v in values if v is not None)
        if len(known) < len(values) or not values:
            listing.add(
                f"labels.{_plain(name)}: expected whole numbers from 0, found {entry!r:.80}", fatal=True
            )
        else:
            named.append((name, tuple(dict.fromkeys(known))))
    names = _table(listing, named)
    return _with_order(listing, names, order)


def _table(listing: Listing, named: Sequence[tuple[str, tuple[int, ...]]]) -> LabelNames:
    ignore: int | None = None
    values: dict[int, str] = {}
    regions: list[tuple[str, tuple[int, ...]]] = []
    for name, members in named:
        if members == (0,):
            continue
        if 0 in members or max(members) > MAX_VALUE:
            listing.add(
                f"labels.{_plain(name)}: values are 1 to {MAX_VALUE}, found {list(members)!s:.80}", fatal=True
            )
        elif len(members) > 1:
            regions.append((name, members))
        elif name.casefold() == "ignore":
            ignore = members[0]
        elif members[0] in values:
            other = _plain(values[members[0]])
            listing.add(f"labels: {other} and {_plain(name)} have the same value {members[0]}", fatal=True)
        else:
            values[members[0]] = name
    if ignore is not None and (ignore in values or any(ignore in members for _, members in regions)):
        listing.add(f"labels: the value {ignore} is ignored and a label as well", fatal=True)
    table = [NamedValue(value=value, name=name) for value, name in values.items()]
    table += _unnamed(regions, values)
    if not table and not listing.problems:
        listing.add("labels: nothing but background is named", fatal=True)
    return LabelNames(
        values=tuple(sorted(table, key=lambda v: v.value)), regions=tuple(regions), ignore=ignore
    )


def _unnamed(regions: Sequence[tuple[str, tuple[int, ...]]], named: Mapping[int, str]) -> list[NamedValue]:
    """The values that only regions name; a pipeline needs a label for each."""
    found = []
    for value in sorted({v for _, members in regions for v in members} - set(named)):
        homes = ", ".join(_plain(name) for name, members in regions if value in members)
        found.append(
            NamedValue(value=value, name=f"value_{value}", comment=f"no name of its own; in {homes}")
        )
    return found


def _with_order(listing: Listing, names: LabelNames, order: object) -> LabelNames:
    """The table with nnU-Net's order of regions as a comment, checked as nnU-Net checks it."""
    if order is None or not names.regions:
        return names
    # Every entry of `labels` but background and ignore is a region there, also one of a single value.
    own = [v for v in names.values if v.comment is None]
    count = len(names.regions) + len(own)
    if not isinstance(order, list) or len(order) != count or any(_whole(v) is None for v in order):
        listing.add(f"regions_class_order: expected {count} values, one for each region, found {order!r:.80}")
        return names
    text = f"regions_class_order of nnU-Net: {order}; medseg writes label values and does not need it"
    return LabelNames(
        values=names.values, regions=names.regions, ignore=names.ignore, comments=(*names.comments, text)
    )


def labels_yaml(listing: Listing, *, manifest: Path, root: Path | None = None) -> str:
    """The text of the labels file: the blocks `labels`, `regions` and `ignore_value` of a pipeline.

    The names of the data set are comments where they had to change. Nothing else of the pipeline is
    decided here; how the manifest is named in `data` stands in a comment.
    """
    names = listing.names
    fit: dict[int, str] = {}
    for item in names.values:
        fit[item.value] = fit_name(item.name, value=item.value, taken=tuple(fit.values()))
    lines = [
        f"# Labels of {_plain(listing.title)}, to paste into a pipeline beside",
        f"# data: {{source: {{use: manifest, path: {_quoted(manifest.name)}{_root(root)}}}"
        f"{', fourth_axis: channels' if listing.in_one_file else ''}}}",
    ]
    if listing.channels:
        lines.append(f"# Channels in this order: {', '.join(_plain(c) for c in listing.channels)}")
    lines += [f"# {_plain(text)}" for text in names.comments]
    if not fit:
        lines.append(
            "# The data set does not name its mask values: name them here, or give --label-name 1=liver"
        )
        lines.append("# labels: {liver: {value: 1}}")
        return "\n".join(lines) + "\n"
    lines.append("labels:")
    lines += [_label_line(item, fit[item.value]) for item in names.values]
    lines += _region_lines(names.regions, fit)
    if names.ignore is not None:
        lines.append(f"ignore_value: {names.ignore}")
    return "\n".join(lines) + "\n"


def _label_line(item: NamedValue, name: str) -> str:
    color = f", color: {_quoted(item.color)}" if item.color else ""
    comment = item.comment or ("" if item.name == name else _plain(item.name))
    return f"  {_key(name)}: {{value: {item.value}{color}}}" + (f"  # {_plain(comment)}" if comment else "")


def _region_lines(regions: Sequence[tuple[str, tuple[int, ...]]], fit: Mapping[int, str]) -> list[str]:
    lines = ["regions:"] if regions else []
    taken = list(fit.values())
    for original, members in regions:
        name = fit_name(original, taken=taken)
        taken.append(name)
        listed = ", ".join(_key(fit[value]) for value in members)
        comment = "" if name == original else f"  # {_plain(original)}"
        lines.append(f"  {_key(name)}: [{listed}]{comment}")
    return lines


def _root(root: Path | None) -> str:
    return "" if root is None else f", root: {_quoted(str(root))}"


def _key(name: str) -> str:
    """A name as a YAML key: in quotes where YAML would take it for a truth value or nothing."""
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    return _quoted(name) if name.casefold() in words else name


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def _plain(text: object) -> str:
    """Foreign text for one line of a comment or message."""
    return plain(text, most=120)


def _whole(value: object) -> int | None:
    """A whole number from 0, also one written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        return int(value)
    return None
