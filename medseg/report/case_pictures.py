"""The pictures of the page of one case, drawn from its image, masks and map of uncertainty."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.geometry import axis_codes, tilt_degrees
from medseg.report.case import draw_picture, oriented
from medseg.report.case_data import CasePage, flag_key
from medseg.report.language import Language, text
from medseg.report.mosaic import Masks, Scene, Strip, blend
from medseg.report.page import Json, Picture
from medseg.report.space import Plane, Space
from medseg.volume import Volume

SIDE_2D = 760
MAX_THUMBNAILS = 24
_ALONG_THE_BODY = frozenset({"Q102", "Q203"})
"""Flags on slices show best in a plane across them."""
_OBLIQUE_DEGREES = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseImages:
    """What pictures are drawn from.

    Parameters
    ----------
    volume : Volume
    gray : callable
        Values -> 0..255, in the window of display.
    window : str
        That window for people.
    predicted : Masks
        On the grid of the volume.
    reference : Masks or None
    doubt : array of the volume's shape, or None
        Uncertainty, 0 to 1.
    """

    volume: Volume
    gray: Callable[[NDArray[Any]], NDArray[np.uint8]]
    window: str
    predicted: Masks
    reference: Masks | None = None
    doubt: NDArray[Any] | None = None


def case_pictures(page: CasePage, images: CaseImages) -> CasePage:
    """The page with its pictures: slices in three planes, or the radiograph; flags; uncertainty."""
    page = replace(page, window=images.window)
    return _flat(page, images) if images.volume.spatial_dims == 2 else _deep(page, images)


def _deep(page: CasePage, images: CaseImages) -> CasePage:
    volume = images.volume
    i, j, k = volume.spatial_shape
    scene = Scene(
        space=Space.of((i, j, k), volume.affine, volume.spacing_mm),
        image=volume.array,
        gray=images.gray,
        predicted=images.predicted,
        reference=images.reference,
        measured=volume.affine is not None or volume.spacing_mm is not None,
    )
    thumbnails: dict[str, Strip | Picture] = {}
    for flag in page.case.record["flags"][:MAX_THUMBNAILS]:
        place = (flag.get("place") or {}).get("mm") if scene.space.known else None
        thumbnail = scene.thumbnail(flag["structure"].split("/")[0], _plane(flag), at_mm=place)
        if thumbnail is not None:
            thumbnails[flag_key(flag)] = thumbnail
    strips = scene.strips()
    left_out = [f"{name or 'reference'}: {n} of its smallest outlines are left out of a picture, not of the numbers"
                for strip in strips for name, n in (strip.left_out or {}).items()]  # fmt: skip
    return replace(
        page,
        case=replace(page.case, notes=(*page.case.notes, *dict.fromkeys(left_out))),
        strips=strips,
        thumbnails=thumbnails,
        doubt=None if images.doubt is None else scene.painted(images.doubt),
    )


def _plane(flag: Json) -> Plane:
    """The plane that shows a flag."""
    cut = flag["code"] == "Q101" and any(f"k {end}" in flag["text"] for end in ("first", "last"))
    return "coronal" if cut or flag["code"] in _ALONG_THE_BODY else "axial"


def _flat(page: CasePage, images: CaseImages) -> CasePage:
    volume = images.volume
    gray = np.ascontiguousarray(images.gray(volume.array.mean(axis=0, dtype=np.float32)))
    predicted = _by_name(images.predicted)
    picture = draw_picture(
        gray,
        predicted=predicted,
        reference={} if images.reference is None else _by_name(images.reference),
        spacing_mm=volume.spacing_mm,
        orientation=volume.patient_orientation,
        max_side=SIDE_2D,
    )
    thumbnails: dict[str, Strip | Picture] = {}
    for flag in page.case.record["flags"][:MAX_THUMBNAILS]:
        name = flag["structure"].split("/")[0]
        if name in predicted and predicted[name].any():
            thumbnails[flag_key(flag)] = draw_picture(
                gray,
                predicted={name: predicted[name]},
                reference={},
                spacing_mm=volume.spacing_mm,
                orientation=volume.patient_orientation,
                max_side=120,
            )
    doubt = None if images.doubt is None else _painted(picture, gray, images.doubt, volume)
    return replace(
        page, case=replace(page.case, picture=picture, planes=()), thumbnails=thumbnails, doubt=doubt
    )


def _by_name(masks: Masks) -> dict[str, NDArray[np.bool_]]:
    found: dict[str, NDArray[np.bool_]] = {}
    for index, name in masks.names.items():
        mask = masks.array == index
        found[name] = mask | found[name] if name in found else mask
    return found


def _painted(picture: Picture, gray: NDArray[np.uint8], doubt: NDArray[Any], volume: Volume) -> Picture:
    """The radiograph under its uncertainty, turned as the picture is and half its size."""
    turned = [oriented(np.asarray(a), volume.patient_orientation).T for a in (gray, doubt)]
    size = (max(picture.width // 2, 1), max(picture.height // 2, 1))
    small, amount = (
        np.asarray(Image.fromarray(a.astype(np.float32)).resize(size, Image.Resampling.BOX)) for a in turned
    )
    stream = io.BytesIO()
    Image.fromarray(blend(small.round().astype(np.uint8), amount)).save(stream, "WEBP", quality=60, method=6)
    return replace(
        picture,
        width=size[0],
        height=size[1],
        webp=stream.getvalue(),
        contours=(),
        bar_px=picture.bar_px / 2,
        notes=(),
    )


def geometry_facts(volume: Volume, language: Language) -> Sequence[tuple[str, str]]:
    """Axes of a volume and how far they are from those of the patient: keys of the catalogue and values."""
    if volume.affine is None:
        return ()
    t, affine = text(language), volume.affine
    facts = [("orientation", axis_codes(affine))]
    sheared, off = tilt_degrees(affine), _degrees_off(affine)
    if sheared > 0.1:
        facts.append(("tilt", t["tilt.sheared"].format(degrees=f"{sheared:.1f}")))
    elif off > _OBLIQUE_DEGREES:
        facts.append(("tilt", t["tilt.oblique"].format(degrees=f"{off:.0f}")))
    else:
        facts.append(("tilt", t["tilt.none"]))
    return facts


def _degrees_off(affine: NDArray[np.float64]) -> float:
    """Largest angle between an axis of the grid and the axis of the patient that it follows."""
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(steps).max(axis=0), 0, 1))).max())
