"""Descriptions reduced to words that tell of the examination and of nobody (PS3.15 E.3.5).

A word stays when it is on the list `descriptor_words.txt`, or is a quantity such as `5mm` or `b1000`. A name that is
also a word of the list (Mr Head) stays with it: what identifies is a combination that the list does not have.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from pydicom.dataelem import DataElement

from medseg.deidentification.stand_ins import TEXT_VRS, each

_APART = re.compile(r"[^A-Za-z0-9.*+]+")
_QUANTITY = re.compile(
    r"""[0-9]{1,4}(\.[0-9]{1,3})?(mm|cm|ml|mg|kv|kvp|kev|mev|ma|mas|ms|sec|min|s|t|deg|hz|khz|mhz|bpm|fps)  # 5mm, 1.5T
    | [0-9]{1,2}(\.[0-9])?(st|nd|rd|th)
    | [1-4]d
    | b[0-9]{1,4}
    | [bhtuijqd][rfvs]?[0-9]{2}[fshrd]?    # names of CT kernels: B30f, Br40, Hr60
    | te[0-9]{1,4} | tr[0-9]{1,5} | ti[0-9]{1,4}
    | [0-9]{1,3}(\.[0-9])?x[0-9]{1,3}(\.[0-9])?(x[0-9]{1,3}(\.[0-9])?)?""",
    re.VERBOSE | re.IGNORECASE,
)


def plain_words(element: DataElement) -> bool:
    """Reduce a text to its known words; False, and nothing is changed, where it is no text or none is left."""
    return element.VR in TEXT_VRS - {"PN", "UR"} and each(element, known_words) and bool(element.value)


def known_words(text: str) -> str:
    """The words of a text that are on the list, in its order, separated by blanks."""
    return " ".join(part for part in _APART.split(text) if _is_known(part))


def _is_known(word: str) -> bool:
    plain = word.casefold()
    return bool(plain) and (plain in _words() or bool(_QUANTITY.fullmatch(plain)))


@cache
def _words() -> frozenset[str]:
    text = resources.files("medseg.deidentification").joinpath("descriptor_words.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())
