"""Recognised targets: what is asked for, and the tables and COCO files of many cases. Writes no DICOM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.data.tables import write_csv
from medseg.errors import ConfigError, StorageError
from medseg.evaluation.instance_map import named_classes
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instance_records import FIRST_COLUMNS, instance_row
from medseg.evaluation.rows import Cell
from medseg.export.coco import join_coco
from medseg.export.options import TARGET_FILES, ExportName
from medseg.labels import LabelTable
from medseg.provenance import write_json

INSTANCES = "instances.csv"
INSTANCES_JSON = "instances.json"
Record = Mapping[str, Any]


def recognise_options(labels: str | None) -> RecogniseOptions | None:
    """What `--recognise` says: "all", or labels and regions with commas between; None where it is not given."""
    if labels is None:
        return None
    names = tuple(name.strip() for name in labels.split(",") if name.strip())
    if not names:
        raise ConfigError("--recognise is empty: expected all, or labels with commas between them")
    if len(set(names)) < len(names):
        raise ConfigError(f"--recognise {labels!r} names a label twice; name each once")
    return RecogniseOptions(labels="all" if names == ("all",) else names)


def chosen_options(
    labels: str | None, stored: Record | None, kinds: Sequence[ExportName], *, table: LabelTable
) -> RecogniseOptions | None:
    """What the bundle says, of the labels that the command line names where it names some.

    Connectivity and least size belong to the model; a model that says nothing has those of `RecogniseOptions`.

    Raises
    ------
    ConfigError
        A file of targets is asked for, but no targets are; a report without the segments it refers to; or a
        name that is neither a label nor a region.
    """
    named = recognise_options(labels)
    asked = named if stored is None else RecogniseOptions.model_validate(stored)
    if asked is not None and named is not None:
        asked = asked.model_copy(update={"labels": named.labels})
    if asked is not None:
        named_classes(table, asked)
    wanted = [kind for kind in kinds if kind in TARGET_FILES]
    if wanted and asked is None:
        raise ConfigError(
            f"--format {wanted[0].replace('_', '-')} holds recognised targets, which the model does not tell by "
            "itself; add --recognise all, or the labels"
        )
    if "instance_sr" in kinds and "instance_seg" not in kinds:
        raise ConfigError(
            "--format instance-sr refers to the segments of the targets; add instance-seg to --format"
        )
    return asked


def confidences_of(record: Record) -> dict[tuple[str, int], float]:
    """Confidence of each instance in a measurements.json, by structure and number, where it has one."""
    return {
        (item["structure"], item["number"]): item["quantities"]["confidence"]["value"]
        for item in instances_of_record(record)
        if item["quantities"]["confidence"]["value"] is not None
    }


def instances_of_record(record: Record) -> Sequence[Record]:
    """The instances of a measurements.json; none where they were not asked for."""
    found: Sequence[Record] = (record.get("instances") or {}).get("instances", ())
    return found


def write_tables(folder: Path, records: Iterable[Record]) -> int:
    """Write instances.csv and instances.json of all cases of a folder; the number of instances.

    Parameters
    ----------
    folder : Path
    records : iterable of mapping
        measurements.json of each case; those without a section `instances` are left out.
    """
    found = [record["instances"] for record in records if record.get("instances")]
    rows = [
        {"case_id": case["case_id"], **instance_row(item)} for case in found for item in case["instances"]
    ]
    write_rows(folder, rows)
    write_json(folder / INSTANCES_JSON, {"format": 1, "cases": found})
    return len(rows)


def write_rows(folder: Path, rows: Sequence[Mapping[str, Cell]]) -> None:
    """Write instances.csv; without an instance it has a header alone, which table readers take."""
    write_csv(folder / INSTANCES, rows, columns=None if rows else FIRST_COLUMNS)


def join_coco_files(paths: Sequence[Path], target: Path) -> None:
    """One COCO file of those of several cases; none where there are none."""
    if not paths:
        target.unlink(missing_ok=True)
        return
    parts = []
    for path in paths:
        try:
            parts.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as err:
            raise StorageError(f"{path} is damaged: {err}; remove it and run again") from err
    write_json(target, join_coco(parts))
