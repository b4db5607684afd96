"""Images and masks of two folders, matched by the stems of their names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

#: Words that name the role of a file, not the case; cut from the start or the end of a stem.
WORDS = (
    "annotation",
    "annotations",
    "ground_truth",
    "groundtruth",
    "gt",
    "image",
    "images",
    "img",
    "label",
    "labels",
    "manual",
    "mask",
    "masks",
    "seg",
    "segmentation",
    "segmentations",
)
_SEPARATOR = "[-_. ]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """How two sets of stems go together; each stem is in exactly one of the four.

    Parameters
    ----------
    pairs : tuple of (image, mask)
    images, masks : tuple of str
        Without a partner.
    ambiguous : tuple of (images, masks)
        Several of a kind that only differ by letter case or by words such as `_mask`.
    """

    pairs: tuple[tuple[str, str], ...]
    images: tuple[str, ...]
    masks: tuple[str, ...]
    ambiguous: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def match_stems(images: Sequence[str], masks: Sequence[str], *, strip: Sequence[str] = ()) -> Matches:
    """Match images with masks.

    Stems go together when they are equal after letter case and the words of `WORDS` and `strip` at
    their start and end are taken away. Among stems that are then equal, those that were equal
    before may pair off, if nothing is left over; otherwise one image and one mask are a pair, and
    anything more is ambiguous.

    Parameters
    ----------
    images, masks : sequence of str
        Names without ending, all different within each sequence; they may hold folders (`a/b`), which
        are compared as they are but for letter case.
    strip : sequence of str
        More words to cut, with or without their separator: `_ct` and `ct` are the same.
    """
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    affix = affix_pattern(strip)
    for place, stems in enumerate((images, masks)):
        for stem in sorted(stems):
            groups[stem_key(stem, affix)][place].append(stem)
    pairs: list[tuple[str, str]] = []
    alone: tuple[list[str], list[str]] = ([], [])
    ambiguous: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for _, (left, right) in sorted(groups.items()):
        if not left or not right:
            alone[0].extend(left)
            alone[1].extend(right)
        elif len(left) == len(right) == 1 or _equal(left, right):
            pairs += zip(sorted(left, key=_fold), sorted(right, key=_fold), strict=True)
        else:
            ambiguous.append((tuple(left), tuple(right)))
    return Matches(
        pairs=tuple(sorted(pairs)), images=tuple(alone[0]), masks=tuple(alone[1]), ambiguous=tuple(ambiguous)
    )


def stem_key(stem: str, affix: re.Pattern[str]) -> str:
    """What is compared: folders and stem in lower case, without role words at the stem's ends."""
    folder, slash, name = _fold(stem).rpartition("/")
    while (shorter := affix.sub("", name)) != name and shorter:
        name = shorter
    return folder + slash + name


def affix_pattern(strip: Sequence[str] = ()) -> re.Pattern[str]:
    """Matches a role word with its separator at the start or the end of a stem, never all of it."""
    own = (_fold(word).strip("-_. ") for word in strip)
    words = sorted({*WORDS, *(word for word in own if word)}, key=len, reverse=True)
    choice = "|".join(re.escape(word) for word in words)
    return re.compile(rf"^(?:{choice}){_SEPARATOR}(?=.)|(?<=.){_SEPARATOR}(?:{choice})$")


def _equal(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether both hold the same stems, letter case aside, each once."""
    lower = [_fold(stem) for stem in left]
    return len(set(lower)) == len(lower) and sorted(lower) == sorted(_fold(stem) for stem in right)


def _fold(text: str) -> str:
    # macOS writes an accent as a character of its own, others do not.
    return unicodedata.normalize("NFC", text.casefold())
