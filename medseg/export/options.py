"""What a YAML may say about exports. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

ExportName = Literal[
    "nifti",
    "dicom_seg",
    "dicom_seg_labelmap",
    "rtstruct",
    "measurement_sr",
    "presentation_state",
    "secondary_capture",
    "encapsulated_pdf",
    "png",
    "overlay",
    "instance_seg",
    "instance_sr",
    "coco",
]
"""One kind of file per case.

nifti: `segmentation.nii.gz` with `segmentation.json`; dicom_seg: `segmentation.dcm`, for DICOM images;
dicom_seg_labelmap: `segmentation_labelmap.dcm`, the same as label map, which new viewers read; rtstruct:
`structures.dcm`, contours for therapy systems, for images with a place in the patient;
measurement_sr: `measurements.dcm`, the numbers named in `measure` as DICOM SR that refers to the SEG;
presentation_state: `presentation_state.dcm`, contours over a DICOM radiograph; secondary_capture:
`secondary_capture.dcm`, a picture with burned-in contours; encapsulated_pdf: `report.dcm`, the case's
report as PDF (needs medseg[pdf]); png: `mask.png`, values of the label table; overlay: `overlay.png`,
contours on the image; instance_seg: `instances.dcm`, the recognised targets as DICOM SEG with a segment each;
instance_sr: `instance_measurements.dcm`, their sizes and places as DICOM SR that refers to it; coco: `coco.json`, the
targets of a picture as COCO data set. The last three need a section `recognise`.
"""

ContentQualification = Literal["RESEARCH", "PRODUCT", "SERVICE"]
"""DICOM (0018,9004). PRODUCT claims a cleared device and is never a default."""
