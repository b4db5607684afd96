"""Small synthetic volumes with two organs of known size, to try a 3-D pipeline where there are no data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case, write_manifest
from medseg.geometry import voxel_volume_mm3
from medseg.io.write_image import write_image
from medseg.volume import Volume

SHAPE = (36, 30, 20)
SPACING_MM = (2.5, 2.5, 3.5)
LABELS = {"organ_large": 1, "organ_small": 2}
"""Mask values by name."""
_SCANNERS = {"A": 14.0, "B": 26.0}
_TILT_DEGREES = 8.0
_MM3_PER_ML = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumePhantom:
    """One drawn volume.

    Parameters
    ----------
    image : (I, J, K) int16 array
        Background about 0, large organ about 60, small organ about 110; noise of its scanner.
    mask : (I, J, K) uint8 array
        Values of `LABELS`.
    affine : (4, 4) float64 array
        Voxel to RAS+ mm; slightly oblique.
    volumes_ml : dict of str to float
        Of the ellipsoids by their formula, not by counting voxels.
    """

    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    volumes_ml: dict[str, float]


def make_volume_phantom(seed: int, *, noise: float = 14.0) -> VolumePhantom:
    """Draw two ellipsoids that do not touch, in noise and a slope of intensity.

    Parameters
    ----------
    seed : int
        The same seed gives the same voxels.
    noise : float, optional
        Standard deviation, in units of the image.
    """
    random = np.random.default_rng(seed)
    affine = _affine(random)
    mask = np.zeros(SHAPE, np.uint8)
    volumes = {}
    axes = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    for (name, value), along, size in zip(LABELS.items(), (0.33, 0.76), (0.23, 0.14), strict=True):
        centre = np.array(SHAPE) * (along, 0.5, 0.5) + random.uniform(-1.5, 1.5, 3)
        radii = np.array((SHAPE[0], SHAPE[1], SHAPE[2] * 1.15)) * size * random.uniform(0.85, 1.15, 3)
        inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1.0
        mask[inside] = value
        volumes[name] = float(4 / 3 * np.pi * radii.prod() * voxel_volume_mm3(affine) / _MM3_PER_ML)
    slope = random.uniform(-12, 12) * (axes[0] / SHAPE[0] - 0.5)
    values = np.array((0.0, 60.0, 110.0))[mask] + slope + random.normal(0, noise, SHAPE)
    return VolumePhantom(
        image=np.round(values).astype(np.int16), mask=mask, affine=affine, volumes_ml=volumes
    )


def _affine(random: np.random.Generator) -> NDArray[np.float64]:
    """Axes a few degrees off the patient's, around the long axis of the body."""
    angle = np.radians(random.uniform(-_TILT_DEGREES, _TILT_DEGREES))
    affine = np.eye(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.diag((-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2]))
    affine[:3, 3] = random.uniform(-20, 20, 3)
    return affine


def write_volume_studies(folder: Path, *, cases: int = 16, seed: int = 5) -> Path:
    """Write synthetic volumes, masks and a manifest; every fourth patient comes twice.

    Parameters
    ----------
    folder : Path
        Gets `images/<case>.nii.gz`, `masks/<case>.nii.gz` and `manifest.csv`.
    cases : int, optional
        Number of volumes.
    seed : int, optional
        The same cases and seed give the same bytes.

    Returns
    -------
    Path
        The manifest; its further columns are `scanner` (B is noisier than A) and the true volume of each organ in ml.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    rows = []
    for number in range(cases):
        scanner = "AB"[number % 2]
        phantom = make_volume_phantom(seed * 10_000 + number, noise=_SCANNERS[scanner])
        case_id = f"vol-{number + 1:03d}"
        image, mask = folder / "images" / f"{case_id}.nii.gz", folder / "masks" / f"{case_id}.nii.gz"
        write_image(image, Volume(array=phantom.image[np.newaxis], affine=phantom.affine))
        write_image(mask, Volume(array=phantom.mask[np.newaxis], affine=phantom.affine), label_map=True)
        columns = {"scanner": scanner}
        columns |= {f"{name}_ml": f"{volume:.3f}" for name, volume in phantom.volumes_ml.items()}
        patient = f"P{number - number // 5 + 1:03d}"
        rows.append(Case(case_id=case_id, patient_id=patient, images=(image,), label=mask, columns=columns))
    manifest = folder / "manifest.csv"
    write_manifest(manifest, rows)
    return manifest
