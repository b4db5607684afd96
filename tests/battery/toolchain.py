"""What the geometry battery needs of the code under test: one reader and three writers.

`MEDSEG` is the product. Other tool chains stand in for it to try the battery itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.labels import Code, Label, LabelTable
from medseg.volume import ImageGrid, Volume

TABLE = LabelTable(
    labels=(
        Label(
            name="liver",
            value=1,
            colour="#c04030",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
        Label(
            name="spleen",
            value=2,
            colour="#8040a0",
            code=Code(scheme="SCT", value="78961009", meaning="Spleen"),
        ),
        Label(
            name="aorta",
            value=3,
            colour="#d02020",
            code=Code(scheme="SCT", value="15825003", meaning="Aorta"),
        ),
    )
)

LabelMap = NDArray[np.uint8]
Writer = Callable[[Path, LabelMap, Volume], None]


@dataclass(frozen=True)
class Toolchain:
    """Reader of a set of files, and writers of a label map on the grid of what was read."""

    read: Callable[[Sequence[Path]], Volume]
    write_seg: Writer
    write_rtstruct: Writer
    write_nifti: Writer


_MODEL = {"algorithm_name": "stand-in", "algorithm_version": "1.0", "weights_sha256": "ab" * 32}


def _read(paths: Sequence[Path]) -> Volume:
    from medseg.io.read import read_image

    return read_image(list(paths))


def _write_seg(path: Path, label_map: LabelMap, volume: Volume) -> None:
    from medseg.export.dicom_seg import write_dicom_seg

    write_dicom_seg(path, label_map, volume.grid, TABLE, **_MODEL)


def _write_rtstruct(path: Path, label_map: LabelMap, volume: Volume) -> None:
    from medseg.export.rtstruct import write_rtstruct

    write_rtstruct(path, label_map, volume.grid, TABLE, **_MODEL)


def _write_nifti(path: Path, label_map: LabelMap, volume: Volume) -> None:
    from medseg.export.nifti import write_segmentation

    write_segmentation(path, label_map, volume, TABLE)


def write_seg_of_kind(
    path: Path,
    label_map: LabelMap,
    grid: ImageGrid,
    table: LabelTable,
    *,
    kind: str,
    probabilities: NDArray[np.float32] | None = None,
    compression: str | None = None,
) -> bool:
    """Write a SEG of any kind with medseg; whether there was something to write."""
    from medseg.export.dicom_seg import write_dicom_seg

    options: dict[str, Any] = {"kind": kind, "probabilities": probabilities, "compression": compression}
    written = write_dicom_seg(path, label_map, grid, table, **_MODEL, **options)
    return written.path is not None


def write_volume_sr(
    path: Path, seg_path: Path, grid: ImageGrid, table: LabelTable, sizes: dict[str, tuple[float, str]]
) -> None:
    """Write a TID 1500 report with medseg: the volume (ml) or area (mm2, pixels) of each structure."""
    from medseg.export.dicom_sr import MeasuredValue, write_measurement_sr

    names = {"ml": "volume", "mm2": "area", "pixels": "area"}
    measures = {
        name: [MeasuredValue(measure=names[unit], value=value, unit=unit)]
        for name, (value, unit) in sizes.items()
    }
    write_measurement_sr(path, seg_path=seg_path, grid=grid, table=table, measures=measures)


MEDSEG = Toolchain(read=_read, write_seg=_write_seg, write_rtstruct=_write_rtstruct, write_nifti=_write_nifti)
