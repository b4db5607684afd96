"""Facts of a header that a reader of a result may see; among them which way the beam went through the patient."""

from __future__ import annotations

from medseg.io.dicom_header import DicomHeader, uid_name

# CID 4010 of PS3.16, with the codes that it had before those of SNOMED CT.
_VIEWS = {
    "AP": ("399348003", "R-10206"),
    "PA": ("272479007", "R-10214", "R-40888"),
    "LL": ("399173006", "R-10236"),
    "RL": ("399198007", "R-10232"),
    "LLO": ("399184004", "R-10238"),
    "RLO": ("399236003", "R-10234"),
    "LATERAL": (
        *("399067008", "R-102CD", "399352003", "R-10228", "399260004", "R-10224"),
        *("30730003", "G-A145"),
    ),
    "OBLIQUE": ("399182000", "R-102C1"),
}
_BY_CODE = {code: view for view, codes in _VIEWS.items() for code in codes}
_WORDS = {"LAT": "LATERAL", "LLAT": "LL", "RLAT": "RL", "LEFT LATERAL": "LL", "RIGHT LATERAL": "RL"}


def facts_of(header: DicomHeader, stored_as: str) -> dict[str, str]:
    """What a reader of a result may see of a header: no empty values, nothing that names a person.

    Parameters
    ----------
    header : DicomHeader
    stored_as : str
        Transfer Syntax UID of the file, "" where it has none.
    """
    facts = {
        "view_position": view_position(header),
        "photometric_interpretation": header.code("PhotometricInterpretation"),
        "burned_in_annotation": header.code("BurnedInAnnotation"),
        "body_part": header.code("BodyPartExamined"),
        "laterality": header.side(),
        "presentation_intent": header.code("PresentationIntentType"),
        "patient_position": header.code("PatientPosition"),
        "manufacturer": header.plain_text("Manufacturer"),
        "model": header.plain_text("ManufacturerModelName"),
        "transfer_syntax": uid_name(stored_as) if stored_as else "",
        "sop_class_uid": header.uid("SOPClassUID"),
    }
    return {key: value for key, value in facts.items() if value}


def view_position(header: DicomHeader) -> str:
    """View Position (0018,5101), else what View Code Sequence (0054,0220) says; "" where neither tells.

    The defined terms of PS3.3 (AP, PA, LL, RL, LLD, RLD, LLO, RLO), and LATERAL and OBLIQUE where the file does not
    say of which side; other terms as they stand, in capitals.
    """
    if stated := header.code("ViewPosition"):
        return _WORDS.get(stated, stated)
    codes = [
        code
        for item in header.items("ViewCodeSequence")
        for code in DicomHeader(header.path, (item,)).texts("CodeValue")
    ]
    return next((_BY_CODE[code] for code in codes if code in _BY_CODE), "")
