"""Grids foretold from headers are those that preprocessing gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.pipeline.prepared_grids import prepared_grid, unseen_case
from medseg.planning.fingerprint import CaseFingerprint
from medseg.transforms.options import Crop, Normalise, Orient, Pad, PreprocessStep, Resample, Resize
from medseg.transforms.preprocess import preprocess
from medseg.volume import Volume

ORIENTATIONS = ("RAS", "LPS", "SAL", "AIR", "PRI")


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    """A volume whose axes are those of the patient, with other values in every voxel."""
    values = np.random.default_rng(5).normal(size=(1, *shape)).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10.0, 4.0, 30.0)
    return Volume(array=values, affine=affine, spacing_mm=spacing)


def fingerprint_of(volume: Volume) -> CaseFingerprint:
    """The headers of a volume as the check of a run keeps them."""
    assert volume.affine is not None
    return CaseFingerprint(
        case_id="c1",
        shape=volume.spatial_shape,
        channels=1,
        spacing_mm=volume.spacing_mm,
        affine=tuple(tuple(float(v) for v in row) for row in volume.affine),
        patient_orientation=None,
        modality="MR",
        format="nifti",
        low=-3.0,
        high=3.0,
        whole=False,
        zero_share=0.0,
        voxels={"liver": 5},
        foreground_voxels=5,
    )


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(9, 24), st.integers(9, 24), st.integers(9, 24)),
    spacing=st.tuples(st.floats(0.6, 4), st.floats(0.6, 4), st.floats(0.6, 4)),
    to=st.sampled_from(ORIENTATIONS),
    start=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(2, 6)),
    new_spacing=st.tuples(st.floats(0.8, 3), st.floats(0.8, 3), st.floats(0.8, 3)),
    multiple=st.integers(1, 8),
    last=st.sampled_from(["none", "resize", "stretch"]),
)
def test_a_foretold_grid_is_that_of_the_prepared_image(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    to: str,
    start: tuple[int, int, int],
    size: tuple[int, int, int],
    new_spacing: tuple[float, float, float],
    multiple: int,
    last: str,
) -> None:
    volume = volume_of(shape, spacing)
    steps: list[PreprocessStep] = [
        Orient(to=to),
        Crop(method="box", start=start, size=size),
        Resample(spacing_mm=new_spacing),
        Pad(multiple=multiple),
        Normalise(method="range"),
    ]
    if last != "none":
        steps.append(Resize(size=(7, 8, 11), keep_aspect=last == "resize"))
    found = prepared_grid(fingerprint_of(volume), steps)
    prepared = preprocess(volume, steps)
    assert found.shape == prepared.array.shape[1:]
    assert found.spacing_mm == pytest.approx(prepared.spacing_mm)


def test_a_box_beyond_the_image_is_refused_from_its_header() -> None:
    case = fingerprint_of(volume_of((9, 10, 11), (1.0, 2.0, 3.0)))
    with pytest.raises(GeometryError, match="beyond the image of size"):
        prepared_grid(case, [Crop(method="box", start=(2, 2, 2), size=(8, 8, 8))])


def test_a_crop_by_values_is_left_out() -> None:
    case = fingerprint_of(volume_of((9, 10, 11), (1.0, 2.0, 3.0)))
    found = prepared_grid(case, [Crop(method="foreground", threshold=0.5), Pad(multiple=4)])
    assert found.shape == (12, 12, 12)


def test_a_case_that_was_only_checked_has_the_orientation_of_a_training_case() -> None:
    like = fingerprint_of(volume_of((9, 10, 11), (1.0, 2.0, 3.0)))
    fact = {"spacing_mm": [3.0, 1.0, 2.0], "shape": [20, 30, 40], "channels": 1, "modality": "MR"}
    found = prepared_grid(unseen_case("c2", fact, like=like), [Orient(to="SAL")])
    # Stored towards right, anterior and superior: the third axis comes first, the first one last and turned.
    assert found.shape == (40, 30, 20)
    assert found.spacing_mm == (2.0, 1.0, 3.0)
    assert found.case_id == "c2"
