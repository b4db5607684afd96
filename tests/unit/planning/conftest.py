"""Synthetic fingerprints whose plans are known."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.planning.fingerprint import CaseFingerprint, ChannelStatistics, Fingerprint, StructureSize


def _case(case_id, shape, spacing, *, channels, voxels, **fields):
    affine = None
    if spacing is not None and len(shape) == 3:
        affine = tuple(tuple(map(float, row)) for row in np.diag([*spacing, 1.0]))
    values = {
        "patient_orientation": None,
        "modality": "",
        "format": "nifti",
        "low": 0.0,
        "high": 900.0,
        "whole": True,
        "zero_share": 0.0,
    } | fields
    return CaseFingerprint(
        case_id=case_id,
        shape=tuple(shape),
        channels=channels,
        spacing_mm=spacing,
        affine=affine,
        voxels=voxels,
        foreground_voxels=sum(voxels.values()),
        **values,
    )


@pytest.fixture(scope="session")
def fingerprint_of():
    """Make a fingerprint of cases with the given shapes and spacings."""

    def make(shapes, spacings, *, channels=1, voxels=None, intensities=None, **fields):
        voxels = voxels or {"organ": 3000}
        cases = tuple(
            _case(f"c{n}", shape, spacing, channels=channels, voxels=voxels, **fields)
            for n, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
        )
        statistics = (
            intensities
            or [ChannelStatistics(low=50.0, median=300.0, high=700.0, mean=310.0, std=120.0)] * channels
        )
        sizes = {
            name: StructureSize(cases=len(cases), voxels_median=count, voxels_least=count)
            for name, count in voxels.items()
        }
        return Fingerprint(cases=cases, intensities=tuple(statistics), structures=sizes)

    return make
