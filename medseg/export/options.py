"""What a YAML may say about exports. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

ExportName = Literal["nifti", "dicom_seg", "png", "overlay"]
"""One kind of file per case.

nifti: `segmentation.nii.gz` with `segmentation.json`; dicom_seg: `segmentation.dcm`, for DICOM
projection images; png: `mask.png`, values of the label table; overlay: `overlay.png`, contours on the image.
"""

ContentQualification = Literal["RESEARCH", "PRODUCT", "SERVICE"]
"""DICOM (0018,9004). PRODUCT claims a cleared device and is never a default."""
