"""Frames of a multi-frame DICOM file, one after the other."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medseg.errors import InputRefusedError
from medseg.io.cine import read_cine


def write(path, frames, *, sop_class="1.2.840.10008.5.1.4.1.1.3.1", **elements):
    """An ultrasound cine of (N, rows, columns[, 3]) uint8 frames."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.Modality = "US"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    colour = frames.ndim == 4
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = frames.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return dataset.SOPInstanceUID


@pytest.mark.parametrize("shape", [(4, 10, 14), (3, 6, 8, 3), (1, 6, 8)])
def test_frames_come_in_their_order(shape, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    instance = write(tmp_path / "cine.dcm", frames)
    found = list(read_cine(tmp_path / "cine.dcm"))
    assert len(found) == shape[0]
    for number, (volume, frame) in enumerate(zip(found, frames, strict=True), start=1):
        expected = frame.T[None] if frame.ndim == 2 else frame.transpose(2, 1, 0)
        np.testing.assert_array_equal(volume.array, expected)
        assert volume.array.dtype == np.float32
        assert (volume.source.frame_numbers, volume.source.sop_instance_uids) == ((number,), (instance,))
        assert volume.modality == "US"


def test_frames_of_monochrome1_are_turned_over(tmp_path):
    frames = np.arange(2 * 6 * 8, dtype=np.uint8).reshape(2, 6, 8)
    write(tmp_path / "cine.dcm", frames, PhotometricInterpretation="MONOCHROME1")
    found = [volume.array[0].T for volume in read_cine(tmp_path / "cine.dcm")]
    np.testing.assert_array_equal(found, 255 - frames.astype(np.float32))


def test_slices_of_a_volume_are_refused(tmp_path):
    frames = np.ones((2, 6, 8), np.uint8)
    groups = {
        name: [Dataset()] for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    }
    write(tmp_path / "ct.dcm", frames, **groups)
    with pytest.raises(InputRefusedError, match="slices of a volume"):
        next(read_cine(tmp_path / "ct.dcm"))
