"""Strips of slices: right way round, at the right places, whatever the grid; contours in whole steps."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from medseg.report.case import STEPS
from medseg.report.mosaic import Masks, Scene, _spread, blend
from medseg.report.space import Cut, Space
from tests.unit.report.test_space import oblique

SHAPE = (48, 40, 20)
BALL = tuple(Space.of(SHAPE, oblique(shear=0.2), None).world(np.array([[24, 20, 10]]))[0])


def scene(**changes):
    affine = oblique(shear=0.2)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    place = grid @ affine[:3, :3].T + affine[:3, 3]
    ball = ((place - BALL) ** 2).sum(axis=-1) < 14**2
    small = ((place - (BALL[0] - 22, BALL[1], BALL[2])) ** 2).sum(axis=-1) < 6**2
    labels = (ball + 2 * (small & ~ball)).astype(np.uint8)
    arguments = {
        "space": Space.of(SHAPE, affine, (2.0, 3.0, 5.0)),
        "image": np.where(ball, 100.0, 20.0)[None].astype(np.float32),
        "gray": lambda v: np.asarray(np.clip(v, 0, 255), np.uint8),
        "predicted": Masks(array=labels, names={1: "liver", 2: "spleen"}),
    }
    return Scene(**(arguments | changes))


def points_of(path):
    """Corners of a path, in steps."""
    found = []
    for start, moves in re.findall(r"M(-?\d+ -?\d+)l([-\d ]+)z", path):
        place = np.array([int(n) for n in start.split()])
        steps = np.array([int(n) for n in moves.split()]).reshape(-1, 2)
        found.append(place + np.concatenate([[[0, 0]], np.cumsum(steps, axis=0)]))
    return found


def test_a_ball_in_a_turned_and_sheared_grid_is_a_circle_at_its_place():
    made = scene()
    view = made.view()
    for strip in made.strips():
        right, down = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[strip.plane]
        scale = strip.tile / (view[right, 1] - view[right, 0])
        liver = next(c for c in strip.contours if c.structure == "liver")
        largest = max(points_of(liver.path), key=lambda p: np.ptp(p[:, 0])) / STEPS
        middle, width = (largest.min(axis=0) + largest.max(axis=0)) / 2, np.ptp(largest, axis=0)
        # Left is the patient's right, up the head or the front: against RAS+.
        wanted = (view[right, 1] - BALL[right]) * scale % strip.tile, (view[down, 1] - BALL[down]) * scale
        np.testing.assert_allclose(middle % (strip.tile, np.inf), wanted, atol=3.0 * scale)
        assert np.abs(width / scale - 28).max() < 5.0


def test_strips_say_sides_places_and_length():
    axial, coronal, sagittal = scene().strips()
    assert dict(axial.letters) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert dict(coronal.letters) == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
    assert dict(sagittal.letters) == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    heights = [int(p.split()[1]) * (1 if p[0] == "S" else -1) for p in axial.places]
    assert heights == sorted(heights, reverse=True)
    assert {p[0] for p in axial.places} <= {"S", "I"}
    assert sagittal.places[0][0] in "LR"
    assert axial.bar_text in ("1 cm", "2 cm", "5 mm")
    with Image.open(io.BytesIO(axial.webp)) as picture:
        assert picture.size == (axial.width, axial.height)
        assert axial.width == axial.tile * len(axial.places)


def test_a_patient_that_is_not_known_has_no_letters():
    strip = scene(space=Space.of(SHAPE, None, None), measured=False).strips()[0]
    assert strip.letters == ()
    assert strip.bar_px == 0
    assert set(strip.places) == {""}


def test_slices_show_small_structures_too():
    rng = np.random.default_rng(2)
    places = np.concatenate([rng.uniform(0, 100, 5000), np.full(20, 91.0)])
    values = np.concatenate([np.ones(5000), np.full(20, 2)])
    chosen = _spread(places, values, 4)
    assert len(chosen) == 4
    assert min(abs(p - 91) for p in chosen) < 1.5
    assert np.ptp(chosen) > 50


def test_reference_contours_are_told_apart_and_empty_masks_give_slices():
    made = scene()
    both = scene(
        reference=made.predicted, predicted=Masks(array=np.zeros(SHAPE, np.uint8), names={1: "liver"})
    )
    cuts = [Cut("axial", BALL[2], both.view(), 2.0)]
    contours = both.strip(cuts).contours
    assert [(c.structure, c.reference) for c in contours] == [("liver", True), ("spleen", True)]
    assert both.thumbnail("liver", "axial") is None
    nothing = scene(predicted=Masks(array=np.zeros(SHAPE, np.uint8), names={1: "liver"}))
    places = nothing.places("coronal", nothing.view(), 3)
    assert np.diff(places) == pytest.approx([np.diff(places)[0]] * 2)
    assert nothing.strip([Cut("coronal", places[0], nothing.view(), 4.0)]).contours == ()


def test_a_thumbnail_shows_one_structure_and_the_map_its_largest_sums():
    made = scene()
    small = made.thumbnail("spleen", "coronal")
    assert {c.structure for c in small.contours} == {"spleen"}
    assert small.width / small.height == pytest.approx(1.5, abs=0.05)
    painted = made.painted((made.predicted.array == 2).astype(np.float32), count=2)
    spleen = BALL[2]
    assert min(abs(int(p.split()[1]) - spleen) for p in painted.places) < 6
    assert blend(np.zeros((1, 2), np.uint8), np.array([[0.0, 1.0]]))[0, 0].tolist() == [0, 0, 0]
