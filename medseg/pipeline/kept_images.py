"""Images and references that the evaluation read and that the pages of cases are drawn from, while there is room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.volume import Volume

ROOM_BYTES = 256 << 20
"""What is kept at most; the images of a longer cohort that come later are read again."""


@dataclass(slots=True)
class KeptImages:
    """Images of a process by case, first come, first kept.

    Nothing gives way to a later image: the stages go through the cases of a run one after the other, so that of
    a cohort too large for memory the image that was read last would be the one that is asked for last.

    Parameters
    ----------
    room_bytes : int
        0: nothing is kept.
    """

    room_bytes: int = ROOM_BYTES
    _images: dict[str, Volume] = field(default_factory=dict, init=False)
    _references: dict[str, NDArray[np.int16]] = field(default_factory=dict, init=False)
    _taken: int = field(default=0, init=False)

    def image(self, case_id: str, read: Callable[[], Volume]) -> Volume:
        """The image of a case, read where it is not kept; whoever gets it leaves it as it is."""
        known = self._images.get(case_id)
        if known is not None:
            return known
        found = read()
        if self._fits(found.array):
            self._images[case_id] = found
        return found

    def reference(self, case_id: str, read: Callable[[], NDArray[np.int16]]) -> NDArray[np.int16]:
        """The reference of a case as set indices, likewise; kept only beside its image."""
        known = self._references.get(case_id)
        if known is not None:
            return known
        found = read()
        if case_id in self._images and self._fits(found):
            self._references[case_id] = found
        return found

    def drop(self, case_id: str) -> None:
        """Make room: nobody asks for the case any more."""
        image, reference = self._images.pop(case_id, None), self._references.pop(case_id, None)
        self._taken -= 0 if image is None else image.array.nbytes
        self._taken -= 0 if reference is None else reference.nbytes

    def _fits(self, array: NDArray[Any]) -> bool:
        fits = self._taken + array.nbytes <= self.room_bytes
        self._taken += array.nbytes if fits else 0
        return fits
