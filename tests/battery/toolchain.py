"""What the geometry battery needs of the code under test: one reader and three writers.

`MEDSEG` is the product. Other tool chains stand in for it to try the battery itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.labels import Code, Label, LabelTable
from medseg.volume import Volume

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


MEDSEG = Toolchain(read=_read, write_seg=_write_seg, write_rtstruct=_write_rtstruct, write_nifti=_write_nifti)
