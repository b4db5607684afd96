"""Small volumes of two ellipsoids with a manifest, and a 3-D pipeline that trains on them in seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (20, 16, 12)
SPACING_MM = (1.0, 1.2, 2.0)

PIPELINE = """\
medseg: 1
name: tiny
data:
  source: {use: manifest, path: cases.csv, root: .}
  split: {use: manifest}
labels: {front: {value: 1}, back: {value: 2}}
preprocess:
  - {use: standardise, method: zscore}
  - {use: resize, size: [16, 12, 8]}
augment:
  - {use: rotate, degrees: 10, probability: 0.5}
  - {use: noise, std: 0.05, probability: 0.5}
model: {use: unet, channels: [4, 8]}
training:
  epochs: 4
  batch_size: 4
  samples_per_epoch: 16
  learning_rate: 1e-2
  ema: 0.9
  checkpoint_every_steps: 1
inference: {window: [16, 12, 8]}
evaluation: {metrics: [dice], samples: 100}
gate: {refuse: false}
compute: {threads: 1, workers: 0}
"""


def write(folder: Path, *, count: int = 8) -> Path:
    """Write volumes, masks, manifest and pipeline; the pipeline's path. The same bytes each time."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        image, mask = _case(number)
        affine = np.diag([*SPACING_MM, 1.0])
        for array, name in ((image, f"v{number}.nii"), (mask, f"v{number}_mask.nii")):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / name)
        split = "test" if number == count - 1 else "validation" if number >= count - 3 else "train"
        rows.append(
            {
                "case_id": f"v{number}",
                "patient_id": f"p{number}",
                "image": f"v{number}.nii",
                "label": f"v{number}_mask.nii",
                "split": split,
            }
        )
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path = folder / "tiny.yaml"
    path.write_text(PIPELINE)
    return path


def _case(number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(number)
    axes = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    mask = np.zeros(SHAPE, np.uint8)
    for value, along in ((1, 0.3), (2, 0.7)):
        centre = np.array(SHAPE) * (along, 0.5, 0.5) + random.uniform(-1, 1, 3)
        radius = random.uniform(0.18, 0.25) * np.array(SHAPE)
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) < 1
        mask[inside] = value
    image = 100.0 * mask + random.normal(0, 20, SHAPE)
    return image.astype(np.float32), mask
