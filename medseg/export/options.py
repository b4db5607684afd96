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
    "html",
    "html_zh",
    "png",
    "overlay",
    "entropy",
    "disagreement",
    "variance",
    "probabilities",
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
report as PDF (needs medseg[pdf]); html and html_zh: `report.html` and `report.zh.html`, the page of the case in
English and in Chinese (a run writes `report.html` anyway, with its cohort and reference); png: `mask.png`,
values of the label table; overlay: `overlay.png`,
contours on the image. Maps on the grid of the image, as NIfTI whose stored bytes are steps of 1 / 255: entropy:
`entropy.nii.gz`, 0 where one class is certain to 1 where all are equally likely; disagreement and variance:
`disagreement.nii.gz` and `variance.nii.gz`, of the members of an ensemble; probabilities: `probability_<label>.nii.gz`.
Of recognised targets, which need a section `recognise`: instance_seg: `instances.dcm`, a DICOM SEG with a segment for
each; instance_sr: `instance_measurements.dcm`, their sizes and places as DICOM SR that refers to it; coco:
`coco.json`, those of a picture as COCO data set.
"""

OBJECT_FILES: dict[ExportName, str] = {
    "dicom_seg_labelmap": "segmentation_labelmap.dcm",
    "rtstruct": "structures.dcm",
    "measurement_sr": "measurements.dcm",
    "presentation_state": "presentation_state.dcm",
    "secondary_capture": "secondary_capture.dcm",
    "encapsulated_pdf": "report.dcm",
    "html": "report.html",
    "html_zh": "report.zh.html",
}
"""DICOM objects besides the SEG, and pages; the file of each. Those that name the others come last."""

TARGET_FILES: dict[ExportName, str] = {
    "instance_seg": "instances.dcm",
    "instance_sr": "instance_measurements.dcm",
    "coco": "coco.json",
}
"""Files of recognised targets."""

ContentQualification = Literal["RESEARCH", "PRODUCT", "SERVICE"]
"""DICOM (0018,9004). PRODUCT claims a cleared device and is never a default."""
