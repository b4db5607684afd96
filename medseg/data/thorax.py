"""A parametric chest: outlines, thickness of tissue and air along the beam, and exact masks.

World of this module: x in mm towards the patient's left, z in mm towards the feet, both in the plane
of the film; the origin is on the midline at the height of the lung apices. Depth (along the beam)
enters only as thickness. Lengths of the anatomy are given in units of the inner half width of the rib
cage, `Anatomy.half_width_mm`, and heights of the lung field as t in [0, 1] from apex to costophrenic
angle, so that one set of curves serves every body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from medseg.data.thorax_film import Field, Film, Mask, Table, smooth_noise

Sex = Literal["M", "F"]
View = Literal["PA", "AP"]

# Curves over sqrt(t), which makes the apex round: half widths in units of the inner half width.
_WALL = ((0, 0.10, 0.24, 0.30, 0.38, 0.51, 0.64, 0.775, 0.88, 0.94, 1.0, 1.10, 1.3),
         (0.30, 0.44, 0.65, 0.745, 0.85, 0.935, 0.975, 1.0, 1.0, 0.99, 0.945, 0.86, 0.7))  # fmt: skip
_PEDICLE_RIGHT = ((0, 0.14, 0.22, 0.32, 0.42, 0.51, 0.60, 0.70, 1.0, 1.3),
                  (0.30, 0.20, 0.165, 0.15, 0.14, 0.148, 0.16, 0.165, 0.165, 0.165))  # fmt: skip
_PEDICLE_LEFT = ((0, 0.14, 0.22, 0.32, 0.42, 0.51, 0.60, 0.70, 1.0, 1.3),
                 (0.30, 0.20, 0.165, 0.147, 0.138, 0.145, 0.168, 0.178, 0.165, 0.16))  # fmt: skip
_DEPTH = ((0, 0.10, 0.22, 0.35, 0.50, 0.70, 1.0, 1.3), (0.16, 0.33, 0.50, 0.68, 0.85, 1.0, 1.0, 0.96))
# Borders of the heart over h: 0 at the aortic arch, 1 at the left dome.
_HEART_LEFT = ((0.2, 0.28, 0.36, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 1.0, 1.08, 1.2, 1.3, 1.4),
               (0.20, 0.235, 0.275, 0.335, 0.405, 0.472, 0.528, 0.567, 0.58, 0.58, 0.565, 0.5, 0.35,
                0))  # fmt: skip
_HEART_RIGHT = ((0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4),
                (0.15, 0.175, 0.205, 0.24, 0.265, 0.278, 0.275, 0.26, 0.235, 0.15, 0))  # fmt: skip
# z of the joints of ribs and spine, in units of 1 / 2.1 of the chest height.
RIB_JOINT = (0.05, 0.17, 0.31, 0.46, 0.65, 0.85, 1.06, 1.28, 1.51, 1.75, 2.0, 2.24)
# Skin: half width of the trunk over z, in units of the inner half width.
_TRUNK = ((-0.4, 0.0, 0.3, 0.55, 0.75, 0.9, 1.05, 1.4, 2.2, 3.0),
          (1.62, 1.72, 1.74, 1.62, 1.40, 1.26, 1.20, 1.14, 1.08, 1.10))  # fmt: skip
# Depth of the body over z, relative to that at the diaphragm.
_BODY_DEPTH = ((-0.5, 0.0, 0.5, 1.1, 2.2), (0.50, 0.80, 1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One person's chest. Lengths without a unit are in inner half widths of the rib cage.

    Parameters
    ----------
    sex, view : str
        Body form; a bedside AP film has a wider heart, higher domes and other shoulders.
    half_width_mm, height_mm, depth_mm : float
        Inner half width of the rib cage, apex to costophrenic angle, front to back of the lungs.
    fat_mm : float
        Soft tissue outside the ribs, at the side.
    breast : float
        Thickness of the breast shadow, 0 to 1.
    heart, knob, pedicle : float
        Scale of the heart, of the aortic arch and of the upper mediastinum.
    heart_tilt_rad : float
        Direction of the heart's long axis below the horizontal.
    dome_right, dome_left : float
        Height t of the two domes.
    dome_power : float
        Shape of the dome: larger is flatter with a steeper fall.
    shoulder : float
        Raise of the shoulders; positive is higher.
    scapula : float
        How far the shoulder blades lie over the lungs.
    arm : float
        Spread of the arms; 0 hanging.
    turn : float
        Turn of the patient about the long axis, as sine.
    scoliosis_mm : float
        Sideways bow of the spine.
    effusion : str
        "", "right" or "left": fluid that blunts the costophrenic angle; it is not lung field.
    wobble : (8,) float array
        Individual deviations of the outlines.
    """

    sex: Sex
    view: View
    half_width_mm: float
    height_mm: float
    depth_mm: float
    fat_mm: float
    breast: float
    heart: float
    knob: float
    pedicle: float
    heart_tilt_rad: float
    dome_right: float
    dome_left: float
    dome_power: float
    shoulder: float
    scapula: float
    arm: float
    turn: float
    scoliosis_mm: float
    effusion: Literal["", "right", "left"]
    wobble: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The silhouettes of one anatomy as tables, for points and pictures alike.

    `z_mm` and `x_mm` are the abscissae. `wall`, `right` and `left` are half widths in mm over z: of the
    rib cage inside, and of the mediastinal silhouette on either side; `column_right` and `column_left`
    are those of the mediastinum without the heart. `floor_right` and `floor_left` are z in mm over |x|:
    the diaphragm or the fluid on it.
    """

    z_mm: Table
    x_mm: Table
    wall: Table
    depth: Table
    column_right: Table
    column_left: Table
    heart_right: Table
    heart_left: Table
    right: Table
    left: Table
    floor_right: Table
    floor_left: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Thickness along the beam and masks, all (I, J).

    `soft_mm` is soft tissue with the lungs taken as air; `air_mm` is the air in lungs; `room_mm` is the
    front to back extent of the chest cavity. `lung_right`, `lung_left` and `heart` are exact: a pixel
    belongs to the structure that its centre lies in. Lungs are the visible fields, heart and mediastinum
    left out.
    """

    soft_mm: Field
    air_mm: Field
    room_mm: Field
    lung_right: Mask
    lung_left: Mask
    heart: Mask


def draw_anatomy(rng: np.random.Generator, *, sex: Sex, view: View) -> Anatomy:
    """A plausible adult of the given sex, as imaged in the given view."""
    mobile = view == "AP"
    half_width = float(np.clip(rng.normal(133 if sex == "M" else 121, 7), 105, 152))
    fat = float(np.clip(6 + rng.gamma(2.5, 6.5), 7, 52))
    ratio = float(np.clip(rng.normal(1.98 - 0.16 * mobile - 0.004 * fat, 0.15), 1.6, 2.35))
    dome = float(np.clip(rng.normal(0.755 if not mobile else 0.74, 0.03), 0.67, 0.82))
    age = float(rng.uniform())
    effusion = str(rng.choice(["", "right", "left"], p=[0.9, 0.05, 0.05]))
    return Anatomy(
        sex=sex, view=view, half_width_mm=half_width, height_mm=half_width * ratio,
        depth_mm=half_width * float(rng.uniform(1.18, 1.42)), fat_mm=fat,
        breast=float(np.clip(rng.normal(0.45, 0.25) + 0.008 * fat, 0.1, 1.0)) if sex == "F" else 0.0,
        heart=float(np.clip(rng.normal(1.02 + 0.14 * mobile + 0.08 * age, 0.11), 0.85, 1.42)),
        knob=float(np.clip(rng.normal(0.97 + 0.32 * age, 0.08), 0.8, 1.4)),
        pedicle=float(np.clip(rng.normal(1.0 + 0.12 * mobile + 0.08 * age, 0.08), 0.88, 1.4)),
        heart_tilt_rad=float(np.clip(rng.normal(0.72 - 0.2 * (2.0 - ratio < 0), 0.12), 0.35, 1.0)),
        dome_right=dome, dome_left=dome + float(np.clip(rng.normal(0.045, 0.022), -0.01, 0.09)),
        dome_power=float(rng.uniform(1.9, 2.7)), shoulder=float(rng.normal(0.1 * mobile, 0.09)),
        scapula=float(np.clip(rng.normal(0.15 + 0.25 * mobile, 0.15), 0.0, 0.6)),
        arm=float(rng.uniform(0.0, 1.0)), turn=float(rng.normal(0, 0.035 + 0.03 * mobile)),
        scoliosis_mm=float(rng.normal(0, 3.5)), effusion=effusion,  # type: ignore[arg-type]
        wobble=rng.normal(0, 1, 8),
    )  # fmt: skip


def trace_outline(anatomy: Anatomy) -> Outline:
    """The silhouettes of an anatomy, tabulated every 0.5 mm."""
    width, height = anatomy.half_width_mm, anatomy.height_mm
    z = np.arange(-0.8 * width, 1.5 * height, 0.5)
    x = np.arange(0.0, 1.6 * width, 0.5)
    s = np.sqrt(np.clip(z / height, 0, 1.6))
    column = {
        side: width
        * PchipInterpolator(*knots)(s)
        * (1 + (anatomy.pedicle - 1) * np.clip(2.5 * s - 0.3, 0, 1))
        for side, knots in (("right", _PEDICLE_RIGHT), ("left", _PEDICLE_LEFT))
    }
    wave = anatomy.wobble
    wall = PchipInterpolator(*_WALL)(s) * width
    wall *= 1 + 0.012 * wave[0] * np.sin(2.6 * s + wave[1]) * np.clip(s * 2, 0, 1)
    heart_right, heart_left = _heart_rows(anatomy, z)
    vessels_right, vessels_left = _vessel_rows(anatomy, z)
    shift = anatomy.turn * width
    right = np.maximum.reduce([column["right"] - 0.2 * shift, vessels_right, heart_right])
    left = np.maximum.reduce([column["left"] + 0.2 * shift, vessels_left, heart_left])
    fade = np.clip(s * 5, 0, 1)  # the apex keeps its own rounding
    right, left = (
        np.where(z < 0, base, (1 - fade) * base + fade * gaussian_filter1d(rows, 8))
        for base, rows in ((column["right"], right), (column["left"], left))
    )
    return Outline(
        z_mm=z, x_mm=x, wall=wall, depth=anatomy.depth_mm * PchipInterpolator(*_DEPTH)(s),
        column_right=column["right"], column_left=column["left"],
        heart_right=heart_right, heart_left=heart_left, right=right, left=left,
        floor_right=_floor(anatomy, x, side="right"), floor_left=_floor(anatomy, x, side="left"),
    )  # fmt: skip


def _ellipse_rows(z: Table, centre: tuple[float, float], axes: tuple[float, float]) -> tuple[Table, Table]:
    """Smallest and largest x of an upright ellipse in each row; NaN outside."""
    square = 1 - ((z - centre[1]) / axes[1]) ** 2
    half = axes[0] * np.sqrt(np.where(square < 0, np.nan, square))
    return centre[0] - half, centre[0] + half


def _heart_levels(anatomy: Anatomy) -> tuple[float, float]:
    """z of the aortic arch and of the left dome, mm: the heart hangs between them."""
    return 0.275 * anatomy.height_mm, anatomy.height_mm * anatomy.dome_left


def _heart_rows(anatomy: Anatomy, z: Table) -> tuple[Table, Table]:
    """Extent of the heart to the right and to the left of the midline in each row, mm; 0 outside."""
    width, size = anatomy.half_width_mm, anatomy.heart
    top, floor = _heart_levels(anatomy)
    h = (z - top) / (floor - top)
    shift = 0.3 * anatomy.turn + 0.008 * anatomy.wobble[2]
    left = PchipInterpolator(*_HEART_LEFT)(np.clip(h, 0.2, 1.4))
    right = PchipInterpolator(*_HEART_RIGHT)(np.clip(h, 0.2, 1.4))
    # a lying heart reaches further to the left and less far up
    lying = 1 + 0.16 * (0.72 - anatomy.heart_tilt_rad) * np.clip((h - 0.45) / 0.4, -1, 1)
    left = (0.14 + (left - 0.14) * size * lying + shift) * (left > 0)
    right = (0.10 + (right - 0.10) * size - shift) * (right > 0)
    return np.clip(right, 0, None) * width, np.clip(left, 0, None) * width


def _vessel_rows(anatomy: Anatomy, z: Table) -> tuple[Table, Table]:
    """Extent of the great vessels to the right and to the left in each row, mm; 0 outside."""
    width, height = anatomy.half_width_mm, anatomy.height_mm
    knob_z, _ = _heart_levels(anatomy)
    centre = (width * (0.095 + 0.4 * anatomy.turn), knob_z)
    _, knob = _ellipse_rows(z, centre, (0.155 * width * anatomy.knob, 0.175 * width * anatomy.knob))
    cava, _ = _ellipse_rows(
        z, (-0.03 * width, 0.33 * height), (0.165 * width * anatomy.knob**0.5, 0.55 * width)
    )
    return np.clip(np.nan_to_num(-cava, nan=0.0), 0, None), np.clip(np.nan_to_num(knob, nan=0.0), 0, None)


def _floor(anatomy: Anatomy, x: Table, *, side: Literal["right", "left"]) -> Table:
    """z of the lower border of the lung field over |x|, mm: dome, and fluid where there is some."""
    width, height = anatomy.half_width_mm, anatomy.height_mm
    right = side == "right"
    top = height * (anatomy.dome_right if right else anatomy.dome_left)
    peak = width * ((0.40 if right else 0.50) + 0.03 * anatomy.wobble[4 if right else 5])
    base = height * (1.0 if right else 1.015)
    out = np.clip((x - peak) / (0.945 * width - peak), 0, None)
    inward = np.clip((peak - x) / peak, 0, None)
    dome = top + (base - top) * out**anatomy.dome_power + 0.07 * width * inward**2
    dome = dome + 0.008 * width * np.sin(9 * x / width + 3 * anatomy.wobble[6])
    if anatomy.effusion != side:
        return np.asarray(dome)
    fluid = top + 0.04 * height - 0.22 * height * np.clip((x / width - 0.45) / 0.55, 0, None) ** 2.2
    # a smooth minimum of dome and meniscus
    soft = 0.03 * width
    return np.asarray(-soft * np.logaddexp(-dome / soft, -fluid / soft))


def _rounded(inside: Field, edge: float) -> Field:
    """0 at a border, 1 from `edge` mm inside: the thickness of a rounded body over its distance."""
    depth = np.clip(inside / np.float32(edge), 0, 1)
    return np.asarray(np.sqrt(depth * (2 - depth)), dtype=np.float32)


def _chord(x: Field, half_width: Field, power: float) -> Field:
    """Relative thickness of a superelliptic section at x; 1 in the middle, 0 outside."""
    ratio = np.clip(np.abs(x) / half_width, 0, 1)
    return np.asarray((1 - ratio ** np.float32(power)) ** np.float32(1 / power), dtype=np.float32)


def _position(values: Field, knots: Table) -> tuple[NDArray[np.int32], Field]:
    """Where values lie in an evenly spaced table: the entry before, and the fraction past it."""
    at = np.clip(
        (values - np.float32(knots[0])) * np.float32(1 / (knots[1] - knots[0])), 0, len(knots) - 1.001
    )
    entry = at.astype(np.int32)
    return entry, at - entry.astype(np.float32)


def _look_up(table: Table, entry: NDArray[np.int32], part: Field) -> Field:
    """Linear interpolation at positions from `_position`."""
    single = table.astype(np.float32)
    return np.asarray(single[entry] + part * np.diff(single, append=single[-1])[entry], dtype=np.float32)


def render_tissue(anatomy: Anatomy, outline: Outline, film: Film, rng: np.random.Generator) -> Tissue:
    """Thickness of soft tissue and lung, and the masks, on the grid of a film."""
    x, z = film.coordinates()

    row, part = _position(z, outline.z_mm)
    column, rest = _position(np.abs(x), outline.x_mm)

    def rows(table: Table) -> Field:
        return _look_up(table, row, part)

    wall = rows(outline.wall)
    room = rows(outline.depth) * _chord(x, wall, 2.3)
    floors = (_look_up(table, column, rest) for table in (outline.floor_right, outline.floor_left))
    floor = np.where(x < 0, *floors)
    right, left = rows(outline.right), rows(outline.left)
    heart_right, heart_left = rows(outline.heart_right), rows(outline.heart_left)
    middle = np.minimum(x + rows(outline.column_right), rows(outline.column_left) - x)
    arch, dome = _heart_levels(anatomy)
    h = (z - arch) / (dome - arch)
    heart = np.minimum(x + heart_right, heart_left - x)
    base = 0.42 - 0.3 * x / anatomy.half_width_mm
    apex = 1.12 - 0.35 * np.square(x / anatomy.half_width_mm - 0.12)
    muscle = _rounded(heart, 45) * np.clip((h - 0.1) / 0.45, 0, 1)
    silhouette = np.minimum(x + right, left - x)
    beside = (1 - 0.72 * _rounded(silhouette, 18)) * (1 - 0.36 * muscle)
    above = 1 - np.clip((z - floor) / (0.38 * anatomy.half_width_mm), 0, 1) ** np.float32(0.36)
    open_share = (1 - _rounded(middle, 14)) * np.minimum(beside, above)
    air = np.where(z > 0, room * open_share, 0).astype(np.float32)
    inside = (np.abs(x) < wall) & (z > 0) & (z < floor)
    return Tissue(
        soft_mm=_body(anatomy, x, z, film, rng),
        air_mm=air,
        room_mm=room,
        lung_right=inside & (x < -right),
        lung_left=inside & (x > left),
        heart=(heart > 0) & (h > base) & (h < apex) & ~(inside & (silhouette < 0)),
    )


def _body(anatomy: Anatomy, x: Field, z: Field, film: Film, rng: np.random.Generator) -> Field:
    """Thickness of the body as if it were solid, mm."""
    width, fat = anatomy.half_width_mm, anatomy.fat_mm
    side = np.abs(x)
    lift = anatomy.shoulder * width
    half = np.interp((z + lift * np.exp(-np.square(z / width))) / width, *_TRUNK)
    half = half.astype(np.float32) * width
    half = gaussian_filter(half, (0, 6 / film.spacing_mm)) + (fat - 10) * np.clip(z / width, 0, 1)
    depth = anatomy.depth_mm + 40 + 1.2 * fat
    depth = depth * np.interp(z / width, *_BODY_DEPTH).astype(np.float32)
    # shoulders and armpit folds are flatter than the trunk
    flat = 1 - 0.22 / (1 + np.exp(-(side - 1.08 * width) / (0.07 * width)))
    neck_half = 0.41 * width + 0.25 * fat
    slope = 0.34 * np.exp(-np.clip(side - 0.3 * width, 0, None) / (0.42 * width))
    top = -width * (0.13 + slope) - lift * np.clip(side / width, 0, 1.2) - 0.3 * fat
    crown = _rounded((z - top).astype(np.float32), 0.45 * width)
    trunk = depth * _chord(x, half, 3.2) * crown * flat
    neck = (92 + 0.6 * fat) * _chord(x, np.full_like(x, neck_half), 2.4)
    neck = neck / (1 + np.exp((z - 0.02 * width) / (0.06 * width)))
    parts = [trunk, neck, _arms(anatomy, side, z)]
    solid = np.cbrt(sum(np.maximum(part, 0) ** 3 for part in parts))
    chest = 10 * _pectoral(anatomy, side, z)
    solid = solid + (chest + _breasts(anatomy, x, z) if anatomy.breast else 1.5 * chest)
    texture = 1 + 0.045 * smooth_noise(rng, film, 26) + 0.018 * smooth_noise(rng, film, 7)
    return np.asarray(solid * texture, dtype=np.float32)


def _arms(anatomy: Anatomy, side: Field, z: Field) -> Field:
    """Thickness of the upper arms, mm."""
    width = anatomy.half_width_mm
    start = (1.42 * width, (0.10 - anatomy.shoulder) * width)
    reach = ((0.25 + 0.55 * anatomy.arm) * width, 1.8 * width)
    along = ((side - start[0]) * reach[0] + (z - start[1]) * reach[1]) / (reach[0] ** 2 + reach[1] ** 2)
    along = np.clip(along, 0, 1)
    distance = np.square(side - start[0] - along * reach[0]) + np.square(z - start[1] - along * reach[1])
    radius = (0.36 - 0.06 * along) * width + 0.35 * anatomy.fat_mm
    return np.asarray(1.7 * np.sqrt(np.clip(radius**2 - distance, 0, None)), dtype=np.float32)


def _breasts(anatomy: Anatomy, x: Field, z: Field) -> Field:
    """Added thickness of the breasts, mm: soft above, a sharp fold below."""
    width, size = anatomy.half_width_mm, anatomy.breast
    added = np.zeros_like(x)
    for sign, wave in ((-1, float(anatomy.wobble[1])), (1, float(anatomy.wobble[7]))):
        across = (sign * x - (0.60 + 0.06 * size) * width) / ((0.38 + 0.16 * size) * width)
        down = (z - (0.66 + 0.03 * wave + 0.06 * size) * anatomy.height_mm) / ((0.30 + 0.22 * size) * width)
        down = np.where(down < 0, down / 1.9, down)
        added += np.clip(1 - across**2 - down**2, 0, None) ** np.float32(0.575)
    return np.asarray((14 + 40 * size) * added, dtype=np.float32)


def _pectoral(anatomy: Anatomy, side: Field, z: Field) -> Field:
    """Relative thickness of the pectoral muscles."""
    width = anatomy.half_width_mm
    across = (side - 0.75 * width) / (0.55 * width)
    down = (z - 0.45 * width) / (0.62 * width)
    return np.asarray(np.sqrt(np.clip(1 - across**2 - down**2, 0, None)), dtype=np.float32)


def spine_mm(anatomy: Anatomy, film: Film, rng: np.random.Generator) -> Field:
    """Bone thickness of the vertebral column, in mm of cortical bone, (I, J)."""
    x, z = film.coordinates()
    unit = anatomy.height_mm / 2.1
    # centres of the bodies, T1 between the first ribs; discs lie halfway between centres
    levels = [-7, 0, *range(1, 12), 17]
    joints = np.interp(np.arange(-7, 18), levels, [-1.05, -0.05, 0.11, 0.28, *RIB_JOINT[3:], 3.9])
    centres = joints * unit + 0.09 * unit + rng.normal(0, 0.6, joints.size)
    columns = np.flatnonzero((np.abs(x) < 62).any(axis=1))
    total = np.zeros(film.shape, dtype=np.float32)
    if columns.size:
        strip = slice(columns[0], columns[-1] + 1)
        total[strip] = _vertebrae(anatomy, x[strip], z[strip], centres)
    return total


def _vertebrae(anatomy: Anatomy, x: Field, z: Field, centres: Table) -> Field:
    """Bodies, end plates and arches of the vertebrae around the midline."""
    width = anatomy.half_width_mm
    bow = anatomy.scoliosis_mm * np.sin(z / anatomy.height_mm * 3.0 + float(anatomy.wobble[3]))
    across = (x - bow + anatomy.turn * 0.35 * width).astype(np.float32)
    position = np.interp(z, centres, np.arange(centres.size)).astype(np.float32)
    local = position - np.floor(position + 0.5)  # -0.5 .. 0.5 from disc to disc
    pitch = np.interp(z, centres, np.gradient(centres)).astype(np.float32)
    half = np.interp(z / width, (-0.6, 0.2, 2.0, 2.8), (12.5, 14, 17, 20.5)).astype(np.float32)
    half *= np.float32(width / 128)
    waist = half * (0.92 + 0.36 * np.square(local * 1.6))
    disc = np.clip((np.abs(local) - 0.41) * pitch / 1.2 + 0.5, 0, 1)
    lateral = np.clip((waist - np.abs(across)) / 1.6 + 0.5, 0, 1)
    rounded = np.sqrt(np.clip(1 - np.square(across / (waist + 1.2)), 0, 1))
    body = lateral * (1 - disc) * (2.2 + 2.0 * rounded)
    plate = np.exp(-np.square((np.abs(local) - 0.395) * pitch / 1.0)) * lateral * (1.8 + 1.5 * rounded)
    rim = np.exp(-np.square((np.abs(across) - waist + 1.2) / 1.2)) * (1 - disc) * 1.8
    return np.asarray(body + plate + rim + _arches(across, local, pitch, half), dtype=np.float32)


def _arches(across: Field, local: Field, pitch: Field, half: Field) -> Field:
    """Pedicles, laminae, spinous and transverse processes in mm of cortical bone."""
    side, down = np.abs(across), local * pitch
    pedicle = np.hypot((side - 0.66 * half) / 3.6, (down + 0.13 * pitch) / 4.8)
    ring = 3.0 * np.exp(-np.square((pedicle - 1) / 0.22)) + 1.0 * (pedicle < 1)
    spinous = np.hypot(across / 2.9, (down - 0.26 * pitch) / 6.0)
    drop = 3.4 * np.exp(-np.square((spinous - 1) / 0.28)) + 1.5 * (spinous < 1)
    slope = np.square((side - 0.34 * half - 0.25 * down) / 4.5)
    lamina = 1.6 * np.exp(-slope - np.square(down / (0.35 * pitch)))
    wing = np.square((side - 1.32 * half) / (0.52 * half)) + np.square((down + 0.2 * pitch) / 4.4)
    return np.asarray(ring + drop + lamina + 2.4 * np.sqrt(np.clip(1 - wing, 0, None)))
