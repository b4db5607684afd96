"""Identifiers out of data sets: the profile of DICOM PS3.15 Annex E, with a keyed map of UIDs.

Where the table allows several actions the one is taken that keeps the object conformant and tells least: of X/Z an
empty value, of X/D, Z/D and X/Z/D a dummy, of X/Z/U* the references with mapped UIDs; sequences that may go do. What
cannot be cleaned or shifted is treated as the basic profile says.
"""

from __future__ import annotations

from pydicom import datadict
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medseg.deidentification import stand_ins
from medseg.deidentification.descriptors import plain_words
from medseg.deidentification.embedded_overlays import clear_unused_bits
from medseg.deidentification.kept_elements import check_kept, check_pixels
from medseg.deidentification.keyed_map import KeyedMap, patient_of
from medseg.deidentification.options import ProfileOptions
from medseg.deidentification.profile import (
    CLEAN_PIXELS,
    DESCRIPTORS,
    GRAPHICS,
    KEEP,
    SHIFT,
    STRUCTURED,
    Profile,
)
from medseg.deidentification.risks import IdentifiersLeftError, risk_of
from medseg.deidentification.safe_private import SafePrivateElements
from medseg.deidentification.structured_content import clean_codes, clean_content

__all__ = ["Deidentifier", "IdentifiersLeftError", "deidentifier"]

METHOD = "medseg, DICOM PS3.15 Annex E"
_SEQUENCES = (DESCRIPTORS, GRAPHICS, STRUCTURED)


def deidentifier(options: ProfileOptions, key: bytes) -> Deidentifier:
    """What takes the identifiers out of a data set.

    Raises
    ------
    ConfigError
        The key is short.
    """
    return Deidentifier(options, KeyedMap(key))


class Deidentifier:
    """Takes the identifiers out of a data set; it changes the data set that it is given.

    Parameters
    ----------
    options : ProfileOptions
    keyed : KeyedMap
    """

    def __init__(self, options: ProfileOptions, keyed: KeyedMap) -> None:
        self._options, self._keyed, self.profile = options, keyed, Profile(options)

    def __call__(self, data_set: Dataset, *, pixels_cleaned: bool = False) -> Dataset:
        """Change the data set and give it back.

        Parameters
        ----------
        data_set : Dataset
        pixels_cleaned : bool, optional
            Whether what was burned into its pixels has been blanked.

        Raises
        ------
        IdentifiersLeftError
            Identifiers would stay; the sentence has none.
        """
        risk = risk_of(data_set, policy=self._options.burned_in)
        if risk and not (pixels_cleaned and risk.in_pixels):
            raise IdentifiersLeftError(risk.sentence)
        check_pixels(data_set)
        clear_unused_bits(data_set)
        patient = patient_of(data_set)
        _Cleaner(self.profile, self._options, self._keyed, days=self._keyed.days(patient)).clean(data_set)
        stand_in = self._keyed.pseudonym(patient)
        data_set.PatientID, data_set.PatientName = stand_in, stand_in
        self._declare(data_set, pixels_cleaned=pixels_cleaned)
        return data_set

    def _declare(self, data_set: Dataset, *, pixels_cleaned: bool) -> None:
        """Say what was done (PS3.3 C.7.1.1, C.12.1, PS3.15 E.3.1)."""
        data_set.PatientIdentityRemoved = "YES"
        data_set.DeidentificationMethod = METHOD
        items = []
        for code, meaning in (*self.profile.methods, *((CLEAN_PIXELS,) if pixels_cleaned else ())):
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
            items.append(item)
        data_set.DeidentificationMethodCodeSequence = items
        kept = set(self._options.retain)
        state = (
            "UNMODIFIED" if "dates_full" in kept else "MODIFIED" if "dates_modified" in kept else "REMOVED"
        )
        data_set.LongitudinalTemporalInformationModified = state
        if pixels_cleaned:
            data_set.BurnedInAnnotation = "NO"


class _Cleaner:
    """One data set, with all that lies in its sequences."""

    def __init__(self, profile: Profile, options: ProfileOptions, keyed: KeyedMap, *, days: int) -> None:
        self._profile, self._keyed, self._days = profile, keyed, days
        self._characteristics = "patient_characteristics" in options.retain
        self._private = SafePrivateElements(options) if "safe_private" in options.retain else None

    def clean(self, data_set: Dataset) -> None:
        """Go through all elements; what is not looked at stays as it was read."""
        private = [tag for tag in list(data_set.keys()) if tag.is_private]
        safe = self._private.of(data_set) if self._private and private else frozenset()
        for tag in list(data_set.keys()):
            if tag.is_private:
                self._clean_private(data_set, tag, keep=tag in safe)
                continue
            action = self._profile.action(int(tag))
            if action == "X" and _must_stay(data_set, tag):
                stand_ins.replace(data_set, data_set[tag])
            elif action == "X":
                # Never parsed: what is thrown away may be malformed.
                del data_set[tag]
            elif action not in ("", KEEP) or _may_hold_items(data_set, tag):
                self._change(data_set, tag, action)
            else:
                check_kept(data_set, tag)

    def _change(self, data_set: Dataset, tag: BaseTag, action: str) -> None:
        element = data_set[tag]
        if element.VR != "SQ" and _dictionary_vr(tag) == "SQ":
            # Items that were not understood would stay as bytes.
            del data_set[tag]
        elif action in _SEQUENCES:
            self._clean_value(data_set, element, action)
        elif action == SHIFT:
            self._shift(data_set, element)
        elif action in ("", KEEP, "X/Z/U*"):
            self._items(element)
        else:
            self._basic(data_set, element, action)

    def _basic(self, data_set: Dataset, element: DataElement, action: str) -> None:
        if action == "X" or (action.startswith("X/") and _goes_whole(data_set, element)):
            del data_set[element.tag]
        elif action == "U" or (action.endswith("D") and element.VR == "UI"):
            self._map(element)
        elif action.endswith("D"):
            stand_ins.replace(data_set, element)
        elif action.endswith("Z"):
            stand_ins.empty(element)
        else:
            self._items(element)

    def _items(self, element: DataElement) -> None:
        if element.VR == "SQ":
            for item in element.value:
                self.clean(item)

    def _clean_value(self, data_set: Dataset, element: DataElement, action: str) -> None:
        """C of Table E.1-1a; what cannot be cleaned is treated as the basic profile says."""
        if element.VR == "SQ":
            self._items(element)
            if action == STRUCTURED:
                clean_content(element, keep_characteristics=self._characteristics)
            elif action == DESCRIPTORS:
                clean_codes(element)
        elif action != DESCRIPTORS or not plain_words(element):
            self._basic(data_set, element, self._profile.otherwise(int(element.tag)))

    def _map(self, element: DataElement) -> None:
        if element.VR == "UI":
            stand_ins.each(element, self._keyed.uid)
        elif element.VR == "SQ":
            self._items(element)
        else:
            stand_ins.empty(element)

    def _shift(self, data_set: Dataset, element: DataElement) -> None:
        shifted = element.VR in ("DA", "DT") and stand_ins.each(
            element, lambda text: stand_ins.earlier(text, self._days)
        )
        if not shifted and element.VR != "TM":
            self._basic(data_set, element, self._profile.otherwise(int(element.tag)))

    def _clean_private(self, data_set: Dataset, tag: BaseTag, *, keep: bool) -> None:
        if not keep:
            del data_set[tag]
            return
        check_kept(data_set, tag)
        element = data_set[tag]
        if element.VR in ("DA", "DT", "TM", "PN", "UI"):
            del data_set[tag]
        else:
            self._items(element)


def _must_stay(data_set: Dataset, tag: BaseTag) -> bool:
    """Creation date and time of presentation states, which the table removes and PS3.3 C.11.10 demands.

    Note 1 of PS3.15 E.1.1, step 2: dummies may be necessary.
    """
    state = str(data_set.get("SOPClassUID") or "").startswith("1.2.840.10008.5.1.4.1.1.11.")
    return state and int(tag) in (0x00700082, 0x00700083)


def _goes_whole(data_set: Dataset, element: DataElement) -> bool:
    """Whether a sequence may go; some must be there, if only empty.

    They are Acquisition Context (PS3.3 C.7.6.14) and the procedure step of a report (C.17.1).
    """
    in_report = int(element.tag) == 0x00081111 and "ValueType" in data_set
    return element.VR == "SQ" and int(element.tag) != 0x00400555 and not in_report


def _may_hold_items(data_set: Dataset, tag: BaseTag) -> bool:
    """Whether an element that stays is a sequence, by what it says or by what it should be."""
    element = data_set.get_item(tag)
    stated = element.VR if isinstance(element, RawDataElement | DataElement) else None
    return stated == "SQ" or _dictionary_vr(tag) == "SQ"


def _dictionary_vr(tag: BaseTag) -> str:
    return str(datadict.dictionary_VR(tag)) if datadict.dictionary_has_tag(tag) else ""
