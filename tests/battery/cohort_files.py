"""A cohort of small volumes with two structures, and a pipeline that cross-validates on it in seconds."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (24, 22, 20)
AFFINE = np.diag([1.0, 1.2, 1.5, 1.0])
PIPELINE = """\
medseg: 1
name: tiny
data:
  source: {use: manifest, path: cases.csv}
  split: {use: folds, count: 3, fold: all, validation: tested}
labels:
  front: {value: 1}
  back: {value: 2}
preprocess:
  - {use: normalise, method: percentile}
  - {use: resize, size: [16, 16, 16]}
model: {use: small_unet, channels: [8, 8]}
training: {epochs: 2, batch_size: 2, keep: last, learning_rate: 1e-2}
postprocess: auto
evaluation: {metrics: [dice, hd95, {use: nsd, tolerance_mm: 1}], samples: 100}
report: {cases: none}
compute: {threads: 1, workers: 0, device: cpu}
"""


def write_cohort(
    folder: Path, *, cases: int = 6, per_patient: int = 2, without_back: tuple[int, ...] = ()
) -> Path:
    """Write images, masks, cases.csv and the pipeline; its path.

    Case n is of patient n // per_patient, and of the fold of that patient modulo 3. The cases named in
    `without_back` lack the second structure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["case_id,patient_id,image,label,fold"]
    for number in range(cases):
        mask = _mask(np.random.default_rng(number).uniform(-2, 2, 3), back=number not in without_back)
        image = np.random.default_rng(100 + number).normal(0, 0.3, SHAPE) + 1.5 * mask
        for name, array in (("image", image.astype(np.float32)), ("mask", mask)):
            nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}{number}.nii.gz")
        patient = number // per_patient
        rows.append(f"c{number},p{patient},image{number}.nii.gz,mask{number}.nii.gz,{patient % 3}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "tiny.yaml").write_text(PIPELINE)
    return folder / "tiny.yaml"


def _mask(shift, *, back: bool):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    mask = np.zeros(SHAPE, np.uint8)
    for value, x, radii in ((1, 8, (5, 5, 4)), (2, 17, (3, 4, 4)))[: 2 if back else 1]:
        mask[(((grid - np.array([x, 11, 10]) - shift) / radii) ** 2).sum(axis=-1) < 1] = value
    return mask
