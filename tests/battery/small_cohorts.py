"""A bundle without training that thresholds in its way, small volumes as NIfTI and DICOM, and what a run left."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np

from medseg.data.dicom_phantoms import write_series
from medseg.labels import Code, Label, LabelTable
from medseg.models.bundle import Bundle
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.models.bundle_writer import write_bundle
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network

SHAPE = (20, 18, 12)
SPACING_MM = (1.0, 1.2, 2.0)
ABOUT = BundleAbout(
    name="test-organ",
    version="1.0.0",
    description="An organ on synthetic volumes.",
    licence="CC0-1.0",
    intended_use="Tests.",
)
RANGES = {"spacing_finest_mm": (0.8, 1.2), "spacing_coarsest_mm": (1.5, 3.0)}
TABLE = LabelTable(
    labels=(
        Label(
            name="organ",
            value=1,
            colour="#c04030",
            code=Code(scheme="SCT", value="10200004", meaning="Liver"),
        ),
    )
)


def write_small_bundle(
    folder: Path,
    *,
    in_channels: int = 1,
    seed: int = 0,
    ranges: dict[str, tuple[float, float]] | None = None,
    window: tuple[int, int, int] = (16, 16, 8),
) -> Bundle:
    """A 3-D bundle whose network has random weights."""
    network = build_network(
        SmallUNetOptions(channels=(4, 8), groups=2),
        spatial_dims=3,
        in_channels=in_channels,
        class_count=TABLE.class_count,
        seed=seed,
    )
    return write_bundle(
        folder,
        about=ABOUT,
        network=network,
        table=TABLE,
        preprocess=[{"use": "standardise", "method": "zscore"}],
        training=TrainingRecord(
            data="None.",
            cases=0,
            epochs=0,
            seconds=0.0,
            settings_sha256="0" * 64,
            input_ranges=ranges or {},
        ),
        inference={"window": list(window), "overlap": 0.25},
        window=window,
    )


def small_image(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Noise with a bright box, int16; another for each number."""
    random = np.random.default_rng(number)
    image = random.normal(0, 30, shape)
    image[3:9, 4:11] += 200 + 10 * number
    return np.round(image).astype(np.int16)


def write_nifti(path: Path, array: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM) -> Path:
    """A NIfTI file with a diagonal affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)
    return path


def write_cohort(folder: Path, count: int) -> Path:
    """So many volumes, v00.nii and so on; the folder."""
    for number in range(count):
        write_nifti(folder / f"v{number:02d}.nii", small_image(number))
    return folder


def write_ct(
    folder: Path, number: int = 0, *, shape: tuple[int, int, int] = SHAPE, study: str | None = None
) -> Path:
    """A CT series, one file a slice, with UIDs of its own; also of a study that others are of."""
    affine = np.diag([-0.8, -0.9, 2.4, 1.0])
    affine[:3, 3] = (12.0, 20.0, -100.0)
    same = (
        None
        if study is None
        else {k: {"StudyInstanceUID": study, "PatientID": "PHANTOM-S"} for k in range(shape[2])}
    )
    write_series(
        folder, small_image(number, shape), affine, uid_root=str(number + 1), per_slice_overrides=same
    )
    return folder


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of every mask below an output folder, by case."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.glob("*/segmentation.nii.gz"))
    }


def listed(output: Path) -> list[str]:
    """Cases of predictions.json, in order."""
    return [case["case_id"] for case in json.loads((output / "predictions.json").read_text())["cases"]]


def leftovers(output: Path) -> list[str]:
    """Temporary files and folders below an output folder."""
    return [str(path) for path in output.rglob("*medseg-part*")]
