"""A small study of a chest and its pages, with names that try to get out of the text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.report.case_data import CasePage, LogLine
from medseg.report.mosaic import Masks, Scene
from medseg.report.page import CaseReport, Structure
from medseg.report.space import Space
from medseg.report.viewer import viewer_section

_OWNED = "document.title='owned'"
HOSTILE = f'</script><script>{_OWNED}</script><img src=x onerror="{_OWNED}">"\'>\u202eabc\x07&amp;'
"""Ends scripts and attributes, runs handlers, turns the direction of writing, rings a bell."""
SHAPE = (72, 64, 48)
AFFINE = np.array([[-2.5, 0.0, 0.0, 90.0], [0.0, 2.5, 0.0, -80.0], [0.0, 0.0, 3.0, -60.0], [0, 0, 0, 1]])
STRUCTURES = (
    Structure(name="lung_right", colour="#3aa0ff"),
    Structure(name=HOSTILE, colour="#ff5010"),
    Structure(name="lung", colour="#8a97a5", kind="region"),
)


def gray(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Displayed from -600 to 600."""
    return np.asarray(np.clip((np.asarray(values, np.float32) + 600) / 1200, 0, 1) * 255, dtype=np.uint8)


def study() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """(1, I, J, K) image and (I, J, K) class indices: a trunk with two organs."""
    i, j, k = np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in SHAPE), indexing="ij")
    image = np.where((i / 0.44) ** 2 + (j / 0.36) ** 2 < 1, 40, -1000).astype(np.int16)
    label_map = np.zeros(SHAPE, np.uint8)
    for index, (centre, value) in enumerate(((-0.2, -850), (0.2, 120)), start=1):
        inside = ((i - centre) / 0.13) ** 2 + (j / 0.2) ** 2 + (k / 0.33) ** 2 < 1
        image[inside], label_map[inside] = value, index
    return image[None], label_map


def between() -> Masks:
    """A reference that knows something in the middle, where the prediction has nothing, and not what."""
    i, j, k = np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in SHAPE), indexing="ij")
    inside = (i / 0.05) ** 2 + (j / 0.2) ** 2 + (k / 0.33) ** 2 < 1
    return Masks(array=inside.astype(np.uint8), names={1: ""})


def viewer(**changes: Any) -> Any:
    """The viewer of the study."""
    image, label_map = study()
    options = {"gray": gray, "structures": STRUCTURES, "affine": AFFINE, "spacing_mm": None} | changes
    options = {"reference": between()} | options
    return viewer_section(image, label_map, **options)


def record(case_id: str = HOSTILE, text: str = HOSTILE) -> dict[str, Any]:
    """measurements.json of the study."""
    flag = {"code": "Q201", "level": "review", "structure": "lung_right", "text": text, "measured": 0.034,
            "limit": 0.01, "advice": text, "title": text}  # fmt: skip
    check = {"code": "Q201", "structure": "lung_right", "outcome": "flagged", "reason": "", "title": text}

    def quantity(value: float, unit: str) -> dict[str, Any]:
        return {"value": value, "unit": unit, "bound": "exact", "reason": "", "note": text, "cut_off": False}

    structures = {
        name: {"state": "present", "quantities": {"volume": quantity(size, "ml")}, "shape": None, "parts": 1}
        for name, size in (("lung_right", 880.5), (HOSTILE, 97.25), ("lung", 977.75))
    }
    return {
        "format": 1,
        "case_id": case_id,
        "verdict": "review",
        "flags": [flag],
        "checks": [check],
        "notes": [text],
        "gate": {"level": "pass", "distance": 0.4, "percentile": 60.0, "findings": [{"text": text}]},
        "confidence": {},
        "model": {"name": text, "version": "1.0.0", "weights_sha256": "ab" * 32, "licence": text},
        "image": {"shape": list(SHAPE), "spacing_mm": [2.5, 2.5, 3.0], "spacing_origin": "unknown", "modality": text,
                  "file_sha256": "", "pixel_sha256": "", "header": {}},
        "measurements": {"case_id": case_id, "spacing_mm": [2.5, 2.5, 3.0], "structures": structures, "ratios": {},
                         "notes": [text]},
    }  # fmt: skip


def case_page(**changes: Any) -> CasePage:
    """The page of the study, every text on it hostile."""
    image, label_map = study()
    masks = Masks(array=label_map, names={1: "lung_right", 2: HOSTILE})
    scene = Scene(space=Space(SHAPE, AFFINE), image=image, gray=gray, predicted=masks, reference=masks)
    case = CaseReport(
        case_id=HOSTILE,
        patient=HOSTILE,
        split="test",
        record=record(),
        notes=(HOSTILE,),
        files={HOSTILE: "ab" * 32},
    )
    options = {
        "structures": STRUCTURES,
        "title": HOSTILE,
        "pipeline": HOSTILE,
        "run": HOSTILE,
        "study": (("body_part", HOSTILE),),
        "facts": (("model", HOSTILE),),
        "strips": scene.strips(tile=120),
        "window": HOSTILE,
        "methods": f"Methods. {HOSTILE}",
        "settings": f"name: {HOSTILE}",
        "versions": {HOSTILE: HOSTILE},
        "log": (LogLine(time="2026-11-26T10:00:00", level="W", text=f"Log. {HOSTILE}"),),
        "viewer": viewer(),
    } | changes
    return CasePage(case=case, **options)
