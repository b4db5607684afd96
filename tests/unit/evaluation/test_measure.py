import json

import numpy as np
import pytest

from medseg.errors import GeometryError, LabelError
from medseg.evaluation.measure import measure_case
from medseg.evaluation.orientation import lateral_axis
from medseg.evaluation.quantities import Quantity
from medseg.evaluation.rows import rows_to_csv
from medseg.labels import Code, Label, LabelTable

ALL = ("area", "volume", "left_right_ratio", "cardiothoracic_ratio", "position", "width", "shape")


def chest(*, heart: bool = True) -> LabelTable:
    labels = [
        Label(
            name="lung_right",
            value=1,
            colour="#3aa0ff",
            side="right",
            pair="lung_left",
            code=Code(scheme="SCT", value="3341006", meaning="Right lung"),
        ),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    ]
    if heart:
        code = Code(scheme="SCT", value="80891009", meaning="Heart")
        labels.append(Label(name="cor", value=3, colour="#ff0000", code=code))
    return LabelTable(labels=tuple(labels), regions={"lung": ("lung_right", "lung_left")})


def film() -> np.ndarray:
    """(I, J): right lung 10 x 20, left lung 8 x 20, heart 12 wide; chest 40 columns wide."""
    label_map = np.zeros((60, 40), dtype=np.uint8)
    label_map[10:20, 10:30] = 1
    label_map[42:50, 10:30] = 2
    label_map[22:34, 20:30] = 3
    return label_map


def measure(label_map, *, table=None, spacing=(0.5, 0.25), measures=ALL, **facts):
    return measure_case(
        label_map,
        table=table or chest(),
        measures=measures,
        case_id="c1",
        spacing_mm=spacing,
        patient_orientation=facts.pop("patient_orientation", ("L", "F")),
        **facts,
    )


def test_areas_in_mm2_by_hand():
    found = measure(film())
    area = found.structures["lung_right"].quantities["area"]
    assert (area.value, area.unit, area.bound, area.text) == (200 * 0.125, "mm2", "exact", "25.0 mm2")
    assert found.structures["lung"].quantities["area"].value == 360 * 0.125
    assert found.structures["lung"].kind == "region"
    assert found.structures["lung_right"].quantities["volume"].reason == "defined for images with 3 axes only"
    assert found.structures["lung_right"].fraction == pytest.approx(200 / 2400)
    assert found.structures["lung_right"].centroid_fraction == pytest.approx((15 / 60, 20 / 40))


def test_unknown_spacing_gives_pixels_and_says_so():
    found = measure(film(), spacing=None)
    area = found.structures["lung_right"].quantities["area"]
    assert (area.value, area.unit, area.text) == (200.0, "pixels", "200 pixels")
    assert found.notes == ("the spacing of the image is unknown: sizes are in pixels",)


def test_detector_plane_is_noted():
    found = measure(film(), spacing_origin="imager_pixel_spacing")
    assert "detector plane" in found.notes[0]
    assert "magnification" in found.structures["lung_left"].quantities["area"].note
    assert measure(film(), spacing_origin="pixel_spacing").notes == ()


def test_absent_is_not_zero():
    label_map = film()
    label_map[label_map == 2] = 0
    found = measure(label_map)
    area = found.structures["lung_left"].quantities["area"]
    assert (area.value, area.reason, area.text) == (None, "absent", "absent")
    assert found.ratios["lung_left/lung_right"].text == "lung_left absent"
    assert found.to_json()["structures"]["lung_left"]["state"] == "absent"


def test_cut_off_is_a_lower_bound():
    label_map = film()
    label_map[10:20, 0:10] = 1
    found = measure(label_map)
    right = found.structures["lung_right"]
    assert right.cut_off
    assert right.shape.touches == ("j first",)
    assert right.quantities["area"].text == "> 37.5 mm2 (cut off)"
    # Cut off at the top, the width from side to side is still whole.
    assert right.quantities["width"].bound == "exact"
    assert found.ratios["lung_left/lung_right"].bound == "unknown"
    assert not found.structures["lung_left"].cut_off
    assert found.ratios["cardiothoracic_ratio"].bound == "exact"


def test_left_right_ratio():
    assert measure(film()).ratios["lung_left/lung_right"].value == pytest.approx(0.8)
    assert measure(film(), spacing=None).ratios["lung_left/lung_right"].value == pytest.approx(0.8)


def test_cardiothoracic_ratio_in_each_orientation():
    assert measure(film()).ratios["cardiothoracic_ratio"].value == pytest.approx(12 / 40)
    assert measure(film()[::-1], patient_orientation=("R", "F")).ratios["cardiothoracic_ratio"].value == 0.3
    turned = measure(film().T, patient_orientation=("F", "L"), spacing=(0.25, 0.5))
    assert turned.ratios["cardiothoracic_ratio"].value == 0.3
    assert turned.structures["lung_right"].quantities["width"].value == 5.0


def test_heart_is_as_wide_as_its_two_radii_together():
    label_map = film()
    label_map[label_map == 3] = 0
    label_map[22:28, 20:24] = 3
    label_map[26:36, 24:28] = 3
    assert measure(label_map).ratios["cardiothoracic_ratio"].value == pytest.approx(14 / 40)


def test_no_heart_no_ratio():
    label_map = film()
    label_map[label_map == 3] = 0
    assert measure(label_map).ratios["cardiothoracic_ratio"].reason == "heart absent"
    without = measure(label_map, table=chest(heart=False)).ratios["cardiothoracic_ratio"]
    assert (without.value, without.reason) == (None, "the label table has no heart")


def test_lateral_film_has_no_sides():
    found = measure(film(), patient_orientation=("A", "F"))
    assert found.ratios["cardiothoracic_ratio"].reason == "no axis of the image runs from left to right"
    assert found.structures["lung"].quantities["width"].value is None


def test_unknown_orientation_is_taken_as_displayed_and_noted():
    found = measure(film(), patient_orientation=None)
    assert found.lateral.assumed
    assert "taken as displayed" in found.notes[0]


def test_volume_in_ml_and_centroid_in_ras():
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),))
    label_map = np.zeros((10, 12, 8), dtype=np.int16)
    label_map[2:4, 3:6, 1:5] = 1
    affine = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, -7], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    found = measure_case(
        label_map, table=table, measures=ALL, case_id="c", spacing_mm=(1.0, 2.0, 3.0), affine=affine
    )
    assert found.structures["a"].quantities["volume"].value == pytest.approx(24 * 6 / 1000)
    assert found.structures["a"].centroid_mm == pytest.approx((5 - 2 * 4.0, -7 + 2.5, 1 + 3 * 2.5))
    assert (found.lateral.axis, found.lateral.towards_left) == (1, True)
    assert found.ratios["cardiothoracic_ratio"].reason == "defined for radiographs only"


def test_tilted_slices_do_not_add_volume():
    """A shear moves slices against each other: the volume stays, the length of the slice axis grows."""
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),))
    label_map = np.zeros((10, 12, 8), dtype=np.int16)
    label_map[2:4, 3:6, 1:5] = 1
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(25))
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    found = measure_case(label_map, table=table, measures=ALL, case_id="c", spacing_mm=spacing, affine=affine)
    assert found.structures["a"].quantities["volume"].value == pytest.approx(24 * 6 / 1000)


def test_json_and_rows_agree():
    found = measure(film())
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    rows = found.rows()
    for row in rows:
        place = value["structures"][row["structure"]]["quantities"] if row["structure"] else value["ratios"]
        assert place[row["measure"]]["value"] == row["value"]
    assert rows_to_csv(rows).startswith("case_id,structure,measure,value,unit,bound,reason,note\n")


def test_text_for_people():
    assert Quantity(value=0.4812, unit="1").text == "0.48"
    assert Quantity(value=633.4, unit="ml", bound="lower").text == "> 633 ml (cut off)"
    assert Quantity(value=1.1, unit="1", bound="unknown").text == "about 1.10 (cut off)"


def test_refusals():
    with pytest.raises(GeometryError, match="2 axes need 2 spacings"):
        measure(film(), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(LabelError, match=r"0\.\.3, found 0\.\.9"):
        measure(np.where(film() == 3, 9, film()))


def test_lateral_axis():
    assert lateral_axis(spatial_dims=2, patient_orientation=("R", "F")).towards_left is False
    assert lateral_axis(spatial_dims=2, patient_orientation=("F", "LA")).axis == 1
    assert lateral_axis(spatial_dims=2, patient_orientation=("P", "F")) is None
    assert lateral_axis(spatial_dims=3) is None
    ras = lateral_axis(spatial_dims=3, affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    assert (ras.axis, ras.towards_left) == (0, False)
    sagittal = np.array([[0, 0, 4.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    assert lateral_axis(spatial_dims=3, affine=sagittal).axis == 2
    assert lateral_axis(spatial_dims=2, affine=sagittal) is None
