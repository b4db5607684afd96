"""`medseg convert`: images and masks from one format to another, exactly, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.config.label_file import read_label_file
from medseg.errors import ConfigError, InputError, LabelError, MedsegError, StorageError
from medseg.export.dicom_seg import write_dicom_seg
from medseg.export.nifti import write_sidecar
from medseg.export.rtstruct import write_rtstruct
from medseg.geometry import tilt_degrees
from medseg.io.align import Resampling, onto_grid
from medseg.io.dicom_masks import read_dicom_masks
from medseg.io.discover import Found, discover
from medseg.io.read import read_image, read_mask, read_volume
from medseg.io.select import choose_one
from medseg.io.series_rule import SeriesRule
from medseg.io.sniff import sniff
from medseg.io.write_image import ENDINGS, write_image
from medseg.labels import LabelTable
from medseg.pipeline.result import Result
from medseg.privacy import safe_name
from medseg.provenance import sha256_file
from medseg.transforms.straighten import straighten
from medseg.volume import ImageGrid, Volume

Target = Literal[
    "nifti", "nrrd", "mha", "dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"
]
SEG_KINDS: dict[str, Literal["binary", "labelmap", "fractional"]] = {
    "dicom-seg": "binary",
    "dicom-seg-labelmap": "labelmap",
    "dicom-seg-fractional": "fractional",
}
_ENDING_OF = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}
_SHEARED_DEGREES = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to convert.

    Parameters
    ----------
    to : str or None
        What OUTPUT becomes; by its ending unless given (.dcm: dicom-seg).
    reference : Path or None
        Image that a mask belongs to: file or folder of a DICOM series.
    series : str or None
        Which volume of the input, or of the reference where there is one.
    labels : Path or None
        Names, values and codes of a mask; its own sidecar unless given.
    resample : {"never", "nearest"}
        What to do with a mask whose voxels are not those of the reference.
    straighten : bool
        Resample a tilted series onto a straight grid.
    suv : bool
        Bring PET to SUVbw.
    algorithm, algorithm_version : str
        What made the mask, for DICOM objects.
    """

    to: Target | None = None
    reference: Path | None = None
    series: str | None = None
    labels: Path | None = None
    resample: Resampling = "never"
    straighten: bool = False
    suv: bool = False
    algorithm: str = "medseg convert"
    algorithm_version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mask:
    """A label map in class indices of its table, on a grid."""

    classes: NDArray[Any]
    table: LabelTable
    grid: ImageGrid
    notes: tuple[str, ...] = ()


def checked_choices(to: str | None, resample: str) -> tuple[Target | None, Resampling]:
    """The words of the command line as the choices they stand for.

    Raises
    ------
    ConfigError
        Another word.
    """
    targets, ways = get_args(Target), get_args(Resampling)
    if to is not None and to not in targets:
        raise ConfigError(f"--to {to!r}: expected one of {', '.join(targets)}")
    if resample not in ways:
        raise ConfigError(f"--resample {resample!r}: expected one of {', '.join(ways)}")
    return cast("Target | None", to), cast("Resampling", resample)


def convert(source: Path, output: Path, options: ConvertOptions) -> Result:
    """Convert one image or mask, or every image of a folder where `output` is one.

    Parameters
    ----------
    source : Path
        DICOM (file or folder, in any mess), NIfTI, NRRD, MetaImage and others; masks in these, in DICOM
        SEG and RTSTRUCT.
    output : Path
        .nii, .nii.gz, .nrrd, .mha, .mhd, .dcm, or a folder for all images that the source holds.
    options : ConvertOptions

    Returns
    -------
    Result
        Exit code 1 where some images of a folder could not be converted.

    Raises
    ------
    ConfigError
        A direction that does not exist, or something that must be named is not.
    InputError
        The data do not allow it; the message says what would.
    """
    if not source.exists():
        raise StorageError(f"{source} does not exist; correct the path")
    target = _target(output, options.to)
    if target == "folder":
        return _convert_all(source, output, options)
    if target in _ENDING_OF and not output.name.endswith(ENDINGS):
        raise ConfigError(f"{output}: --to {target} writes a file that ends in {_ENDING_OF[target]}")
    if target in _ENDING_OF and not _is_dicom_mask(source) and options.reference is None:
        return _done(output, _write_image(_read_image(source, options), output, options, _is_mask(source)))
    mask = _read_mask(source, options)
    return _done(output, (*mask.notes, *_write_mask(mask, source, output, target, options)))


def _target(output: Path, to: str | None) -> str:
    """What is to be written: a `Target`, or "folder"."""
    if output.name.endswith(".dcm"):
        if to in _ENDING_OF:
            raise ConfigError(f"{output}: --to {to} does not go with the ending .dcm")
        return to or "dicom-seg"
    if output.name.endswith(ENDINGS):
        if to is not None and to not in _ENDING_OF:
            raise ConfigError(f"{output}: --to {to} writes a DICOM file; give it the ending .dcm")
        return to or "nifti"
    if to is not None and to not in _ENDING_OF:
        raise ConfigError(f"{output}: --to {to} writes one DICOM file; give it the ending .dcm")
    if output.suffix and not output.is_dir():
        known = ", ".join((*ENDINGS, ".dcm"))
        raise ConfigError(
            f"{output}: expected a file that ends in {known}, or a folder, found {output.suffix!r}"
        )
    return "folder"


def _done(output: Path, notes: Sequence[str]) -> Result:
    return Result(
        path=output, lines=tuple(dict.fromkeys(notes)), facts={"output": str(output), "notes": list(notes)}
    )


def _convert_all(source: Path, output: Path, options: ConvertOptions) -> Result:
    """Every image of the source, each as a file in the folder `output`."""
    found = discover([source])
    images = list(found.images)
    if options.series is not None:
        images = [choose_one(images, SeriesRule(series=options.series), where=source)]
    if not images:
        raise InputError(
            f"{source}: no image in it" + "".join(f"; {s.path.name}: {s.reason}" for s in found.skipped[:3])
        )
    output.mkdir(parents=True, exist_ok=True)
    ending = _ENDING_OF[options.to or "nifti"]
    files: list[dict[str, Any]] = []
    lines: list[str] = []
    for image in images:
        path = output / f"{safe_name(image.case_id)}{ending}"
        entry: dict[str, Any] = {"case_id": image.case_id, "files": len(image.paths)}
        try:
            notes = _write_image(_read_found(image, options), path, options, False)
            entry |= {"output": path.name, "notes": list(notes)}
            lines += [f"{path.name}: {note}" for note in notes]
        except StorageError:
            raise
        except MedsegError as err:
            entry |= {"error": str(err), "exit_code": err.exit_code}
            lines.append(f"{image.case_id}: {err}")
        files.append(entry)
    failed = sum("error" in entry for entry in files)
    lines.append(f"{len(files) - failed} of {len(files)} images converted")
    code = 0 if not failed else InputError.exit_code if failed == len(files) else MedsegError.exit_code
    return Result(exit_code=code, path=output, lines=tuple(lines), facts={"images": files})


def _read_found(image: Found, options: ConvertOptions) -> Volume:
    if image.volume is not None and len(image.volume.grid.shape) == 3:
        return read_volume(image.volume, suv=options.suv)
    return read_image(image.paths)


def _read_image(source: Path, options: ConvertOptions) -> Volume:
    return read_image([source], series=options.series, suv=options.suv)


def _write_image(volume: Volume, output: Path, options: ConvertOptions, label_map: bool) -> tuple[str, ...]:
    notes = volume.notes
    if options.straighten:
        volume, shear = straighten(volume, labels=label_map)
        if shear is None:
            notes = (*notes, "no tilt to straighten: the slices stack along their normal")
    elif (
        volume.affine is not None
        and volume.spatial_dims == 3
        and tilt_degrees(volume.affine) > _SHEARED_DEGREES
    ):
        text = "the affine is sheared, which not every program reads right; --straighten writes a box-shaped grid"
        notes = (*notes, text)
    write_image(output, volume, label_map=label_map)
    return notes


def _is_mask(source: Path) -> bool:
    """Whether a file is told to be a mask by its own sidecar."""
    return source.is_file() and sidecar_of(source).is_file()


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a mask that says what its values mean."""
    name = path.name
    for ending in (".nii.gz", *ENDINGS):
        name = name.removesuffix(ending)
    return path.with_name(f"{name}.json")


def _is_dicom_mask(source: Path) -> bool:
    if source.is_dir() or sniff(source) != "dicom":
        return False
    return any(label.path == source for label in discover([source]).labels)


def _read_mask(source: Path, options: ConvertOptions) -> _Mask:
    """The mask on the grid of its reference, or on its own."""
    if source.is_dir():
        raise ConfigError(f"{source}: expected the file of a mask, found a folder")
    grid = None if options.reference is None else reference_grid(options.reference, options.series)
    if sniff(source) == "dicom":
        found = read_dicom_masks(source, grid)
        table = found.table if options.labels is None else read_label_file(options.labels)
        return _Mask(
            classes=table.class_indices(found.label_map), table=table, grid=found.grid, notes=found.notes
        )
    if grid is None:
        raise ConfigError(
            f"{source}: a DICOM object refers to the images that it was made from; name them with --reference"
        )
    table = _table_for(source, options.labels)
    moved = onto_grid(read_mask(source), grid, resample=options.resample)
    return _Mask(classes=table.class_indices(moved), table=table, grid=grid)


def reference_grid(reference: Path, series: str | None) -> ImageGrid:
    """Where the voxels of the reference are; of a DICOM series from its headers alone."""
    if not reference.exists():
        raise StorageError(f"{reference} does not exist; correct --reference")
    if reference.is_dir() or sniff(reference) == "dicom":
        found = discover([reference])
        volumes = [image for image in found.images if image.volume is not None]
        if volumes:
            chosen = choose_one(volumes, SeriesRule(series=series), where=reference).volume
            if chosen is not None:
                chosen.require_readable()
                return chosen.grid
        if len(found.images) > 1:
            raise ConfigError(
                f"{reference}: {len(found.images)} images; name the file of the one that is meant"
            )
        if found.images:
            return read_image(found.images[0].paths).grid
    return read_image([reference]).grid


def _table_for(source: Path, labels: Path | None) -> LabelTable:
    path = labels or sidecar_of(source)
    if not path.is_file():
        raise ConfigError(
            f"{source}: nothing says what its values mean; give --labels FILE, a YAML with a labels: block as in "
            f"a pipeline, or the JSON that medseg writes beside a mask"
        )
    return read_label_file(path)


def _write_mask(
    mask: _Mask, source: Path, output: Path, target: str, options: ConvertOptions
) -> tuple[str, ...]:
    if target in _ENDING_OF:
        volume = _as_volume(mask)
        if options.straighten:
            raise ConfigError("--straighten is for images; a mask lies on the grid of its image")
        write_image(output, volume, label_map=True)
        write_sidecar(sidecar_of(output), output, mask.classes, volume, mask.table, notes=mask.notes)
        return ()
    if mask.grid.source.format != "dicom" or not mask.grid.source.sop_instance_uids:
        raise InputError(
            f"{output}: a DICOM object needs DICOM images to refer to; name their folder with --reference"
        )
    path, notes = _write_dicom(mask, source, output, target, options)
    if path is None:
        raise LabelError(f"{source}: the mask is empty; {output.name} was not written")
    return notes


def _write_dicom(
    mask: _Mask, source: Path, output: Path, target: str, options: ConvertOptions
) -> tuple[Path | None, tuple[str, ...]]:
    name, version, digest = options.algorithm, options.algorithm_version, sha256_file(source)
    if target == "rtstruct":
        structures = write_rtstruct(
            output,
            mask.classes,
            mask.grid,
            mask.table,
            algorithm_name=name,
            algorithm_version=version,
            weights_sha256=digest,
        )
        return structures.path, structures.notes
    seg = write_dicom_seg(
        output,
        mask.classes,
        mask.grid,
        mask.table,
        kind=SEG_KINDS[target],
        algorithm_name=name,
        algorithm_version=version,
        weights_sha256=digest,
    )
    return seg.path, seg.notes


def _as_volume(mask: _Mask) -> Volume:
    """The label map as a volume, in the smallest type that holds the table's values."""
    values = mask.table.values
    kind = np.uint8 if values.max(initial=0) < 256 else np.uint16
    grid = mask.grid
    return Volume(
        array=values.astype(kind)[mask.classes][np.newaxis],
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        spacing_origin="affine" if grid.affine is not None else "unknown",
        patient_orientation=grid.patient_orientation,
        modality=grid.modality,
        source=replace(grid.source),
    )
