"""Coded concepts of measurement reports: what is measured, in which unit, of which procedure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import highdicom as hd
from pydicom.sr.codedict import codes

Concept: TypeAlias = hd.sr.CodedConcept


def _of(code: object) -> Concept:
    return Concept.from_code(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementConcept:
    """How one number is coded: concept, UCUM unit, and where needed derivation and method."""

    name: Concept
    unit: Concept
    derivation: Concept | None = None
    method: Concept | None = None


_LONG_AXIS = _of(codes.SCT.LongAxis)
_SHORT_AXIS = _of(codes.SCT.ShortAxis)
# The mesh of marching cubes that the long axis is defined on, CID 7470.
_LONG_AXIS_METHOD = Concept("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
_VOLUME_METHOD = _of(codes.DCM.SumOfSegmentedVoxelMethodForVolume)
_PIXELS = Concept("{pixels}", "UCUM", "pixels")
_MILLIMETRE = _of(codes.UCUM.Millimeter)
_NO_UNITS = _of(codes.UCUM.NoUnits)

_SIZES: dict[tuple[str, str], MeasurementConcept] = {
    ("volume", "ml"): MeasurementConcept(
        name=_of(codes.SCT.Volume), unit=_of(codes.UCUM.CubicCentimeter), method=_VOLUME_METHOD
    ),
    ("area", "mm2"): MeasurementConcept(name=_of(codes.SCT.Area), unit=_of(codes.UCUM.SquareMillimeter)),
    ("area", "pixels"): MeasurementConcept(name=_of(codes.SCT.Area), unit=_PIXELS),
    ("width", "mm"): MeasurementConcept(name=_of(codes.SCT.Width), unit=_MILLIMETRE),
    ("width", "pixels"): MeasurementConcept(name=_of(codes.SCT.Width), unit=_PIXELS),
    ("long_axis", "mm"): MeasurementConcept(name=_LONG_AXIS, unit=_MILLIMETRE),
    ("long_axis", "pixels"): MeasurementConcept(name=_LONG_AXIS, unit=_PIXELS),
    # In a plane and at right angles, as RECIST measures: no method of a mesh in space.
    ("plane_long_axis", "mm"): MeasurementConcept(name=_LONG_AXIS, unit=_MILLIMETRE),
    ("plane_long_axis", "pixels"): MeasurementConcept(name=_LONG_AXIS, unit=_PIXELS),
    ("plane_short_axis", "mm"): MeasurementConcept(name=_SHORT_AXIS, unit=_MILLIMETRE),
    ("plane_short_axis", "pixels"): MeasurementConcept(name=_SHORT_AXIS, unit=_PIXELS),
}
_DERIVATIONS = {
    "mean_intensity": _of(codes.SCT.Mean),
    "sd_intensity": _of(codes.SCT.StandardDeviation),
    "min_intensity": _of(codes.SCT.Minimum),
    "max_intensity": _of(codes.SCT.Maximum),
}
_ACTIVITY = _of(codes.DCM.NuclearMedicineTomographicActivity)
# Unit as measured -> concept and unit; CID 7180, CID 84, CID 85.
_INTENSITIES: dict[str, tuple[Concept, Concept]] = {
    "HU": (_of(codes.DCM.AttenuationCoefficient), _of(codes.UCUM.HounsfieldUnit)),
    "g/ml{SUVbw}": (_of(codes.DCM.Suvbw), _of(codes.UCUM.StandardizedUptakeValueBodyWeight)),
    "g/ml{SUVlbm}": (_of(codes.DCM.Suvlbm), _of(codes.UCUM.StandardizedUptakeValueLeanBodyMassJames)),
    "g/ml{SUVlbm(Janma)}": (
        _of(codes.DCM.SuvlbmJanma),
        _of(codes.UCUM.StandardizedUptakeValueLeanBodyMassJanma),
    ),
    "g/ml{SUVlbm(James128)}": (
        _of(codes.DCM.SuvlbmJames128),
        _of(codes.UCUM.StandardizedUptakeValueLeanBodyMassJames128Multiplier),
    ),
    "g/ml{SUVibw}": (_of(codes.DCM.Suvibw), _of(codes.UCUM.StandardizedUptakeValueIdealBodyWeight)),
    "cm2/ml{SUVbsa}": (_of(codes.DCM.Suvbsa), _of(codes.UCUM.StandardizedUptakeValueBodySurfaceArea)),
    "Bq/ml": (_ACTIVITY, _of(codes.UCUM.BecquerelsPerMilliliter)),
    "{counts}": (_ACTIVITY, _of(codes.UCUM.Counts)),
    "{counts}/s": (_ACTIVITY, _of(codes.UCUM.CountsPerSecond)),
    "{propcounts}": (_ACTIVITY, _of(codes.UCUM.ProportionalToCounts)),
}
_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
    "NM": codes.LN.NMUnspecifiedBodyRegion,
    "CR": codes.LN.XRUnspecifiedBodyRegion,
    "DX": codes.LN.XRUnspecifiedBodyRegion,
}

TITLE = _of(codes.DCM.ImagingMeasurementReport)
QUALITY_FINDING = _of(codes.DCM.QualityFinding)
CUT_OFF = _of(codes.DCM.AnatomyCoverageIncomplete)
COMMENT = _of(codes.DCM.Comment)
LATERALITY = {"left": _of(codes.SCT.Left), "right": _of(codes.SCT.Right)}
SIDES = frozenset({("7771000", "SCT"), ("24028007", "SCT"), ("51440002", "SCT"), ("66459002", "SCT")})


def measurement_concept(
    measure: str, unit: str, *, modality: str, spatial_dims: int
) -> MeasurementConcept | None:
    """How a report codes one measure; None where it has no code for it, such as for a count of holes."""
    if measure not in _DERIVATIONS:
        size = _SIZES.get((measure, unit))
        in_space = size is not None and measure == "long_axis" and spatial_dims == 3
        return replace(size, method=_LONG_AXIS_METHOD) if size is not None and in_space else size
    if unit == "1" and modality == "MR":
        name, code = _of(codes.DCM.MRSignalIntensity), _NO_UNITS
    elif unit in _INTENSITIES:
        name, code = _INTENSITIES[unit]
    else:
        return None
    return MeasurementConcept(name=name, unit=code, derivation=_DERIVATIONS[measure])


def procedure_of(modality: str) -> Concept:
    """Procedure reported, CID 100."""
    return _of(_PROCEDURES.get(modality, codes.SCT.ImagingProcedure))
