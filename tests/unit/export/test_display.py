"""Windows against the formulas of PS3.3 C.11.2, and directions of oblique slices."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.export.display import Window, display_directions, window_of
from medseg.volume import Volume


def test_linear_window_of_the_standard():
    # PS3.3 C.11.2.1.2.1, its own examples: centre 2048, width 4096 is the identity on 12 bits.
    values = np.arange(4096)
    shown = Window(centre=2048, width=4096, function="LINEAR").gray(values)
    np.testing.assert_array_equal(shown, np.round(values / 4095 * 255).astype(np.uint8))
    # Centre 2048, width 1: black below 2048, white from there.
    np.testing.assert_array_equal(
        Window(centre=2048, width=1, function="LINEAR").gray(np.array([2047, 2048])), [0, 255]
    )


def test_exact_and_sigmoid_windows():
    assert Window(centre=0, width=100, function="LINEAR_EXACT").limits == (-50, 50)
    assert Window(centre=0, width=101, function="LINEAR").limits == (-50.5, 49.5)
    shown = Window(centre=10, width=40, function="SIGMOID").gray(np.array([-500.0, 10.0, 20.0, 500.0]))
    np.testing.assert_array_equal(shown, [0, 128, round(255 / (1 + np.exp(-1))), 255])


def test_header_goes_first_unless_it_shows_nothing():
    array = np.linspace(0, 1000, 24000, dtype=np.float32).reshape(1, 30, 40, 20)
    header = {"window_center": "400", "window_width": "200", "voi_lut_function": "LINEAR_EXACT"}
    assert window_of(Volume(array=array, header=header)).limits == (300, 500)
    free = window_of(Volume(array=array)).limits
    assert free == pytest.approx((5, 995), abs=1)
    far = {"window_center": "9000", "window_width": "10"}
    assert window_of(Volume(array=array, header=far)).limits == free
    assert window_of(Volume(array=np.full((1, 3, 3), np.nan))).limits == (0, 1)


def test_directions_of_slices():
    def seen(columns):
        affine = np.eye(4)
        affine[:3, :3] = columns
        return display_directions(Volume(array=np.zeros((1, 2, 2, 2)), affine=affine))

    assert seen(np.diag([-0.7, -0.7, 2.5])) == ("L", "P")
    coronal = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert seen(coronal) == ("L", "F")
    turn = np.radians(25)
    oblique = np.array([[-np.cos(turn), 0, 0], [np.sin(turn), 0, 1], [0, -1, 0]])
    assert seen(oblique) == ("LA", "F")
    film = Volume(array=np.zeros((1, 2, 2)), patient_orientation=("L", "F"))
    assert display_directions(film) == ("L", "F")
    assert display_directions(Volume(array=np.zeros((1, 2, 2)))) is None
