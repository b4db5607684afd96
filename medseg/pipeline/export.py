"""Stage `export`: the files that leave the run, beside each mask."""

from __future__ import annotations

from typing import Any

from medseg.errors import MedsegError, StorageError
from medseg.export.options import TARGET_FILES
from medseg.pipeline import case_files, recognition
from medseg.pipeline.context import Context
from medseg.pipeline.predict import which
from medseg.pipeline.readers import image_reader
from medseg.privacy import safe_name
from medseg.provenance import write_json

STAGE = "export"


def plan(context: Context) -> str:
    """One line for the dry run."""
    return f"{', '.join(context.settings.export)} of the {which(context)} cases"


def run(context: Context) -> dict[str, Any]:
    """Write the exports of every predicted case, and exports.json with their hashes."""
    cases, read = context.chosen(which(context)), image_reader(context.config)
    kinds = context.config.export
    files: dict[str, dict[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for done, case in enumerate(cases, start=1):
        folder = context.run.case_folder(case.case_id)
        record = case_files.read_record(folder)
        if record is not None:
            try:
                files[case.case_id], said = case_files.export_case(
                    folder,
                    kinds=kinds,
                    volume=read(case.images),
                    label_map=case_files.read_mask_file(folder, context.table),
                    table=context.table,
                    record=record,
                )
                notes[case.case_id] = list(said)
            except StorageError:
                raise
            except MedsegError as err:
                context.fail(case.case_id, STAGE, str(err))
        context.reporter.advanced(STAGE, done, len(cases), case.case_id)
    if "coco" in kinds:
        name = TARGET_FILES["coco"]
        found = [context.run.case_folder(case_id) / name for case_id in files]
        recognition.join_coco_files([path for path in found if path.exists()], context.run.path / name)
    write_json(context.run.path / "exports.json", {"files": files, "notes": notes})
    outputs = {
        f"cases/{safe_name(case)}/{name}": sha for case, found in files.items() for name, sha in found.items()
    }
    return {"text": _text(files, notes), "files": len(outputs), "outputs": outputs}


def _text(files: dict[str, dict[str, str]], notes: dict[str, list[str]]) -> str:
    names = [name for case in files.values() for name in case]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    missing = sum(1 for said in notes.values() if any(t.startswith(case_files.NO_SEG) for t in said))
    return text + (f"; {missing} without DICOM SEG, the reasons are in exports.json" if missing else "")
