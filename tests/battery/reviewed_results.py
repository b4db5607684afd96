"""Predictions as `medseg predict` leaves them, made without a network: oblique volumes, two labels, flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.spatial.transform import Rotation

from medseg.export.nifti import write_segmentation
from medseg.io.nifti import read_nifti
from medseg.labels import Code, Label, LabelTable
from medseg.provenance import sha256_file, write_json

SHAPE = (14, 11, 8)
SPACING_MM = (0.8, 1.1, 2.5)
TABLE = LabelTable(
    labels=(
        Label(
            name="liver",
            value=2,
            colour="#e8743b",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
        Label(
            name="spleen",
            value=7,
            colour="#2bb673",
            code=Code(scheme="SCT", value="78961009", meaning="Spleen"),
        ),
    ),
    regions={"both": ("liver", "spleen")},
)
MODEL = {"name": "test-organs", "version": "1.0.0", "licence": "CC0-1.0", "weights_sha256": "ab" * 32}


def oblique() -> np.ndarray:
    """Voxel to RAS+ mm: no axis along a world axis, left-handed."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (11, -7, 23), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-SPACING_MM[0], SPACING_MM[1], SPACING_MM[2]])
    affine[:3, 3] = (31.5, -20.25, 104.0)
    return affine


def predicted(number: int) -> np.ndarray:
    """Class indices: two boxes that differ from case to case."""
    classes = np.zeros(SHAPE, np.uint8)
    classes[2:7, 2:6, 1:6] = 1
    classes[8:12, 3 : 7 + number % 3, 2:5] = 2
    return classes


def record(case_id: str, digest: str, **changes: Any) -> dict[str, Any]:
    """A measurements.json with what a review reads."""
    value = {
        "format": 1,
        "case_id": case_id,
        "key": "0" * 64,
        "model": MODEL,
        "verdict": "pass",
        "flags": [],
        "checks": [],
        "image": {"file_sha256": digest},
        "confidence": {"liver": {"mean_probability": 0.99}, "spleen": {"mean_probability": 0.97}},
        "measurements": {},
        "export_notes": [],
        "files": [],
    }
    return value | changes


def flag(code: str, level: str, structure: str = "liver") -> dict[str, Any]:
    """A flag as measurements.json has it."""
    return {"code": code, "level": level, "structure": structure, "text": f"something about the {structure}"}


def write_results(folder: Path, count: int = 3, *, affine: np.ndarray | None = None) -> tuple[Path, Path]:
    """Images `images/c<n>.nii.gz` and results `results/c<n>/`; both folders."""
    images, results = folder / "images", folder / "results"
    images.mkdir(parents=True)
    cases = []
    for number in range(count):
        case_id = f"c{number}"
        path = images / f"{case_id}.nii.gz"
        voxels = np.random.default_rng(number).normal(0, 30, SHAPE).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, oblique() if affine is None else affine), path)
        volume = read_nifti(path)
        write_segmentation(results / case_id / "segmentation.nii.gz", predicted(number), volume, TABLE)
        write_json(results / case_id / "measurements.json", record(case_id, sha256_file(path)))
        cases.append({"case_id": case_id, "folder": case_id, "verdict": "pass", "notes": []})
    (results / "predictions.json").write_text(json.dumps({"format": 1, "model": MODEL, "cases": cases}))
    return images, results


def values_of(path: Path) -> np.ndarray:
    """Stored values of a mask, by nibabel."""
    return np.asarray(nibabel.load(path).dataobj)
