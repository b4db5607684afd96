"""How to look closer, or to correct: commands for 3D Slicer, ITK-SNAP and OHIF, and the labels for ITK-SNAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from medseg.report.case_data import CasePage

ITK_LABELS = "labels.itksnap.txt"
_IMAGE, _STUDY = "IMAGE", "STUDY_UID"


def hand_off(page: CasePage) -> Sequence[tuple[str, str]]:
    """(program, command) for the files that lie beside the page.

    The image is called IMAGE: its own path may tell who the patient is.
    """
    files = page.case.files
    mask = "segmentation.nii.gz"
    commands = []
    if not page.flat:
        script = f"slicer.util.loadVolume('{_IMAGE}');slicer.util.loadSegmentation('{mask}')"
        commands.append(("3D Slicer", f'Slicer --python-code "{script}"'))
        commands.append(("ITK-SNAP", f"itksnap -g {_IMAGE} -s {mask} -l {ITK_LABELS}"))
    if page.case.record["image"].get("format") == "dicom" and _has_seg(files):
        study = quote(page.study_uid) if page.study_uid else _STUDY
        commands.append(("OHIF", f"/viewer?StudyInstanceUIDs={study}"))
    return commands


def _has_seg(files: Mapping[str, str]) -> bool:
    return any(name.startswith("segmentation") and name.endswith(".dcm") for name in files)
