from __future__ import annotations

import numpy as np
import pytest

from medseg.data.thorax import draw_anatomy, render_tissue, trace_outline
from medseg.data.thorax_detail import letters, resample, tube
from medseg.data.thorax_film import Film, Points, splat


def _film(**changes: object) -> Film:
    settings = {"shape": (300, 260), "spacing_mm": 1.2, "centre_mm": (10.0, 120.0), "tilt_rad": 0.05}
    return Film(**(settings | changes))


def test_film_index_undoes_coordinates_when_the_picture_is_tilted():
    film = _film()
    x, z = film.coordinates()
    i, j = film.index(
        x[[0, 40, 299], [0, 200, 259]].astype(float), z[[0, 40, 299], [0, 200, 259]].astype(float)
    )
    np.testing.assert_allclose(i, [0, 40, 299], atol=1e-3)
    np.testing.assert_allclose(j, [0, 200, 259], atol=1e-3)


def test_film_axes_point_left_and_feet():
    x, z = _film(tilt_rad=0.0).coordinates()
    assert x[1, 0] - x[0, 0] == pytest.approx(1.2, abs=1e-4)
    assert z[0, 1] - z[0, 0] == pytest.approx(1.2, abs=1e-4)


def test_splat_keeps_the_volume_of_points_inside():
    film = _film()
    points = Points(
        x=np.array([10.0, 20.3, 1e4]), z=np.array([120.0, 99.7, 0.0]), weight=np.array([5.0, 2.5, 9.0])
    )
    assert splat(film, [points]).sum() * 1.2**2 == pytest.approx(7.5, rel=1e-5)


def test_tube_has_the_bone_volume_of_its_shell_and_core():
    path = np.stack([np.linspace(0, 100, 201), np.zeros(201), np.zeros(201)], axis=1)
    normal = np.broadcast_to([0.0, 1.0, 0.0], path.shape)
    cloud = tube(path, radii=(5.0, 5.0), normal=normal, cortex_mm=1.0)
    shell, core = np.pi * (5**2 - 4**2), 0.14 * np.pi * 4**2
    # the shell is taken at the perimeter of the outer surface, hence the slack
    assert cloud.weight.sum() / 100 == pytest.approx(shell + core, rel=0.12)
    assert np.abs(cloud.z).max() <= 5.0


def test_resample_runs_evenly_through_its_ends():
    path = resample([(0, 0), (30, 10), (60, 0)], step_mm=0.5)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(path[[0, -1]], [(0, 0), (60, 0)], atol=1e-9)
    assert steps.max() / steps.min() < 1.2


def test_letter_l_reads_the_right_way_round():
    cloud = letters("L", corner=(0.0, 0.0), height_mm=10)[0]
    foot = cloud.z > 9
    assert cloud.x[foot].max() > 5
    assert cloud.x[~foot].max() < 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_silhouettes_leave_room_for_both_lungs(seed):
    anatomy = draw_anatomy(np.random.default_rng(seed), sex="F", view="PA")
    outline = trace_outline(anatomy)
    inside = (outline.z_mm > 0.1 * anatomy.height_mm) & (outline.z_mm < 0.7 * anatomy.height_mm)
    assert (outline.wall - outline.right)[inside].min() > 0.3 * anatomy.half_width_mm
    assert (outline.wall - outline.left)[inside].min() > 0.2 * anatomy.half_width_mm


def test_air_ends_where_the_mask_ends():
    anatomy = draw_anatomy(np.random.default_rng(4), sex="M", view="PA")
    film = _film(shape=(340, 360))
    tissue = render_tissue(anatomy, trace_outline(anatomy), film, np.random.default_rng(0))
    lungs = tissue.lung_right | tissue.lung_left
    assert tissue.air_mm[lungs].min() >= 0
    assert np.median(tissue.air_mm[lungs]) > 2 * np.median(tissue.air_mm[tissue.heart])
    x, z = film.coordinates()
    beyond = np.abs(x) > np.interp(z, trace_outline(anatomy).z_mm, trace_outline(anatomy).wall) + 1
    assert tissue.air_mm[beyond].max() == 0
