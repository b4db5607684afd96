"""Private elements that may stay: those that the standard, the instance or the settings call safe (PS3.15 E.3.10)."""

from __future__ import annotations

from functools import cache

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medseg.deidentification.options import ProfileOptions

_Name = tuple[int, str, int | None]
"""Group, private creator, low byte of the element; None: the whole block."""

# PS3.15 Table E.3.10-1, but for enclosed pixels of HOLOGIC, which nobody can look into, and results of NeuroQuant.
_STANDARD = """
    7053 00,09 Philips PET Private Group
    00e1 21 ELSCINT1
    01e1 26,50 ELSCINT1
    01f1 01,07,26,27 ELSCINT1
    0019 23,24,27,9e GEMS_ACQU_01
    0043 27,39,6f GEMS_PARM_01
    0045 01,02 GEMS_HELIOS_01
    0903 10,11,12 GEIIS PACS
    2001 03,04 Philips Imaging DD 001
    0019 0c,0d,0e,27 SIEMENS MR HEADER
    0025 07 GEMS_SERS_01
    7e01 01,02 HOLOGIC, Inc.
"""


class SafePrivateElements:
    """Says which private elements of a data set stay.

    Parameters
    ----------
    options : ProfileOptions
    """

    def __init__(self, options: ProfileOptions) -> None:
        self._named: frozenset[_Name] = _standard() | frozenset(
            (int(group, 16), creator.strip(), int(element[2:], 16))
            for group, element, creator in (text.split(",", 2) for text in options.safe_private)
        )
        self._declared: frozenset[_Name] = frozenset()

    def of(self, data_set: Dataset) -> frozenset[BaseTag]:
        """Tags of the private elements that stay, with those of their creators.

        What the outermost data set declares holds for its items, too.
        """
        self._declared |= _declared(data_set)
        kept: set[BaseTag] = set()
        for tag in list(data_set.keys()):
            if tag.is_private and tag.element > 0xFF:
                creator = BaseTag((tag.group << 16) | (tag.element >> 8))
                if self._is_safe(tag, _text(data_set, creator)):
                    kept |= {tag, creator}
        return frozenset(kept)

    def _is_safe(self, tag: BaseTag, creator: str) -> bool:
        names = ((tag.group, creator, tag.element & 0xFF), (tag.group, creator, None))
        return bool(creator) and any(name in self._named or name in self._declared for name in names)


@cache
def _standard() -> frozenset[_Name]:
    """The rows of the standard's table."""
    rows = (line.split(maxsplit=2) for line in _STANDARD.splitlines() if line.strip())
    return frozenset(
        (int(group, 16), creator, int(element, 16))
        for group, elements, creator in rows
        for element in elements.split(",")
    )


def _text(data_set: Dataset, tag: BaseTag) -> str:
    return str(data_set[tag].value or "").strip() if tag in data_set else ""


def _declared(data_set: Dataset) -> frozenset[_Name]:
    """What Private Data Element Characteristics Sequence says (PS3.3 C.12.1.1.7)."""
    found: set[_Name] = set()
    for item in data_set.get("PrivateDataElementCharacteristicsSequence") or ():
        group, creator = (
            int(item.get("PrivateGroupReference") or 0),
            str(item.get("PrivateCreatorReference") or ""),
        )
        status = str(item.get("BlockIdentifyingInformationStatus") or "")
        if status == "SAFE":
            found.add((group, creator.strip(), None))
        elif status == "MIXED":
            listed = item.get("NonidentifyingPrivateElements")
            numbers = [listed] if isinstance(listed, int) else list(listed or ())
            found |= {(group, creator.strip(), int(number) & 0xFF) for number in numbers}
    return frozenset(found)
