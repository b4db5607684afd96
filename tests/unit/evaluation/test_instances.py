"""Instances of drawn label maps against answers by hand: which there are, where, how large, how sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

import medseg.components
from medseg.errors import ConfigError, GeometryError
from medseg.evaluation.diameter import longest_diameter, plane_axes
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import slice_axis
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.instances import find_instances
from medseg.evaluation.intensity import Intensities
from medseg.labels import Label, LabelTable

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        Label(name="nodule", value=7, colour="#ffb03a"),
    ),
    regions={"lung": ("lung_right", "lung_left"), "all": ("lung_right", "lung_left", "nodule")},
)
NODULES = RecogniseOptions(labels=("nodule",))
# Rows of LPS images: i to the left, j to the back, k to the head; 0.8 x 0.65 x 2.5 mm.
STRAIGHT = np.array([[-0.8, 0, 0, 20], [0, -0.65, 0, 30], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])


def oblique(affine: np.ndarray, degrees: float) -> np.ndarray:
    """Turned about the front-back axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])
    return turn @ affine


def facts(shape, affine=STRAIGHT, **more):
    if affine is not None and "spacing_mm" not in more:
        more["spacing_mm"] = tuple(np.linalg.norm(affine[:3, : len(shape)], axis=0))
    return ImageFacts(shape=shape, affine=affine, **more)


def find(label_map, image=None, *, options=NODULES, **more):
    image = image or facts(label_map.shape)
    return find_instances(label_map, image, table=TABLE, options=options, case_id="c", **more)


def two_nodules() -> np.ndarray:
    """A nodule of 4 x 6 x 2 and one of 2 x 2 x 1 voxels in a chest of 30 x 26 x 12."""
    label_map = np.zeros((30, 26, 12), dtype=np.uint8)
    label_map[3:10, 4:22, 2:10] = 1
    label_map[20:27, 4:22, 2:10] = 2
    label_map[4:8, 10:16, 8:10] = 3
    label_map[21:23, 5:7, 3] = 3
    return label_map


def test_two_nodules_are_told_the_larger_first():
    found = find(two_nodules())
    assert found.structures == {"nodule": 2}
    large, small = found.instances
    assert [i.name for i in found.instances] == ["nodule 1", "nodule 2"]
    assert (large.voxels, small.voxels) == (48, 4)
    assert large.box == ((4, 7), (10, 15), (8, 9))
    assert large.centroid == (5.5, 12.5, 8.5)
    np.testing.assert_allclose(large.centroid_mm, (20 - 0.8 * 5.5, 30 - 0.65 * 12.5, -40 + 2.5 * 8.5))
    np.testing.assert_allclose(large.box_size_mm, (3.2, 3.9, 5.0))
    np.testing.assert_allclose(large.box_mm, ((14.0, 17.2), (19.925, 23.825), (-21.25, -16.25)))
    assert large.quantities["volume"].unit == "ml"
    assert large.quantities["volume"].value == pytest.approx(48 * 0.8 * 0.65 * 2.5 / 1000)
    assert large.plane == 8
    assert not large.cut_off


def test_words_come_from_the_body_where_both_sides_are_labelled():
    large, small = find(two_nodules()).instances
    # i grows to the left: the large one lies in the right lung, near the head.
    assert (large.place.side, large.place.side_of, large.place.third) == ("right", "body", "cranial")
    assert (small.place.side, small.place.third) == ("left", "caudal")
    assert (large.place.nearest, small.place.nearest) == ("lung_right", "lung_left")
    # From 5.5, 12.5, 8.5 the nearest voxel of the lung is 2.5 columns aside, and half a row and slice off.
    assert large.place.nearest_mm == pytest.approx(np.linalg.norm([2.5 * 0.8, 0.5 * 0.65, 0.5 * 2.5]))
    assert large.place.text == "right, cranial third of the image, nearest to lung right (2.4 mm)"


def test_words_follow_the_patient_not_the_voxel_axes():
    label_map = two_nodules()
    before = find(label_map).instances
    flipped = np.ascontiguousarray(label_map[::-1, :, ::-1].transpose(2, 0, 1))
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = -STRAIGHT[:3, 2], -STRAIGHT[:3, 0], STRAIGHT[:3, 1]
    affine[:, 3] = STRAIGHT @ [29, 0, 11, 1]
    after = find(flipped, facts(flipped.shape, affine)).instances
    for one, other in zip(before, after, strict=True):
        assert one.place == replace(other.place, nearest_mm=pytest.approx(other.place.nearest_mm))
        np.testing.assert_allclose(one.centroid_mm, other.centroid_mm)
        for name in ("volume", "long_axis", "short_axis"):
            assert one.quantities[name].value == pytest.approx(other.quantities[name].value)
    # Both of its slices are alike; the first counts.
    assert (before[0].plane, after[0].plane) == (8, 11 - 9)


def test_without_labels_of_both_sides_only_the_half_of_the_image_is_told():
    label_map = np.where(two_nodules() == 3, 3, 0).astype(np.uint8)
    place = find(label_map).instances[0].place
    assert (place.side, place.side_of, place.nearest) == ("right", "image", None)
    assert place.text == "right half of the image, cranial third of the image"
    middle = np.zeros_like(label_map)
    middle[12:18, 3:9, 5] = 3
    assert find(middle).instances[0].place.text == (
        "middle of the image from side to side, middle third of the image"
    )


def test_a_label_that_has_a_side_keeps_it():
    label_map = np.zeros((12, 10, 5), dtype=np.uint8)
    label_map[0:2, 2:4, 1:3] = 2
    found = find(label_map, options=RecogniseOptions())
    assert found.structures == {"lung_right": 0, "lung_left": 1, "nodule": 0}
    assert found.instances[0].place.side == "left"
    assert found.instances[0].place.side_of == "label"
    assert found.instances[0].cut_off
    assert found.instances[0].quantities["volume"].bound == "lower"


def test_pictures_have_words_only_where_the_file_says_how_the_patient_lies():
    label_map = np.zeros((20, 30), dtype=np.uint8)
    label_map[2:6, 21:26] = 3
    plain = find(label_map, facts((20, 30), None))
    assert plain.instances[0].place.text == ""
    assert plain.instances[0].quantities["area"].text == "20.0 pixels"
    assert plain.instances[0].quantities["long_axis"].unit == "pixels"
    assert plain.instances[0].box_size_mm is None
    assert "does not say how the patient lies" in plain.notes[1]
    assert "spacing of the image is unknown" in plain.notes[0]
    film = facts((20, 30), None, patient_orientation=("L", "F"), spacing_mm=(5.0, 2.5))
    told = find(label_map, film).instances[0]
    assert told.place.text == "right half of the image, caudal third of the image"
    assert told.quantities["area"].value == pytest.approx(20 * 12.5)
    assert told.quantities["area"].unit == "mm2"
    assert told.plane is None
    lateral = facts((20, 30), None, patient_orientation=("P", "F"))
    assert find(label_map, lateral).instances[0].place.side is None


def test_slices_of_one_plane_have_no_other_third():
    label_map = np.zeros((20, 30), dtype=np.uint8)
    label_map[1:4, 21:26] = 3
    place = find(label_map, facts((20, 30), STRAIGHT)).instances[0].place
    assert place.side == "right"
    assert place.third is None


def test_connectivity_least_size_and_what_was_dropped():
    label_map = np.zeros((9, 7, 4), dtype=np.uint8)
    label_map[1, 1, 1] = label_map[2, 2, 2] = label_map[5, 5, 1] = label_map[5, 5, 2] = 3
    assert [i.voxels for i in find(label_map).instances] == [2, 2]
    faces = RecogniseOptions(labels=("nodule",), connectivity="faces")
    assert [i.voxels for i in find(label_map, options=faces).instances] == [2, 1, 1]
    least = faces.model_copy(update={"min_pixels": 2})
    found = find(label_map, options=least)
    assert [i.voxels for i in found.instances] == [2]
    assert found.dropped == {"nodule": 2}
    voxel = 0.8 * 0.65 * 2.5 / 1000
    assert len(find(label_map, options=faces.model_copy(update={"min_ml": 2 * voxel})).instances) == 1
    assert len(find(label_map, options=faces.model_copy(update={"min_ml": 2.01 * voxel})).instances) == 0


def test_least_size_in_a_unit_that_the_image_does_not_have():
    label_map = np.zeros((5, 6), dtype=np.uint8)
    with pytest.raises(GeometryError, match="needs the voxel spacing"):
        find(np.full((5, 6), 3), facts((5, 6), None), options=RecogniseOptions(min_mm2=3))
    image = facts((5, 6), None, spacing_mm=(1.0, 2.0))
    with pytest.raises(GeometryError, match=r"min_ml does not go with this image.*use min_mm2"):
        find(np.full((5, 6), 3), image, options=RecogniseOptions(min_ml=3))
    with pytest.raises(ConfigError, match="'heart', which are neither labels nor regions"):
        find(label_map, image, options=RecogniseOptions(labels=("heart",)))
    with pytest.raises(GeometryError, match="must share a grid"):
        find(label_map, facts((6, 5), None))
    with pytest.raises(ValueError, match="at most one of"):
        RecogniseOptions(min_ml=1, min_pixels=3)


def test_nothing_there():
    found = find(np.zeros((4, 5, 6), dtype=np.uint8))
    assert found.structures == {"nodule": 0}
    assert found.instances == ()
    assert found.rows() == []


def test_touching_labels_are_one_instance_of_their_region():
    label_map = np.zeros((8, 9, 3), dtype=np.uint8)
    label_map[1:3, 2:5, 1], label_map[3:5, 2:5, 1] = 1, 2
    found = find(label_map, options=RecogniseOptions(labels=("lung", "lung_left")))
    assert found.structures == {"lung": 1, "lung_left": 1}
    assert [(i.kind, i.voxels) for i in found.instances] == [("region", 12), ("label", 6)]
    # Its own members are no neighbours of a region.
    assert [i.place.nearest for i in found.instances] == [None, "lung_right"]


def test_values_and_confidence():
    label_map = two_nodules()
    values = np.arange(label_map.size, dtype=np.int16).reshape(label_map.shape)
    image = facts(label_map.shape, intensities=Intensities(values=values, unit="HU"))
    sure = np.linspace(0, 1, label_map.size, dtype=np.float32).reshape(label_map.shape)
    sure[4] = np.nan

    def certainty(box, classes):
        assert classes == [3]
        return sure[box]

    large, small = find(label_map, image, certainty=certainty).instances
    inside = values[4:8, 10:16, 8:10]
    assert large.quantities["mean_intensity"].value == pytest.approx(inside.mean())
    assert large.quantities["sd_intensity"].value == pytest.approx(inside.std())
    assert large.quantities["mean_intensity"].unit == "HU"
    assert large.quantities["confidence"].value == pytest.approx(sure[5:8, 10:16, 8:10].mean(), abs=1e-6)
    assert small.quantities["confidence"].value == pytest.approx(sure[21:23, 5:7, 3].mean(), abs=1e-6)
    unsure = find(label_map, image, certainty=lambda box, _: np.full_like(sure[box], np.nan))
    assert unsure.instances[0].quantities["confidence"].reason.startswith("the network saw none")
    without = find(label_map).instances[0].quantities
    assert without["confidence"].reason == "the probabilities of the network are not at hand"
    assert without["mean_intensity"].reason == "the image was not given"


@pytest.mark.parametrize("degrees", [0, 17])
def test_slabs_make_no_difference(monkeypatch, degrees):
    rng = np.random.default_rng(3)
    label_map = (ndimage.gaussian_filter(rng.standard_normal((21, 17, 13)), 1.2) > 0.12) * np.uint8(3)
    values = rng.normal(1000, 5, label_map.shape)
    affine = oblique(STRAIGHT, degrees)
    image = facts(label_map.shape, affine, intensities=Intensities(values=values))
    whole = find(label_map, image)
    monkeypatch.setattr(medseg.components, "SLAB_VOXELS", 400)
    slabs = find(label_map, image)
    assert len(whole.instances) > 5
    assert [i.voxels for i in whole.instances] == [i.voxels for i in slabs.instances]
    for one, other in zip(whole.instances, slabs.instances, strict=True):
        assert one.box == other.box
        assert one.plane == other.plane
        for name, quantity in one.quantities.items():
            if quantity.value is not None:
                assert quantity.value == pytest.approx(other.quantities[name].value, rel=1e-9)


def test_the_slice_axis():
    assert slice_axis(STRAIGHT, (0.8, 0.65, 2.5)) == 2
    assert slice_axis(None, (0.8, 5.0, 0.6)) == 1
    # Nearly cubic voxels: planes across the head-foot axis, here i.
    assert slice_axis(np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]), (1, 1, 1)) == 0
    assert slice_axis(None, None) == 2


# Axes in a plane


def test_axes_of_a_rectangle_and_a_pixel():
    axes = plane_axes(np.ones((1, 1), dtype=bool), np.eye(2))
    assert (axes.long, axes.short) == (1.0, 1.0)
    mask = np.zeros((20, 9), dtype=bool)
    mask[2:12, 3:6] = True
    axes = plane_axes(mask, np.eye(2))
    # The outline ends half a pixel beyond the centres: from (1.5, 3) to (11.5, 5).
    assert axes.long == pytest.approx(np.hypot(10, 2))
    assert plane_axes(np.zeros((3, 4), dtype=bool), np.eye(2)) is None


def test_axes_of_an_ellipse_whatever_the_grid():
    steps = np.array([[0.5, 0.0], [0.0, 0.25], [0.1, 0.0]])
    i, j = np.mgrid[-60:61, -130:131]
    x, y = i * np.hypot(0.5, 0.1), j * 0.25
    angle = np.radians(33)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    axes = plane_axes((u / 22) ** 2 + (v / 9) ** 2 <= 1, steps)
    assert axes.long == pytest.approx(44, abs=0.6)
    assert axes.short == pytest.approx(18, abs=0.6)
    start, stop = np.array(axes.ends)
    assert np.linalg.norm(steps @ (stop - start)) == pytest.approx(axes.long)


@settings(max_examples=40)
@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 8))), shear=st.floats(-0.6, 0.6))
def test_laws_of_the_axes(mask, shear):
    steps = np.array([[0.7, shear], [0.0, 1.3]])
    axes = plane_axes(mask, steps)
    if axes is None:
        assert not mask.any()
        return
    assert axes.long == pytest.approx(longest_diameter(mask, steps))
    assert 0 < axes.short <= axes.long * (1 + 1e-9)
    for other, turned in ((mask[::-1, ::-1], steps), (mask.T, steps[:, ::-1])):
        again = plane_axes(other, turned)
        assert again.long == pytest.approx(axes.long)
        assert again.short == pytest.approx(axes.short)
