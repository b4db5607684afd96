"""Pictures: turned for display, contours where the mask is, scale bars of the right length."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.report.case import STEPS, contour_path, draw_picture


def _box(path: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the first outline, pixels."""
    start, steps = re.match(r"M(-?\d+ -?\d+)l([^z]*)z", path).groups()  # type: ignore[union-attr]
    moves = np.array(
        [[float(v) for v in start.split()], *np.array(steps.split(), float).reshape(-1, 2).tolist()]
    )
    points = moves.cumsum(axis=0) / STEPS
    return (*points.min(axis=0), *points.max(axis=0))


def _image() -> Any:
    gray = np.zeros((100, 120), dtype=np.uint8)
    gray[10:30, 20:50] = 255
    return gray


def _picture(orientation: Any, gray: Any = None, spacing: Any = (1.0, 1.0)) -> Any:
    gray = _image() if gray is None else gray
    return draw_picture(
        gray,
        predicted={"a": gray > 0},
        reference={},
        spacing_mm=spacing,
        orientation=orientation,
        max_side=120,
    )


def _light(picture: Any) -> Any:
    shown = np.asarray(Image.open(io.BytesIO(picture.webp)).convert("L"))
    rows, columns = np.nonzero(shown > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_contour_lies_on_the_edge_of_the_mask() -> None:
    path, left_out = contour_path(_image() > 0, (100, 120))
    assert left_out == 0
    assert _box(path) == pytest.approx((10, 20, 30, 50), abs=0.3)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (("L", "F"), (10, 20, 30, 50)),
        (("R", "F"), (70, 20, 90, 50)),
        (("L", "H"), (10, 70, 30, 100)),
        (("R", "H"), (70, 70, 90, 100)),
        (("A", "F"), (10, 20, 30, 50)),
        (None, (10, 20, 30, 50)),
    ],
)
def test_image_and_contours_are_turned_alike(orientation: Any, expected: Any) -> None:
    picture = _picture(orientation)
    assert _box(picture.contours[0].path) == pytest.approx(expected, abs=0.3)
    assert _light(picture) == pytest.approx(expected, abs=2)


def test_transposed_film_is_turned_upright() -> None:
    upright, turned = _picture(("L", "F")), _picture(("F", "L"), _image().T.copy())
    assert (turned.width, turned.height, turned.letters) == (upright.width, upright.height, upright.letters)
    assert turned.contours == upright.contours


def test_right_side_is_on_the_left() -> None:
    for orientation in (("L", "F"), ("R", "F"), ("R", "H"), ("F", "L"), ("H", "R")):
        assert dict(_picture(orientation).letters) == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    assert _picture(None).letters == ()


def test_scale_bar_and_aspect_follow_the_spacing() -> None:
    picture = _picture(("L", "F"), spacing=(2.0, 1.0))
    assert (picture.width, picture.height) == (120, 72)
    assert (picture.bar_text, picture.bar_px) == ("5 cm", pytest.approx(120 * 50 / 200))
    assert _picture(("L", "F"), spacing=None).bar_px == 0


def test_noise_is_cut_and_said() -> None:
    gray = (np.random.default_rng(0).random((300, 300)) < 0.3).astype(np.uint8)
    picture = _picture(("L", "F"), gray)
    assert len(picture.contours[0].path) < 20_000
    assert "left out of the picture" in picture.notes[0]
