"""Label map -> NIfTI on the source grid, with a sidecar that says what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.io.nifti import write_nifti, write_nifti_map
from medseg.labels import LabelTable
from medseg.provenance import sha256_file, write_json, write_text
from medseg.volume import Volume

SIDECAR_VERSION = 1
_MAPS = ("entropy.nii.gz", "disagreement.nii.gz", "variance.nii.gz", "probability_*.nii.gz")


def write_segmentation(
    path: Path,
    label_map: NDArray[Any],
    volume: Volume,
    table: LabelTable,
    *,
    notes: Sequence[str] = (),
) -> Path:
    """Write a label map as NIfTI and, beside it, `<name>.json` with its labels and grid.

    Parameters
    ----------
    path : Path
        Ends in .nii or .nii.gz; both files are whole or absent, the sidecar is written last and
        holds the hash of the NIfTI file.
    label_map : (*source) integer array
        Class indices on the grid of `volume`.
    volume : Volume
        The image that was segmented.
    table : LabelTable
        Class indices become its values.
    notes : sequence of str
        What a reader of the mask must know, one sentence each; no identifiers.

    Returns
    -------
    Path
        The sidecar.

    Raises
    ------
    LabelError
        A class index that the table does not have.
    GeometryError
        Another grid than the volume's.
    StorageError
        A file cannot be written.
    """
    counts = table.count(label_map)
    write_nifti(path, table.decode(label_map), volume)
    sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    write_json(sidecar, _sidecar(path, counts, volume, table, notes))
    return sidecar


def write_maps(
    folder: Path, maps: Mapping[str, NDArray[np.uint8]], volume: Volume, *, steps: int = 255
) -> None:
    """Write `<name>.nii.gz` for each map, and remove those of an earlier result that are not among them.

    Parameters
    ----------
    folder : Path
    maps : mapping of str to (*source) uint8 array
        On the grid of `volume`; `steps` stands for 1.
    volume : Volume
    steps : int, optional
    """
    for pattern in _MAPS:
        for path in folder.glob(pattern):
            if path.name.removesuffix(".nii.gz") not in maps:
                path.unlink(missing_ok=True)
    for name, values in maps.items():
        write_nifti_map(folder / f"{name}.nii.gz", values, volume, slope=1 / steps)


def write_sidecar(
    sidecar: Path,
    path: Path,
    label_map: NDArray[Any],
    volume: Volume,
    table: LabelTable,
    *,
    notes: Sequence[str] = (),
) -> None:
    """Write what the values of a mask file mean, its grid and its hash; see `write_segmentation`.

    Parameters
    ----------
    sidecar : Path
        The JSON file.
    path : Path
        The mask, already written.
    """
    write_json(sidecar, _sidecar(path, table.count(label_map), volume, table, notes))


def write_itksnap_labels(path: Path, table: LabelTable) -> None:
    """Write ITK-SNAP's label description file: value, colour and name of each label, opaque and visible.

    References
    ----------
    ITK-SNAP, Label Description File: IDX R G B A VIS MSH LABEL; a name has no quotation marks.
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in table.labels:
        red, green, blue = (int(label.colour[k : k + 2], 16) for k in (1, 3, 5))
        name = label.name.replace('"', "'")
        lines.append(f'{label.value:5d} {red:5d}{green:5d}{blue:5d}        1  1  1    "{name}"')
    write_text(path, "\n".join(lines) + "\n")


def _sidecar(
    path: Path, counts: NDArray[np.int64], volume: Volume, table: LabelTable, notes: Sequence[str]
) -> dict[str, Any]:
    described = {item["name"]: item for item in table.to_json()["labels"]}
    labels = [
        # The segment number is that of the DICOM SEG of the same result.
        {**described[label.name], "segment_number": number, "voxels": int(counts[number])}
        for number, label in enumerate(table.labels, start=1)
    ]
    return {
        "medseg_segmentation": SIDECAR_VERSION,
        "file": path.name,
        "sha256": sha256_file(path),
        "labels": labels,
        "regions": {name: list(members) for name, members in table.regions.items()},
        "grid": {
            "shape": list(volume.spatial_shape),
            "affine": None if volume.affine is None else [[float(v) for v in row] for row in volume.affine],
            "world": None if volume.affine is None else "RAS+ mm",
            "spacing_mm": None if volume.spacing_mm is None else [float(v) for v in volume.spacing_mm],
            "spacing_origin": volume.spacing_origin,
            "patient_orientation": None
            if volume.patient_orientation is None
            else list(volume.patient_orientation),
        },
        "source": {
            "format": volume.source.format,
            "modality": volume.modality,
            "sha256": volume.source.sha256,
            "pixel_sha256": volume.pixel_sha256,
        },
        "notes": list(notes),
    }
