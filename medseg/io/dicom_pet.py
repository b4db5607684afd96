"""PET: Bq/ml -> body-weight standardised uptake value (SUVbw)."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from medseg.errors import InputRefusedError
from medseg.io.dicom_file import scan_file
from medseg.io.dicom_header import DicomHeader
from medseg.io.limits import ReadLimits
from medseg.io.series import SeriesVolume

_DATE_TIME = re.compile(r"(\d{8})(\d{2})(\d{2})(\d{2})(\.\d{1,6})?")
_DAY = timedelta(days=1)


def suv_factor(volume: SeriesVolume, limits: ReadLimits) -> float:
    """Number that turns the values of a PET series into SUVbw in g/ml.

    Parameters
    ----------
    volume : SeriesVolume
    limits : ReadLimits

    Returns
    -------
    float
        1 for a series that is stored as SUVbw (units GML); for BQML the patient's weight in g divided by
        the injected activity in Bq, decayed to the time that the images are corrected to.

    Raises
    ------
    InputRefusedError
        No PET, other units, or a value that the conversion needs is missing or impossible; nothing is guessed.

    References
    ----------
    QIBA FDG-PET/CT profile, vendor-neutral pseudo-code for SUV calculation; DICOM PS3.3 C.8.9.1 and C.8.9.2.
    """
    first = min(volume.slices, key=lambda header: str(header.path))
    header = DicomHeader(first.path, (scan_file(first.path, limits).dataset,))
    if volume.modality != "PT":
        raise _refused(volume, f"the modality is {volume.modality or 'not given'}, expected PT")
    units = header.code("Units")
    if units == "GML":
        if header.code("SUVType") not in ("", "BW"):
            raise _refused(volume, f"it is stored as SUV of type {header.code('SUVType')}, expected BW")
        return 1.0
    if units != "BQML":
        raise _refused(volume, f"its units are {units or 'not given'}, expected BQML or GML")
    corrected = {text.upper() for text in header.texts("CorrectedImage")}
    missing = {"ATTN", "DECY"} - corrected
    if missing:
        raise _refused(volume, f"CorrectedImage lacks {', '.join(sorted(missing))}")
    weight_kg = _positive(volume, header, "PatientWeight", 500)
    nuclide = header.items("RadiopharmaceuticalInformationSequence")
    if not nuclide:
        raise _refused(volume, "it names no radiopharmaceutical")
    dose = DicomHeader(first.path, (nuclide[0],))
    activity = _positive(volume, dose, "RadionuclideTotalDose", 1e13)
    method = header.code("DecayCorrection")
    if method == "START":
        half_life = _positive(volume, dose, "RadionuclideHalfLife", 1e10)
        activity *= 2.0 ** (-_uptake_seconds(volume, header, dose) / half_life)
    elif method != "ADMIN":
        raise _refused(volume, f"DecayCorrection is {method or 'not given'}, expected START or ADMIN")
    return weight_kg * 1000.0 / activity


def _uptake_seconds(volume: SeriesVolume, header: DicomHeader, dose: DicomHeader) -> float:
    """From the injection to the time that the images are corrected to: the start of the series."""
    scan = _time(header, "SeriesDate", "SeriesTime")
    acquired = _time(header, "AcquisitionDate", "AcquisitionTime")
    if scan is None or (acquired is not None and scan > acquired):
        # A derived series carries a later time of its own, which is not the time of the correction.
        raise _refused(volume, "SeriesTime is missing or later than the acquisition")
    start = _moment(next(iter(dose.texts("RadiopharmaceuticalStartDateTime")), ""))
    if start is None:
        start = _moment(scan.strftime("%Y%m%d") + next(iter(dose.texts("RadiopharmaceuticalStartTime")), ""))
        if start is not None and start > scan:
            start -= _DAY
    if start is None or not 0 <= (scan - start).total_seconds() < _DAY.total_seconds():
        raise _refused(volume, "the time of injection is missing or not in the day before the scan")
    return (scan - start).total_seconds()


def _time(header: DicomHeader, date: str, time: str) -> datetime | None:
    return _moment(next(iter(header.texts(date)), "") + next(iter(header.texts(time)), ""))


def _moment(text: str) -> datetime | None:
    match = _DATE_TIME.match(text)
    if match is None:
        return None
    try:
        moment = datetime.strptime("".join(match.groups()[:4]), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + timedelta(seconds=float(match.group(5) or 0))


def _positive(volume: SeriesVolume, header: DicomHeader, keyword: str, largest: float) -> float:
    found = header.numbers(keyword)
    if len(found) != 1 or not math.isfinite(found[0]) or not 0 < found[0] <= largest:
        raise _refused(volume, f"{keyword} is not one number between 0 and {largest:g}")
    return found[0]


def _refused(volume: SeriesVolume, reason: str) -> InputRefusedError:
    return InputRefusedError(
        f"{volume.slices[0].path.parent} ({volume.key}): SUV cannot be computed: {reason}; "
        "read the stored units instead"
    )
