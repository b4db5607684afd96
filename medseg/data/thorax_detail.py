"""What is drawn along lines in a chest film: bones, pulmonary vessels, airways, gas, devices, letters.

Bones and vessels are tubes in space. A tube is a cloud of weighted points, spread over its section and
along its axis, projected and summed into a thickness map in mm: crossing ribs add, and a rib seen
along its course at the edge of the chest becomes dense, as in a real film. World axes as in
`medseg.data.thorax`, and y in mm towards the front of the patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from medseg.data.thorax import RIB_JOINT, Anatomy, Outline
from medseg.data.thorax_film import Points, Table

_SPONGY = 0.14  # share of cortical bone in spongy bone
# A rib in plan: (x, y) in units of the half width and half depth of the chest, from spine to sternum.
_RIB_PLAN = ((0.10, -0.74), (0.20, -0.86), (0.42, -0.97), (0.72, -0.80), (0.94, -0.36), (1.0, 0.08),
             (0.94, 0.45), (0.74, 0.78), (0.45, 0.96), (0.28, 1.0))  # fmt: skip
# z of the joint, slope of the plane, end of the bony part; by rib, heights in units of 0.476 chest heights.
_RIB_SLOPE = (0.55, 0.64, 0.72, 0.76, 0.78, 0.79, 0.80, 0.80, 0.79, 0.76, 0.66, 0.6)
_RIB_END = (0.80, 0.86, 0.86, 0.85, 0.83, 0.81, 0.79, 0.75, 0.70, 0.62, 0.48, 0.3)
_BOW = ((0, 1), (0, 0), (0.4, 0), (0.58, 0.07), (0.64, 0.25), (0.58, 0.43), (0.4, 0.5), (0, 0.5))
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "R": (_BOW, ((0.32, 0.5), (0.68, 1))),
    "L": (((0, 0), (0, 1), (0.6, 1)),),
    "P": (_BOW,),
    "A": (((0, 1), (0.35, 0), (0.7, 1)), ((0.13, 0.64), (0.57, 0.64))),
}  # fmt: skip


def tube(
    path: NDArray[np.float64],
    *,
    radii: tuple[Table | float, Table | float],
    normal: NDArray[np.float64],
    cortex_mm: Table | float,
    density: Table | float = 1.0,
    rings: int = 22,
) -> Points:
    """Points of a bone: a dense shell of thickness `cortex_mm` around a spongy core.

    Parameters
    ----------
    path : (N, 3) array
        Axis in x, y, z, mm, evenly sampled.
    radii : (along the second axis, along `normal`)
        Half axes of the elliptic section, mm, scalars or (N,).
    normal : (N, 3) array
        Direction of the second half axis, unit length.
    """
    count = len(path)
    tangent = np.gradient(path, axis=0)
    step = np.linalg.norm(tangent, axis=1)
    tangent /= np.maximum(step, 1e-9)[:, None]
    side = np.cross(tangent, normal)
    side /= np.maximum(np.linalg.norm(side, axis=1), 1e-9)[:, None]
    a, b = (np.broadcast_to(np.asarray(r, dtype=np.float64), (count,))[:, None] for r in radii)
    cortex = np.broadcast_to(np.asarray(cortex_mm, dtype=np.float64), (count,))[:, None]
    solid = np.broadcast_to(np.asarray(density, dtype=np.float64), (count,))[:, None]
    # the golden angle turns each ring against the one before, so no streaks appear
    phase = 2.399963 * np.arange(count)[:, None] + 1.7 * np.sin(0.73 * np.arange(count) ** 1.3)[:, None]
    angle = phase + 2 * np.pi * np.arange(rings)[None, :] / rings
    shell = 1 - 0.5 * cortex / np.sqrt(a * b)
    perimeter = 2 * np.pi * np.sqrt((a * a + b * b) / 2)
    # equal angles are not equal arcs on an ellipse: weight by the local arc length
    arc = np.sqrt((a * np.sin(angle)) ** 2 + (b * np.cos(angle)) ** 2)
    arc *= perimeter / arc.sum(axis=1, keepdims=True)
    inner = np.sqrt((np.arange(rings // 2) + 0.5) / (rings // 2))[None, :] * (1 - cortex / np.sqrt(a * b))
    core_angle = phase + 2.399963 * np.arange(rings // 2)[None, :]
    core_area = np.pi * a * b * (1 - cortex / np.sqrt(a * b)) ** 2
    u = np.concatenate([shell * a * np.cos(angle), inner * a * np.cos(core_angle)], axis=1)
    v = np.concatenate([shell * b * np.sin(angle), inner * b * np.sin(core_angle)], axis=1)
    core = np.broadcast_to(_SPONGY * core_area / (rings // 2), core_angle.shape)
    weight = np.concatenate([arc * cortex, core], axis=1) * solid * step[:, None]
    x = path[:, :1] + u * side[:, :1] + v * normal[:, :1]
    z = path[:, 2:] + u * side[:, 2:] + v * normal[:, 2:]
    return Points(x=x.ravel(), z=z.ravel(), weight=weight.ravel())


def resample(
    knots: Sequence[Sequence[float]], *, step_mm: float = 0.8, scale: float = 1.0
) -> NDArray[np.float64]:
    """A smooth path through knots, sampled evenly: (N, d)."""
    points = np.asarray(knots, dtype=np.float64) * scale
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(int(along[-1] / step_mm), 4)
    return np.asarray(CubicSpline(along, points)(np.linspace(0, along[-1], count)))


def _turned(points: Points, path_y: Table, turn: float) -> Points:
    """Points after the patient has turned: what lies in front moves to one side."""
    repeats = len(points.x) // len(path_y)
    return Points(x=points.x + turn * np.repeat(path_y, repeats), z=points.z, weight=points.weight)


def ribs(anatomy: Anatomy, outline: Outline, rng: np.random.Generator) -> list[Points]:
    """Twelve ribs a side."""
    width, half_depth = anatomy.half_width_mm, 0.5 * anatomy.depth_mm + 6
    unit = anatomy.height_mm / 2.1
    clouds = []
    slope_scale = 1.0 + 0.06 * rng.standard_normal()
    for sign in (-1.0, 1.0):
        for number in range(12):
            plan = resample(_RIB_PLAN, step_mm=0.8 / width)
            plan = plan[: int(_RIB_END[number] * len(plan))]
            depth = np.interp(RIB_JOINT[number] * unit + 30, outline.z_mm, outline.depth) / anatomy.depth_mm
            y = plan[:, 1] * half_depth * (0.35 + 0.65 * depth)
            rise = _RIB_SLOPE[number] * slope_scale * (unit / width)
            z = RIB_JOINT[number] * unit + (y - y[0]) * rise + rng.normal(0, 1.2)
            reach = np.interp(z, outline.z_mm, outline.wall)
            reach = np.maximum(reach, np.interp(0.035 * anatomy.height_mm, outline.z_mm, outline.wall)) + 3.4
            path = np.stack([sign * plan[:, 0] * reach, y, z], axis=1)
            normal = np.gradient(path, axis=0)[:, [1, 0, 2]] * np.array([1.0, -1.0, 0.0])
            normal /= np.maximum(np.linalg.norm(normal, axis=1), 1e-9)[:, None]
            share = np.linspace(0, 1, len(path))
            swell = 1 + 0.35 * share**2 - 0.18 * np.exp(-share * 14)
            fade = np.clip((1 - share) * 14, 0, 1) * (1 - 0.45 * share**1.5)
            size = (
                4.3
                * (width / 128)
                * (0.92 if anatomy.sex == "F" else 1.05)
                * (0.85 if number in (10, 11) else 1)
            )
            cloud = tube(path, radii=(size * swell, 0.58 * size), normal=normal, cortex_mm=0.9, density=fade)
            clouds.append(_turned(cloud, y, anatomy.turn))
    return clouds


def shoulder_girdle(anatomy: Anatomy, rng: np.random.Generator) -> list[Points]:
    """Collar bones, shoulder blades and upper arms."""
    width = anatomy.half_width_mm
    clouds = []
    for sign in (-1.0, 1.0):
        lift = anatomy.shoulder + 0.015 * rng.standard_normal()
        blade = anatomy.scapula + 0.04 * rng.standard_normal()
        front = anatomy.turn * 0.5 * width
        collar = [
            (0.125, 0.235),
            (0.27, 0.165),
            (0.43, 0.095),
            (0.6, 0.02),
            (0.8, -0.06),
            (0.98, -0.11),
            (1.17, -0.135),
        ]
        clouds.append(
            _flat(collar, sign, width, (10.0, 6.2, 5.4, 5.4, 6.0, 6.8, 6.4), lift=lift, cortex=1.5, x0=front)
        )
        clouds += _blade(sign, width, lift, blade)
        clouds += _upper_arm(anatomy, sign, lift)
    return clouds


def _flat(
    knots: Sequence[tuple[float, float]],
    sign: float,
    width: float,
    radii: Sequence[float] | float,
    *,
    lift: float = 0.0,
    cortex: float = 1.2,
    density: float = 1.0,
    x0: float = 0.0,
) -> Points:
    """A bone whose axis lies in the film plane; knots in half widths, mirrored by `sign`."""
    points = [(sign * x * width + x0, 0.0, (z - lift * min(1.0, x)) * width) for x, z in knots]
    path = resample(points)
    share = np.linspace(0, 1, len(path))
    sizes = np.atleast_1d(np.asarray(radii, dtype=np.float64)) * width / 128
    radius = np.interp(share, np.linspace(0, 1, len(sizes)), sizes)
    normal = np.broadcast_to(np.array([0.0, 1.0, 0.0]), path.shape)
    # rounded, thinning ends
    end = np.clip(np.minimum(share, 1 - share) * len(path) * 0.8 / (1.2 * radius.mean()), 0, 1)
    end = np.sqrt(end * (2 - end))
    radius = radius * (0.35 + 0.65 * end)
    return tube(
        path,
        radii=(radius, 0.85 * radius),
        normal=normal,
        cortex_mm=cortex,
        density=density * (0.1 + 0.9 * end),
        rings=36,
    )


def _blade(sign: float, width: float, lift: float, shift: float) -> list[Points]:
    """A shoulder blade: borders, spine, coracoid, glenoid and a thin plate."""

    def at(x: float, z: float) -> tuple[float, float]:
        return (x - shift * np.clip(0.4 + z, 0.2, 1) * 0.6, z)

    lateral = [at(1.10, 0.24), at(1.075, 0.36), at(1.085, 0.6), at(1.09, 0.82), at(1.06, 0.99)]
    medial = [at(1.06, 0.99), at(0.97, 0.8), at(0.87, 0.5), at(0.80, 0.2), at(0.80, 0.03)]
    upper = [at(0.80, 0.03), at(0.86, 0.05), at(0.93, 0.14), at(1.0, 0.1)]
    ridge = [at(0.80, 0.10), at(0.95, 0.09), at(1.1, 0.0), at(1.25, -0.13), at(1.36, -0.1)]
    coracoid = [(0.96 + 0.05 * np.cos(a), 0.02 + 0.052 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 9)]
    glenoid = [at(1.13, 0.03), at(1.155, 0.14), at(1.12, 0.27)]
    draw = [
        (lateral, 3.4, 1.2, 0.6), (medial, 1.6, 0.6, 0.5), (upper, 1.6, 0.7, 0.6), (ridge, 4.6, 0.9, 0.6),
        (coracoid, 2.4, 1.1, 0.8), (glenoid, 4.4, 1.3, 0.8),
    ]  # fmt: skip
    clouds = [
        _flat(knots, sign, width, radius, lift=lift, cortex=cortex, density=density)
        for knots, radius, cortex, density in draw
    ]
    outer, inner = resample(lateral, step_mm=1 / width), resample(medial, step_mm=1 / width)[::-1]
    a = np.linspace(0, 1, 160)
    rows = [PchipInterpolator(np.linspace(0, 1, len(edge)), edge)(a) for edge in (outer, inner)]
    b = np.linspace(0, 1, 130)[None, :, None]
    plate = (rows[0][:, None] * (1 - b) + rows[1][:, None] * b).reshape(-1, 2)
    # a triangle 0.26 by 0.75 half widths, 1 mm thick
    weight = np.full(len(plate), 0.5 * 0.26 * 0.75 * width**2 / len(plate))
    return [*clouds, Points(x=sign * plate[:, 0] * width, z=(plate[:, 1] - lift) * width, weight=weight)]


def _upper_arm(anatomy: Anatomy, sign: float, lift: float) -> list[Points]:
    width = anatomy.half_width_mm
    head = np.array([1.33, 0.16 - lift]) * width
    reach = np.array([0.25 + 0.55 * anatomy.arm, 1.7]) * width
    path = np.linspace(0, 1, int(np.hypot(*reach) / 0.7))[:, None] * reach + head + 0.02 * reach
    path = np.stack([sign * path[:, 0], np.zeros(len(path)), path[:, 1]], axis=1)
    share = np.linspace(0, 1, len(path))
    radius = (10.5 + 9 * np.exp(-share * 7)) * width / 128
    normal = np.broadcast_to(np.array([0.0, 1.0, 0.0]), path.shape)
    cortex, start = 1.0 + 1.6 * np.clip(share * 4, 0, 1), 0.8 * np.clip(share * 6, 0, 1)
    shaft = tube(path, radii=(radius, radius), normal=normal, cortex_mm=cortex, density=start, rings=60)
    return [shaft, _ball(sign * head[0], head[1], 23.5 * width / 128)]


def _ball(x: float, z: float, radius: float) -> Points:
    """A joint head: thin shell, spongy inside; sunflower sampling."""
    count = 9000
    share = (np.arange(count) + 0.5) / count
    rho, angle = radius * np.sqrt(share), 2.399963 * np.arange(count)
    chord = 2 * np.sqrt(radius**2 - rho**2)
    inner = 2 * np.sqrt(np.clip((radius - 1.0) ** 2 - rho**2, 0, None))
    thickness = (chord - inner) * 0.5 + _SPONGY * inner * 0.6
    area = np.pi * radius**2 / count
    return Points(x=x + rho * np.cos(angle), z=z + rho * np.sin(angle), weight=thickness * area)


def vessels(anatomy: Anatomy, outline: Outline, rng: np.random.Generator) -> list[Points]:
    """Pulmonary vessels: two trees grown from the hila, tapering towards the pleura."""
    width, height = anatomy.half_width_mm, anatomy.height_mm
    clouds = []
    for sign, hilum in ((-1.0, (0.235, 0.455)), (1.0, (0.265, 0.425))):
        start = np.array([sign * hilum[0] * width, hilum[1] * height])
        clouds += _hilum(sign, start, width, rng)
        clouds += _tree(sign, start, anatomy, outline, rng)
    return clouds


def _hilum(sign: float, start: Table, width: float, rng: np.random.Generator) -> list[Points]:
    """The large vessels at one hilum: an arch and the descending artery, and veins across."""
    paths = [
        ([(-0.10, -0.06), (0.0, -0.05), (0.05, 0.06), (0.06, 0.24), (0.10, 0.44)], (7.5, 7.2, 6.2, 4.6, 2.4)),
        ([(-0.06, -0.02), (0.02, -0.12), (0.06, -0.28), (0.12, -0.44)], (5.0, 4.2, 2.8, 1.0)),
        ([(-0.10, 0.20), (0.02, 0.24), (0.16, 0.34), (0.26, 0.46)], (5.0, 4.2, 2.6, 1.0)),
        ([(-0.04, 0.0), (0.06, 0.02), (0.2, 0.06), (0.32, 0.1)], (4.0, 3.4, 2.0, 0.8)),
    ]
    clouds = []
    for knots, radii in paths:
        moved = np.asarray(knots) + rng.normal(0, 0.012, (len(knots), 2))
        path = resample([(start[0] + sign * x * width, start[1] + z * width) for x, z in moved], step_mm=0.6)
        share = np.linspace(0, 1, len(path))
        radius = np.interp(share, np.linspace(0, 1, len(radii)), radii) * width / 128
        cloud = _string(path, radius, across=26)
        fade = np.repeat(np.clip((1 - share) * 4, 0, 1), 26)
        clouds.append(Points(x=cloud.x, z=cloud.z, weight=cloud.weight * fade))
    return clouds


def _string(path: NDArray[np.float64], radius: Table, *, across: int) -> Points:
    """A solid tube in the film plane: the thickness of a cylinder over its width."""
    tangent = np.gradient(path, axis=0)
    step = np.linalg.norm(tangent, axis=1)
    tangent /= np.maximum(step, 1e-9)[:, None]
    u = (np.arange(across) + 0.5) / across * 2 - 1
    chord = np.sqrt(1 - u**2)
    weight = 2 * radius[:, None] ** 2 * chord[None, :] * (2 / across) * step[:, None]
    x = path[:, :1] - tangent[:, 1:] * radius[:, None] * u
    z = path[:, 1:] + tangent[:, :1] * radius[:, None] * u
    return Points(x=x.ravel(), z=z.ravel(), weight=weight.ravel())


def _tree(
    sign: float, start: Table, anatomy: Anatomy, outline: Outline, rng: np.random.Generator
) -> list[Points]:
    """Branches that advance together, split, taper and end near the pleura."""
    count = 26
    angle = np.linspace(-1.45, 1.75, count) + rng.normal(0, 0.08, count)
    radius = rng.uniform(1.3, 2.8, count) * (1 + 0.25 * np.sin(angle)) * anatomy.half_width_mm / 128
    x = start[0] + sign * rng.uniform(0, 14, count) * np.cos(angle)
    z = start[1] + rng.uniform(-4, 34, count) + 12 * np.sin(angle)
    tilt = rng.uniform(0.55, 1.0, count)  # share of the step that lies in the film plane
    floor = outline.floor_right if sign < 0 else outline.floor_left
    step, points = 2.6, []
    for _ in range(90):
        run = step * tilt
        x2, z2 = x + sign * np.cos(angle) * run, z + np.sin(angle) * run
        wall = np.interp(z2, outline.z_mm, outline.wall)
        alive = (
            (sign * x2 < wall - 3)
            & (z2 > 4)
            & (z2 < np.interp(sign * x2, outline.x_mm, floor) + 14)
            & (radius > 0.27)
        )
        alive &= sign * x2 > 0.1 * anatomy.half_width_mm
        if not alive.any():
            break
        x, z, x2, z2, angle, radius, tilt, run = (v[alive] for v in (x, z, x2, z2, angle, radius, tilt, run))
        points.append((x, z, x2, z2, radius))
        radius = radius * (1 - 0.006 * step)
        angle = angle + rng.normal(0, 0.075, angle.size)
        split = rng.uniform(size=angle.size) < step / (10.0 + 6 * radius)
        spread = rng.uniform(0.3, 0.75, angle.size) * rng.choice([-1.0, 1.0], angle.size)
        child = radius * rng.uniform(0.5, 0.9, angle.size)
        radius = np.where(split, radius * 0.90, radius)
        x, z = np.concatenate([x2, x2[split]]), np.concatenate([z2, z2[split]])
        angle = np.concatenate([angle - np.where(split, 0.3 * spread, 0), (angle + spread)[split]])
        radius = np.concatenate([radius, child[split]])
        tilt = np.concatenate([tilt, rng.uniform(0.45, 1.0, int(split.sum()))])
    x, z, x2, z2, radius = (np.concatenate(part) for part in zip(*points, strict=True))
    thin = radius < 0.75
    return [
        _segments(x[part], z[part], x2[part], z2[part], radius[part], across=across)
        for part, across in ((thin, 2), (~thin, 7))
    ]


def _segments(x0: Table, z0: Table, x1: Table, z1: Table, radius: Table, *, across: int) -> Points:
    """Short straight pieces of vessel as points, `across` of them side by side."""
    a = (np.arange(5) + 0.5) / 5
    u = (np.arange(across) + 0.5) / across * 2 - 1
    chord = np.sqrt(1 - u**2)
    chord *= 0.5 * np.pi / chord.sum()
    dx, dz = x1 - x0, z1 - z0
    length = np.maximum(np.hypot(dx, dz), 1e-9)
    weight = (2 * radius**2 * length / 5)[:, None, None] * chord * np.ones((1, 5, 1))
    x = (x0[:, None] + dx[:, None] * a)[:, :, None] - (dz / length * radius)[:, None, None] * u
    z = (z0[:, None] + dz[:, None] * a)[:, :, None] + (dx / length * radius)[:, None, None] * u
    return Points(x=x.ravel(), z=z.ravel(), weight=weight.ravel())


def airways(anatomy: Anatomy) -> list[Points]:
    """Trachea and main bronchi: air, mm."""
    width, height = anatomy.half_width_mm, anatomy.height_mm
    fork = 0.37 * height
    lean = 0.02 + 0.3 * anatomy.turn
    paths = [
        (
            [
                (0.0, -0.95 * width),
                (0.0, -0.3 * width),
                (-lean * width, 0.26 * height),
                (-0.02 * width, fork),
            ],
            8.8,
        ),
        (
            [
                (-0.02 * width, fork - 4),
                (-0.13 * width, fork + 0.09 * width),
                (-0.24 * width, fork + 0.24 * width),
            ],
            6.0,
        ),
        (
            [
                (-0.02 * width, fork - 4),
                (0.13 * width, fork + 0.13 * width),
                (0.29 * width, fork + 0.24 * width),
            ],
            5.2,
        ),
    ]
    clouds = []
    for knots, radius in paths:
        path = resample(knots, step_mm=0.6)
        clouds.append(_string(path, np.full(len(path), radius * width / 128), across=30))
    return clouds


def gas(anatomy: Anatomy, outline: Outline, rng: np.random.Generator) -> list[Points]:
    """Gas in stomach and bowel, air; flat below where the patient stands."""
    width = anatomy.half_width_mm
    top = float(np.interp(0.45 * width, outline.x_mm, outline.floor_left))
    bubbles = []
    if rng.uniform() < 0.7:
        size = rng.uniform(0.5, 1.1)
        centre = (rng.uniform(0.36, 0.55) * width, top + (0.13 + 0.14 * size) * width)
        level = rng.uniform(0.0, 0.8) if rng.uniform() < 0.6 and anatomy.view == "PA" else 1.0
        bubbles.append(
            _bubble(centre, (0.22 * size * width, 0.15 * size * width), 36 * size, level, 0.04, rng)
        )
    for _ in range(int(rng.integers(0, 5))):
        centre = (rng.uniform(0.2, 0.85) * width, top + rng.uniform(0.35, 0.8) * width)
        size = rng.uniform(0.05, 0.12) * width
        bubbles.append(_bubble(centre, (size, 0.8 * size), 1.4 * size, 1.0, 0.16, rng))
    return bubbles


def _bubble(
    centre: tuple[float, float],
    axes: tuple[float, float],
    depth_mm: float,
    level: float,
    lobes: float,
    rng: np.random.Generator,
) -> Points:
    """A pocket of gas as points; `level` is where fluid begins, 1 for none, in units of the second axis."""
    count = 12000
    rho, angle = np.sqrt((np.arange(count) + 0.5) / count), 2.399963 * np.arange(count)
    shape = (
        1
        + lobes * np.sin(5 * angle + rng.uniform(0, 6))
        + 0.5 * lobes * np.sin(3 * angle + rng.uniform(0, 6))
    )
    weight = np.sqrt(1 - rho**2) * depth_mm * np.pi * axes[0] * axes[1] / count * shape**2
    down = rho * np.sin(angle) * shape
    x, z = centre[0] + axes[0] * rho * np.cos(angle) * shape, centre[1] + axes[1] * down
    return Points(x=x, z=z, weight=weight * (down < level))


def letters(text: str, *, corner: tuple[float, float], height_mm: float, lean: float = 0.0) -> list[Points]:
    """Lead letters as points; `corner` is the upper left, (x, z) in mm. Knows R, L, P, A and the blank."""
    clouds = []
    for place, letter in enumerate(text):
        for stroke in _STROKES.get(letter, ()):
            knots = np.asarray(stroke) * height_mm + np.array([0.8 * place * height_mm, 0])
            along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
            at = np.linspace(0, along[-1], max(int(along[-1] / 0.25), 2))
            path = np.stack([np.interp(at, along, knots[:, k]) for k in (0, 1)], axis=1)
            turned = path @ np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
            clouds.append(_string(turned + corner, np.full(len(path), 0.075 * height_mm), across=12))
    return clouds


def devices(anatomy: Anatomy, kinds: Sequence[str], rng: np.random.Generator) -> list[Points]:
    """Metal and plastic on or in the patient, in mm of metal.

    `kinds`: "electrodes", "line" (central venous catheter), "tube" (in the trachea), "pacemaker"; other
    words are not devices and draw nothing.
    """
    width, height = anatomy.half_width_mm, anatomy.height_mm
    clouds: list[Points] = []
    if "electrodes" in kinds:
        clouds += _electrodes(width, height, rng)
    if "line" in kinds:
        course = [(-0.36, -0.24), (-0.20, -0.03), (-0.13, 0.2), (-0.15, 0.42)]
        clouds.append(_wire([(x * width, t * height) for x, t in course], 1.0, 0.35))
    if "tube" in kinds:
        for side in (-4.5, 4.5):
            course = [(side, -0.47), (side - 1, -0.05), (side - 2, 0.28)]
            clouds.append(_wire([(x, t * height) for x, t in course], 0.8, 0.25))
    if "pacemaker" in kinds:
        clouds += _pacemaker(width, height)
    return clouds


def _wire(knots: Sequence[tuple[float, float]], radius_mm: float, metal: float) -> Points:
    path = resample(knots, step_mm=0.4)
    cloud = _string(path, np.full(len(path), radius_mm), across=6)
    return Points(x=cloud.x, z=cloud.z, weight=cloud.weight * metal)


def _electrodes(width: float, height: float, rng: np.random.Generator) -> list[Points]:
    """Three clips with their wires."""
    clouds = []
    for sign, zone in ((-1, 0.2), (1, 0.2), (1, 0.85)):
        x, z = sign * rng.uniform(0.5, 0.85) * width, (zone + rng.uniform(-0.08, 0.08)) * height
        ring = [(x + 5.5 * np.cos(a), z + 5.5 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 13)]
        bend = rng.uniform(-0.25, 0.25, 2) * width
        lead = [(x, z), (x + 0.1 * width + bend[0], z + 0.45 * height), (x * 0.5 + bend[1], 1.25 * height)]
        clouds += [_wire(ring, 0.9, 0.35), _wire([(x - 2, z), (x, z + 1), (x + 2, z)], 2.2, 0.5)]
        clouds.append(_wire(lead, 0.55, 0.45))
    return clouds


def _pacemaker(width: float, height: float) -> list[Points]:
    """A box below the left collar bone and a lead to the right ventricle."""
    x, z = 0.72 * width, 0.13 * height
    rho, angle = np.sqrt((np.arange(6000) + 0.5) / 6000), 2.399963 * np.arange(6000)
    weight = np.full(6000, np.pi * 20 * 16 * 2.4 / 6000) * (0.55 + 0.9 * (rho < 0.72))
    box = Points(x=x + 20 * rho * np.cos(angle), z=z + 16 * rho * np.sin(angle), weight=weight)
    course = ((0.42, 0.03), (0.02, 0.12), (-0.14, 0.34), (-0.15, 0.58), (0.05, 0.74), (0.3, 0.76))
    lead = [(x - 14, z - 10), *((a * width, t * height) for a, t in course)]
    return [box, _wire(lead, 0.8, 0.6)]
