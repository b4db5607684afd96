"""`medseg predict`: any mess of images in, one folder of results per image out; no YAML."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.amounts import parse_bytes
from medseg.data.tables import write_csv
from medseg.errors import ConfigError, InputError, MedsegError, StorageError
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.options import MeasureName
from medseg.export.encapsulated_pdf import require_pdf
from medseg.export.options import ExportName
from medseg.io.discover import Discovery, Found, discover
from medseg.io.read import read_image, read_volume
from medseg.io.select import choose_one, choose_per_study
from medseg.io.series import describe_volume
from medseg.io.series_rule import SeriesRule
from medseg.io.walk import Skipped
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline import case_files, recognition
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.privacy import safe_name
from medseg.provenance import sha256_file, sha256_json, sweep_parts, versions, write_json
from medseg.quality.options import GateOptions
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.pipeline.model import LoadedModel

FORMATS: dict[str, ExportName] = {
    "nifti": "nifti",
    "dicom-seg": "dicom_seg",
    "dicom-seg-labelmap": "dicom_seg_labelmap",
    "rtstruct": "rtstruct",
    "dicom-sr": "measurement_sr",
    "dicom-pr": "presentation_state",
    "dicom-sc": "secondary_capture",
    "dicom-pdf": "encapsulated_pdf",
    "png": "png",
    "instance-seg": "instance_seg",
    "instance-sr": "instance_sr",
    "coco": "coco",
}
MEASURES: tuple[MeasureName, ...] = ("area", "volume", "left_right_ratio", "cardiothoracic_ratio")
VOLUME_MEASURES: tuple[MeasureName, ...] = ("volume", "long_axis", "intensity", "left_right_ratio")
RADIOGRAPHS = frozenset({"CR", "DX", "SC", "RG", "IO", "OT", ""})


def predict_folder(
    inputs: Sequence[Path],
    *,
    model: str,
    output: Path,
    formats: str = "nifti,dicom-seg,png",
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    accept_unlike: bool = False,
    series: str | None = None,
    fold: int | None = None,
    max_ram: str | None = None,
    recognise: str | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Segment every image that the inputs hold.

    Parameters
    ----------
    inputs : sequence of Path
        Files or folders.
    model : str
        Shipped name, or folder of a bundle.
    output : Path
        One folder per image is made in it, with predictions.json and measurements.csv beside them.
    formats : str
        Comma-separated names of `FORMATS`; dicom-sr needs dicom-seg beside it.
    device, threads
        As in the settings of a pipeline.
    overwrite : bool
        Whether images are done again that have a result of this model.
    series : str or None
        Which DICOM volume, where a study holds several: key of `medseg inspect`, series number or UID;
        "all" takes each as a case of its own.
    fold : int or None
        Of an ensemble, the one network that never saw this fold; all of them unless given.
    max_ram : str or None
        Ceiling of memory, such as 2GB.
    recognise : str or None
        Labels and regions whose targets are told one by one, or "all"; None: what the bundle says.
    accept_unlike : bool
        Whether images that the input gate refuses are segmented all the same.
    reporter : Reporter or None

    Returns
    -------
    Result
        Exit code 1 where some images failed, 3 where all did.
    """
    reporter = reporter or SilentReporter()
    kinds, bundle = _kinds(formats), read_bundle(model)
    bundle = bundle if fold is None else bundle.member(fold)
    targets = recognition.chosen_options(recognise, bundle.recognise, kinds)
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise StorageError(f"{missing[0]} does not exist; correct the path")
    found = _meant(_without_results(discover(inputs), output), bundle, series)
    reporter.title(f"{bundle.name} {bundle.version} · {len(found.images)} images · {output}")
    if not found.images:
        raise InputError(_nothing(inputs, [f"{s.path.name}: {s.reason}" for s in found.skipped]))
    max_bytes = None if max_ram is None else _ceiling(max_ram)
    output.mkdir(parents=True, exist_ok=True)
    loaded = _load(
        bundle,
        device=device,
        threads=threads,
        accept_unlike=accept_unlike,
        max_bytes=max_bytes,
        scratch=output,
        recognise=targets,
    )
    sweep_parts(output)
    begin, cases = time.monotonic(), []
    reporter.stage_started("predict", f"{len(found.images)} images")
    for done, image in enumerate(found.images, start=1):
        cases.append(_one(image, loaded, output=output, kinds=kinds, overwrite=overwrite))
        reporter.advanced("predict", done, len(found.images), image.case_id)
        for text in cases[-1].get("notes", []):
            if not (text.startswith(case_files.NO_SEG) and "not a DICOM file" in text):
                reporter.note(f"{image.case_id}: {text}")
        if "error" in cases[-1]:
            reporter.note(f"{image.case_id}: {cases[-1]['error']}")
    seconds = time.monotonic() - begin
    failed = [case for case in cases if "error" in case]
    reporter.stage_done("predict", f"{len(cases) - len(failed)} of {len(cases)} images", seconds)
    return _result(cases, found.skipped, loaded, output=output, kinds=kinds, seconds=seconds, failed=failed)


def _without_results(found: Discovery, output: Path) -> Discovery:
    """Masks and overlays of an earlier run are no input, also where the output lies inside the input."""
    home = output.resolve()
    images = [
        image for image in found.images if not any(home in path.resolve().parents for path in image.paths)
    ]
    skipped = [item for item in found.skipped if home not in item.path.resolve().parents]
    return replace(found, images=tuple(images), skipped=tuple(skipped))


def _meant(found: Discovery, bundle: Bundle, series: str | None) -> Discovery:
    """The images that are cases: of each study the one volume that is meant."""
    volumes = [image for image in found.images if image.volume is not None]
    if not volumes or series == "all" or (bundle.spatial_dims == 2 and series is None):
        return found
    rule = SeriesRule(series=series, min_slices=1 if series else 2)
    chosen = choose_per_study(volumes, rule)
    if series is not None and not chosen:
        choose_one(volumes, rule, where=volumes[0].paths[0].parent)
    kept = {id(image) for image in chosen}
    images = tuple(image for image in found.images if image.volume is None or id(image) in kept)
    left_out = [
        Skipped(path=image.paths[0], reason=f"not the volume that is meant: {describe_volume(image.volume)}")
        for image in volumes
        if id(image) not in kept and image.volume is not None
    ]
    return replace(found, images=images, skipped=(*found.skipped, *left_out))


def _kinds(formats: str) -> tuple[ExportName, ...]:
    names = [name.strip() for name in formats.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ConfigError(f"--format {formats!r}: expected one or more of {', '.join(FORMATS)}")
    if "dicom-sr" in names and "dicom-seg" not in names:
        raise ConfigError(f"--format {formats!r}: dicom-sr refers to the segments of a SEG; add dicom-seg")
    if "dicom-pdf" in names:
        require_pdf()
    return tuple(FORMATS[name] for name in names)


def _ceiling(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as err:
        raise ConfigError(f"--max-ram {text!r}: {err}") from err


def _load(
    bundle: Bundle,
    *,
    device: str,
    threads: int | None,
    accept_unlike: bool,
    max_bytes: int | None,
    scratch: Path,
    recognise: RecogniseOptions | None,
) -> LoadedModel:
    import torch

    from medseg.pipeline.model import LoadedModel

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch sees no CUDA device; use auto or cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return LoadedModel(
        bundle,
        device=chosen,
        gate_options=GateOptions(refuse=not accept_unlike),
        measures=MEASURES if bundle.spatial_dims == 2 else VOLUME_MEASURES,
        max_bytes=max_bytes,
        scratch=scratch,
        recognise=recognise,
    )


def _one(
    image: Found, model: LoadedModel, *, output: Path, kinds: tuple[ExportName, ...], overwrite: bool
) -> dict[str, Any]:
    folder = output / safe_name(image.case_id)
    case: dict[str, Any] = {"case_id": image.case_id, "folder": folder.name}
    try:
        key = sha256_json(
            [
                versions()["medseg"],
                model.bundle.weights_sha256,
                [sha256_file(p) for p in image.paths],
                list(kinds),
                *([] if model.recognise is None else [model.recognise.model_dump(mode="json")]),
            ]
        )
        if overwrite or not case_files.is_done(folder, key):
            # The extra files come first: the record that says "done" is written last.
            volume = _read(image, model)
            result = model.segment(volume, case_id=image.case_id)
            record = case_files.case_record(
                case_id=image.case_id, key=key, volume=volume, result=result, model=model
            )
            _, notes = case_files.export_case(
                folder,
                kinds=kinds,
                volume=volume,
                label_map=result.label_map,
                table=model.table,
                record=record,
            )
            case_files.write_result(
                folder, case_id=image.case_id, key=key, volume=volume, result=result, model=model
            )
            case["notes"] = list(notes)
        record = case_files.read_record(folder) or {}
        case |= {
            "verdict": record["verdict"],
            "measurements": record["measurements"],
            "image": record["image"],
        }
    except StorageError:
        raise
    except MedsegError as err:
        case |= {"error": str(err), "exit_code": err.exit_code}
    except OSError as err:
        case |= {"error": f"cannot be read: {err.strerror or err}", "exit_code": 4}
    return case


def _read(image: Found, model: LoadedModel) -> Volume:
    modality = _modalities(model)
    if image.volume is not None and len(image.volume.grid.shape) == 3:
        return read_volume(image.volume, modality=modality)
    # For a model of several channels the volumes of a file with four axes can be nothing else.
    several = model.bundle.in_channels > 1
    return read_image(image.paths, modality=modality, fourth_axis="channels" if several else "refuse")


def _modalities(model: LoadedModel) -> frozenset[str] | None:
    return RADIOGRAPHS if model.bundle.spatial_dims == 2 else None


def _nothing(inputs: Sequence[Path], skipped: list[str]) -> str:
    what = ", ".join(str(path) for path in inputs)
    why = f"; left out: {'; '.join(skipped[:5])}" if skipped else ""
    return f"no image in {what}{why}"


def _result(
    cases: list[dict[str, Any]],
    skipped: Sequence[Any],
    model: LoadedModel,
    *,
    output: Path,
    kinds: tuple[ExportName, ...],
    seconds: float,
    failed: list[dict[str, Any]],
) -> Result:
    rows = [_row(case) for case in cases]
    write_csv(output / "measurements.csv", rows)
    if model.recognise is not None:
        _write_targets(output, cases, coco="coco" in kinds)
    value = {
        "format": 1,
        "model": model.facts,
        "versions": versions(),
        "seconds": round(seconds, 3),
        "cases": [{k: v for k, v in case.items() if k not in ("measurements", "image")} for case in cases],
        "skipped": [{"file": s.path.name, "reason": s.reason} for s in skipped],
    }
    write_json(output / "predictions.json", value)
    lines = [f"left out {s.path.name}: {s.reason}" for s in skipped[:10]]
    lines += (
        [f"left out {len(skipped) - 10} more files, listed in predictions.json"] if len(skipped) > 10 else []
    )
    lines += (
        [f"{len(failed)} of {len(cases)} images failed; the reasons are above and in predictions.json"]
        if failed
        else []
    )
    code = 0 if not failed else InputError.exit_code if len(failed) == len(cases) else MedsegError.exit_code
    return Result(exit_code=code, path=output, lines=tuple(lines), facts=value)


def _write_targets(output: Path, cases: list[dict[str, Any]], *, coco: bool) -> None:
    """The recognised targets of all images in one table, and in one COCO file."""
    folders = [output / case["folder"] for case in cases if "error" not in case]
    recognition.write_tables(output, (case_files.read_record(folder) or {} for folder in folders))
    if coco:
        name = recognition.OBJECTS["coco"]
        paths = [folder / name for folder in folders if (folder / name).exists()]
        recognition.join_coco_files(paths, output / name)


def _row(case: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"case_id": case["case_id"], "verdict": case.get("verdict", "failed")}
    row["error"] = case.get("error", "")
    for name, structure in case.get("measurements", {}).get("structures", {}).items():
        for measure, quantity in structure["quantities"].items():
            row[f"{name} {measure}"] = quantity["value"]
            row[f"{name} {measure} unit"] = quantity["unit"]
    for name, quantity in case.get("measurements", {}).get("ratios", {}).items():
        row[name] = quantity["value"]
    return row
