"""Readers as the settings want them: which colours and modalities are accepted, sides resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config.schema import PipelineConfig
from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case
from medseg.io.read import read_image, read_label
from medseg.labels import LabelTable
from medseg.volume import Volume


def image_reader(config: PipelineConfig) -> Callable[[Sequence[Path]], Volume]:
    """A reader that refuses what the settings do not accept."""
    gray_only = config.refuses_colour
    modality = frozenset(config.data.modality) or None

    def read(paths: Sequence[Path]) -> Volume:
        return read_image(paths, gray_only=gray_only, modality=modality, fourth_axis=config.data.fourth_axis)

    return read


def mask_reader(config: PipelineConfig) -> Callable[[Path, Volume], NDArray[Any]]:
    """A reader that brings a mask onto the grid of its image, (1, *spatial), as the settings allow."""
    resample = config.data.label_resample

    def read(path: Path, like: Volume) -> NDArray[Any]:
        return read_label(path, like, resample=resample)

    return read


def read_reference(case: Case, like: Volume, config: PipelineConfig, table: LabelTable) -> NDArray[np.int16]:
    """Mask of a case as set indices on the grid of its image, (1, *spatial)."""
    if case.label is None:
        raise ValueError("a case without a mask has no reference")
    return encode_mask(mask_reader(config)(case.label, like), scheme=case.scheme, like=like, table=table)
