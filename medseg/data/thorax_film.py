"""The X-ray side of a chest phantom: the plane of the film, shadows of points, exposure and tone.

World: x in mm towards the patient's left, z in mm towards the feet, both in the plane of the film.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Table = NDArray[np.float64]
DetectorName = Literal["cr_a", "cr_b", "dx_c", "dx_d"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Where the picture lies in the plane of the film.

    Parameters
    ----------
    shape : (int, int)
        (I, J): columns, rows.
    spacing_mm : float
        Distance of pixel centres, the same along i and j.
    centre_mm : (float, float)
        World (x, z) at the centre of the picture.
    tilt_rad : float
        Turn of the patient within the plane of the film.
    """

    shape: tuple[int, int]
    spacing_mm: float
    centre_mm: tuple[float, float]
    tilt_rad: float

    def coordinates(self) -> tuple[Field, Field]:
        """World x and z of every pixel centre, each (I, J), mm."""
        u = (np.arange(self.shape[0], dtype=np.float32) - (self.shape[0] - 1) / 2) * self.spacing_mm
        v = (np.arange(self.shape[1], dtype=np.float32) - (self.shape[1] - 1) / 2) * self.spacing_mm
        cos, sin = np.float32(np.cos(self.tilt_rad)), np.float32(np.sin(self.tilt_rad))
        x = cos * u[:, None] + sin * v[None, :] + np.float32(self.centre_mm[0])
        z = -sin * u[:, None] + cos * v[None, :] + np.float32(self.centre_mm[1])
        return x, z

    def index(self, x: Table, z: Table) -> tuple[Table, Table]:
        """Fractional (i, j) of world points."""
        cos, sin = np.cos(self.tilt_rad), np.sin(self.tilt_rad)
        dx, dz = x - self.centre_mm[0], z - self.centre_mm[1]
        u, v = cos * dx - sin * dz, sin * dx + cos * dz
        return u / self.spacing_mm + (self.shape[0] - 1) / 2, v / self.spacing_mm + (self.shape[1] - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Weighted points on the film plane: x, z in mm and weight in mm^3, all (N,)."""

    x: Table
    z: Table
    weight: Table


def splat(film: Film, clouds: Sequence[Points], *, blur_mm: float = 0.0) -> Field:
    """Thickness map of point clouds on a film: (I, J), mm. Each point is shared by four pixels."""
    if not clouds:
        return np.zeros(film.shape, dtype=np.float32)
    i, j = film.index(np.concatenate([c.x for c in clouds]), np.concatenate([c.z for c in clouds]))
    weight = np.concatenate([c.weight for c in clouds])
    columns, lines = film.shape
    keep = (i >= 0) & (i < columns - 1) & (j >= 0) & (j < lines - 1)
    i, j, weight = i[keep], j[keep], weight[keep]
    left, top = i.astype(np.int64), j.astype(np.int64)
    u, v = i - left, j - top
    flat = left * lines + top
    total = np.zeros(columns * lines)
    for offset, share in ((0, (1 - u) * (1 - v)), (1, (1 - u) * v), (lines, u * (1 - v)), (lines + 1, u * v)):
        total += np.bincount(flat + offset, weights=weight * share, minlength=columns * lines)
    image = (total / film.spacing_mm**2).astype(np.float32).reshape(film.shape)
    return gaussian_filter(image, blur_mm / film.spacing_mm) if blur_mm else image


def smooth_noise(rng: np.random.Generator, film: Film, scale_mm: float) -> Field:
    """(I, J) noise of unit variance whose features are about `scale_mm` wide."""
    step = max(scale_mm / film.spacing_mm / 3, 1.0)
    coarse = tuple(int(np.ceil(n / step)) + 4 for n in film.shape)
    noise = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 1.5)
    noise /= noise.std()
    fine = zoom(noise, step, order=1) if step > 1 else noise
    return np.ascontiguousarray(fine[: film.shape[0], : film.shape[1]], dtype=np.float32)


def wide_mean(image: Field, sigma_px: float) -> Field:
    """Gaussian mean over a wide neighbourhood, computed on a coarse grid; (I, J)."""
    step = max(int(sigma_px // 4), 1)
    columns, lines = image.shape
    padded = np.pad(image, ((0, -columns % step), (0, -lines % step)), mode="edge")
    coarse = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).mean(axis=(1, 3))
    coarse = gaussian_filter(coarse, sigma_px / step, mode="nearest")
    fine = zoom(coarse, step, order=1, grid_mode=True, mode="nearest")
    return np.ascontiguousarray(fine[:columns, :lines], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """How one make of receptor shows a shadow.

    `quanta` is the mean count per pixel in open air, `blur_mm` the point spread, `scatter` its share of
    the primary per unit of log attenuation, `flat` how far large structures keep their contrast,
    `sharp` the gain of fine ones, `lung` and `soft` the display values of lung and heart.
    """

    quanta: float
    blur_mm: float
    scatter: float
    flat: float
    sharp: float
    lung: float
    soft: float


DETECTORS: dict[DetectorName, Detector] = {
    "cr_a": Detector(quanta=1.5e4, blur_mm=0.36, scatter=0.26, flat=0.66, sharp=0.45, lung=0.42, soft=0.80),
    "cr_b": Detector(quanta=1.0e4, blur_mm=0.42, scatter=0.34, flat=0.72, sharp=0.25, lung=0.48, soft=0.84),
    "dx_c": Detector(quanta=4e4, blur_mm=0.24, scatter=0.20, flat=0.55, sharp=0.75, lung=0.38, soft=0.78),
    "dx_d": Detector(quanta=3e4, blur_mm=0.28, scatter=0.23, flat=0.62, sharp=0.60, lung=0.44, soft=0.80),
}


def expose(
    shadow: Field, film: Film, detector: Detector, *, lungs: Mask, heart: Mask, rng: np.random.Generator
) -> Field:
    """Scatter, quantum noise, point spread, then the display processing; (I, J) in [0, 1]."""
    light = np.exp(-shadow)
    fog = detector.scatter * float(rng.uniform(0.7, 2.0))
    light = light + fog * wide_mean(light * shadow, 25 / film.spacing_mm)
    quanta = detector.quanta * float(rng.uniform(0.5, 1.6))
    light = light + np.sqrt(light / quanta) * rng.standard_normal(film.shape, dtype=np.float32)
    light = gaussian_filter(light, detector.blur_mm / film.spacing_mm)
    density = -np.log(np.maximum(light, 1e-4))
    # dynamic range compression and edge enhancement, as receptors' software does
    large = wide_mean(np.maximum(density, 0.8), 22 / film.spacing_mm)
    fine = density - gaussian_filter(density, 3 / film.spacing_mm)
    level = density - (1 - detector.flat) * large + detector.sharp * fine
    tone = _tone(level, detector, lungs=lungs, heart=heart, rng=rng)
    shown = tone * np.clip((density - 0.12) / 0.5, 0, 1)
    return np.asarray(np.clip(shown + 0.015, 0, 1), dtype=np.float32)


def _tone(level: Field, detector: Detector, *, lungs: Mask, heart: Mask, rng: np.random.Generator) -> Field:
    """Display curve: an S that puts lung and heart at the detector's grey values."""
    dark = float(np.median(level[lungs]))
    bright = float(np.median(level[heart]))
    low, high = 0.12, 0.97
    lung, soft = (v + float(rng.normal(0, 0.04)) for v in (detector.lung, detector.soft))
    a, b = (float(np.log((v - low) / (high - v))) for v in (lung, soft))
    return np.asarray(low + (high - low) / (1 + np.exp(-(a + (b - a) * (level - dark) / (bright - dark)))))


def collimate(image: Field, lungs: Mask, rng: np.random.Generator) -> Field:
    """Dark borders where the beam was shut, a little askew, outside the lungs; (I, J) float32."""
    i, j = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])[None, :]
    opened = np.ones(image.shape, dtype=np.float32)
    for axis, along, across in ((0, i, j), (1, j, i)):
        used = np.flatnonzero(lungs.any(axis=1 - axis))
        for margin, distance in ((used[0], along), (image.shape[axis] - 1 - used[-1], along.max() - along)):
            if rng.uniform() < 0.55:
                continue
            askew = rng.normal(0, 0.006)
            slack = margin - 6 - abs(askew) * across.max()
            edge = min(rng.uniform(0.0, 0.035) * image.shape[axis], slack)
            opened *= np.clip(distance - edge - askew * (across - across.max() / 2) + 0.5, 0, 1)
    return np.asarray(image * (0.01 + 0.99 * opened), dtype=np.float32)
