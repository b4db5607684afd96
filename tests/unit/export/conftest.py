"""Made-up sources for the exporters: projection images with no patient behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from medseg.labels import Code, Label, LabelTable

# The tests import the module that writes their series.
sys.path.insert(0, str(Path(__file__).parent))

ROWS, COLUMNS = 61, 53


@pytest.fixture
def table() -> LabelTable:
    return LabelTable(
        labels=(
            Label(
                name="lung_right",
                value=1,
                colour="#3aa0ff",
                side="right",
                pair="lung_left",
                code=Code(scheme="SCT", value="3341006", meaning="Right lung"),
            ),
            Label(
                name="lung_left",
                value=2,
                colour="#b684f5",
                side="left",
                pair="lung_right",
                code=Code(scheme="SCT", value="44029006", meaning="Left lung"),
            ),
            Label(
                name="heart",
                value=9,
                colour="#ffb03a",
                code=Code(scheme="SCT", value="80891009", meaning="Heart"),
            ),
        ),
        regions={"lung": ("lung_right", "lung_left")},
    )


@pytest.fixture
def label_map() -> np.ndarray:
    """(I, J) class indices: right lung at the left of the display, the heart missing."""
    label_map = np.zeros((COLUMNS, ROWS), dtype=np.uint8)
    label_map[5:20, 10:40] = 1
    label_map[30:48, 12:45] = 2
    label_map[np.random.default_rng(0).random(label_map.shape) < 0.05] = 0
    return label_map


def radiograph(**elements: Any) -> Dataset:
    """A CR image of 61 rows and 53 columns; a None removes an element."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "2.25.1", "2.25.2", "2.25.3"
    image.PatientName, image.PatientID = "Phantom^Chest", "PH-1"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate, image.StudyTime, image.StudyID = "20240229", "101112.5", "S1"
    image.AccessionNumber, image.ReferringPhysicianName = "A1", ""
    image.Modality, image.SeriesNumber, image.InstanceNumber = "CR", 1, 1
    image.Manufacturer, image.BodyPartExamined = "maker", "CHEST"
    image.PatientOrientation = ["L", "F"]
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME1", 1
    image.Rows, image.Columns = ROWS, COLUMNS
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = np.arange(ROWS * COLUMNS, dtype="<u2").tobytes()
    for keyword, value in elements.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    return image


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """Writes a radiograph with given elements and returns its path."""

    def write(**elements: Any) -> Path:
        with pydicom_config.disable_value_validation():
            image = radiograph(**elements)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.get("SOPInstanceUID", "2.25.1")
        path = tmp_path / "source.dcm"
        image.save_as(path, enforce_file_format=True)
        return path

    return write
