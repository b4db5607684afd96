import csv
import io
import json

import numpy as np
import pytest

from medseg.errors import ConfigError, GeometryError
from medseg.evaluation.cases import CaseEvaluation, evaluate_case
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.rows import rows_to_csv
from medseg.labels import Label, LabelScheme, LabelTable

METRICS = [
    "dice", "iou", "precision", "recall", "specificity", "accuracy", "f1", "hd95",
    "area_difference", "volume_difference", "relative_difference",
]  # fmt: skip


def lungs() -> LabelTable:
    return LabelTable(
        labels=(
            Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
            Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
        ),
        regions={"lung": ("lung_right", "lung_left")},
        ignore=255,
        schemes={"lung": LabelScheme(name="lung", values={1: ("lung_right", "lung_left")})},
    )


def options(**changes) -> EvaluationOptions:
    metrics = [{"use": name} for name in METRICS] + [{"use": "nsd", "tolerance_mm": 2.0}]
    return EvaluationOptions.model_validate({"metrics": metrics, **changes})


def evaluate(prediction, mask, *, scheme=None, spacing=(0.5, 2.0), **changes) -> CaseEvaluation:
    table = lungs()
    return evaluate_case(
        np.asarray(prediction, dtype=np.uint8),
        table.encode(np.asarray(mask), scheme),
        table=table,
        case_id="c1",
        patient_id="p1",
        spacing_mm=spacing,
        options=options(**changes),
        columns={"source": "a"},
    )


def picture() -> np.ndarray:
    label_map = np.zeros((20, 12), dtype=np.uint8)
    label_map[2:8, 2:10] = 1
    label_map[11:18, 2:10] = 2
    return label_map


def test_perfect_prediction():
    for structure in evaluate(picture(), picture()).structures:
        assert structure.state == "judged"
        best = {"hd95": 0.0, "area_difference": 0.0, "relative_difference": 0.0}
        for name, metric in structure.metrics.items():
            if name == "volume_difference":
                assert (metric.value, metric.reason) == (None, "defined for images with three axes only")
            else:
                assert metric.value == best.get(name, 1.0)


def test_shift_by_one_column_in_mm_and_in_pixels():
    shifted = np.roll(picture(), 1, axis=1)
    mm = evaluate(shifted, picture()).structure("lung").metrics
    assert (mm["hd95"].value, mm["hd95"].unit) == (2.0, "mm")
    assert mm["dice"].value == pytest.approx(7 / 8)
    assert mm["nsd"].value == 1.0
    pixels = evaluate(shifted, picture(), spacing=None).structure("lung").metrics
    assert (pixels["hd95"].value, pixels["hd95"].unit) == (1.0, "pixels")
    assert pixels["nsd"].value is None
    assert pixels["nsd"].reason == "the spacing of the image is unknown; the tolerance is in mm"
    assert pixels["area_difference"].unit == "pixels"


def test_tolerance_in_pixels_is_used_when_given():
    metrics = [{"use": "nsd", "tolerance_mm": 2.0, "tolerance_pixels": 1.0}]
    shifted = np.roll(picture(), 1, axis=1)
    found = evaluate(shifted, picture(), spacing=None, metrics=metrics).structure("lung").metrics["nsd"]
    assert (found.value, found.unit) == (1.0, "1, tolerance in pixels")


def test_size_differences_by_hand():
    smaller = picture()
    smaller[2:4] = 0
    metrics = evaluate(smaller, picture()).structure("lung_right").metrics
    assert metrics["area_difference"].value == -16.0
    assert metrics["area_difference"].unit == "mm2"
    assert metrics["relative_difference"].value == pytest.approx(-100 / 3)


def test_volume_difference_in_ml():
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),))
    reference = np.zeros((8, 9, 10), dtype=np.int16)
    reference[2:6, 2:6, 2:6] = 1
    prediction = reference.copy()
    prediction[6, 2:6, 2:6] = 1
    found = (
        evaluate_case(
            prediction,
            reference[None],
            table=table,
            case_id="c",
            spacing_mm=(5.0, 5.0, 10.0),
            options=options(),
        )
        .structures[0]
        .metrics
    )
    assert (found["volume_difference"].value, found["volume_difference"].unit) == (4.0, "ml")
    assert found["area_difference"].reason == "defined for images with two axes only"
    assert found["relative_difference"].value == 25.0


def test_missed_structure_gets_the_image_diagonal():
    prediction = picture()
    prediction[prediction == 2] = 0
    left = evaluate(prediction, picture()).structure("lung_left")
    assert left.state == "missed"
    assert left.metrics["hd95"].value == pytest.approx(np.hypot(10.0, 24.0))
    assert left.metrics["nsd"].value == 0.0
    assert left.metrics["relative_difference"].value == -100.0
    assert left.metrics["dice"].worst_case
    assert not left.metrics["specificity"].worst_case


def test_false_positive_and_both_empty():
    only_right = picture()
    only_right[only_right == 2] = 0
    found = evaluate(picture(), only_right).structure("lung_left")
    assert found.state == "false_positive"
    assert found.metrics["relative_difference"].reason == "empty in the reference"
    assert found.metrics["hd95"].worst_case
    empty = evaluate(only_right, only_right).structure("lung_left")
    assert empty.state == "both_empty"
    assert {m.value for m in empty.metrics.values()} == {None}
    assert empty.metrics["dice"].reason == "empty in the prediction and in the reference"


NEW = ["hd", "hd95", "assd", {"use": "boundary_iou", "width_mm": 1.0}, {"use": "nsd", "tolerance_mm": 2.0}]


def new_metrics():
    return [m if isinstance(m, dict) else {"use": m} for m in NEW]


def test_every_border_metric_counts_a_missed_and_an_invented_structure_as_the_worst():
    only_right = picture()
    only_right[only_right == 2] = 0
    for prediction, reference, state in (
        (only_right, picture(), "missed"),
        (picture(), only_right, "false_positive"),
    ):
        found = evaluate(
            prediction, reference, structures=["lung_left"], metrics=[*new_metrics(), {"use": "cldice"}]
        ).structure("lung_left")
        assert found.state == state
        worst = {"hd": np.hypot(10, 24), "hd95": np.hypot(10, 24), "assd": np.hypot(10, 24)}
        for name, metric in found.metrics.items():
            assert metric.value == pytest.approx(worst.get(name, 0.0)), name
            assert metric.worst_case, name


def test_border_metrics_of_a_shift_by_hand():
    shifted = np.roll(picture(), 1, axis=1)
    found = evaluate(shifted, picture(), metrics=new_metrics()).structure("lung_right").metrics
    assert (found["hd"].value, found["hd"].unit) == (2.0, "mm")
    # 24 border pixels each. Of the shifted ring the last column (6 pixels) lies 2 mm off; the first one has
    # its ends on the other border and from there inwards 0.5, 1, 1, 0.5 mm to it.
    assert found["assd"].value == pytest.approx(2 * (6 * 2.0 + 3.0) / 48)
    assert 0 < found["boundary_iou"].value < 1


def test_unknown_spacing_of_the_rim():
    shifted = np.roll(picture(), 1, axis=1)
    metrics = [{"use": "boundary_iou", "width_mm": 1.0}]
    found = evaluate(shifted, picture(), spacing=None, metrics=metrics).structure("lung").metrics
    assert found["boundary_iou"].reason == "the spacing of the image is unknown; the width is in mm"
    metrics[0]["width_pixels"] = 1.0
    found = evaluate(shifted, picture(), spacing=None, metrics=metrics).structure("lung").metrics
    assert found["boundary_iou"].unit == "1, width in pixels"


def test_several_tolerances_and_tolerances_by_structure():
    shifted = np.roll(picture(), 1, axis=1)
    metrics = [
        {"use": "nsd", "tolerance_mm": {"lung_left": 1.0, "other": 2.0}},
        {"use": "nsd", "tolerance_mm": 1.0},
    ]
    case = evaluate(shifted, picture(), metrics=metrics)
    left, right = (case.structure(f"lung_{side}").metrics for side in ("left", "right"))
    assert right["nsd"].value == 1.0
    assert left["nsd"].value == pytest.approx(left["nsd_1mm"].value)
    assert left["nsd"].value < 1.0
    assert list(left) == ["nsd", "nsd_1mm"]
    assert CaseEvaluation.from_json(case.to_json()) == case


def test_sheared_grid_has_true_distances_and_sizes():
    table = LabelTable(labels=(Label(name="a", value=1, colour="#ffffff"),))
    affine = np.array([[1.0, 0, 0, 5], [0, 1, 2, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    one, two = np.zeros((2, 6, 12, 10), dtype=np.uint8)
    one[2, 3, 2], two[2, 7, 6] = 1, 1
    metrics = [{"use": "hd"}, {"use": "volume_difference"}]
    both = np.maximum(one, two)
    for prediction, reference, difference in ((one, two, 0.0), (both, two, 0.002)):
        case = evaluate_case(
            prediction, reference, table=table, case_id="c", spacing_mm=(1.0, 1.0, np.hypot(2, 2)),
            affine=affine, options=EvaluationOptions.model_validate({"metrics": metrics}),
        )  # fmt: skip
        found = case.structures[0]
        assert found.metrics["hd"].value == pytest.approx(np.hypot(12, 8))
        assert found.metrics["volume_difference"].value == pytest.approx(difference)
    assert case.sizes(found) == pytest.approx((0.004, 0.002))
    # A missed structure: the longest diagonal of the sheared image.
    missed = evaluate_case(
        np.zeros_like(one), two, table=table, case_id="c", spacing_mm=(1.0, 1.0, np.hypot(2, 2)),
        affine=affine, options=EvaluationOptions.model_validate({"metrics": metrics}),
    )  # fmt: skip
    assert missed.structures[0].metrics["hd"].value == pytest.approx(np.linalg.norm([6, 12 + 20, 20]))


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_changes_nothing(order):
    rng = np.random.default_rng(8)
    table = lungs()
    prediction, mask = (
        np.kron(rng.integers(0, 3, (4, 5, 3)), np.ones((3, 2, 2), dtype=int)) for _ in range(2)
    )
    found = evaluate_case(
        np.asarray(prediction.astype(np.uint8), order=order), table.encode(mask), table=table, case_id="c",
        spacing_mm=(0.5, 1.0, 2.0), options=options(metrics=[{"use": "dice"}, *new_metrics()]),
    )  # fmt: skip
    assert found.structure("lung").metrics["hd95"].value == pytest.approx(
        _hd95_in_full(np.isin(prediction, [1, 2]), mask > 0, (0.5, 1.0, 2.0))
    )


def _hd95_in_full(prediction, reference, spacing):
    from medseg.evaluation.surface import hd95, surface_distances

    return hd95(surface_distances(prediction, reference, spacing=spacing))


def test_partial_mask_judges_the_region_only():
    case = evaluate(picture(), (picture() > 0).astype(int), scheme="lung")
    assert case.structure("lung").metrics["dice"].value == 1.0
    assert case.structure("lung").metrics["hd95"].value == 0.0
    assert case.structure("lung_left").state == "not_judged"
    assert case.structure("lung_left").metrics["hd95"].reason == "the reference does not tell this structure"


def test_border_along_ignored_voxels_does_not_count():
    mask = picture().astype(int)
    mask[:, 9:] = 255
    longer = picture()
    longer[2:8, 9:12] = 1
    assert evaluate(longer, mask).structure("lung_right").metrics["hd95"].value == 0.0
    hidden = np.full((20, 12), 255)
    hidden[5, 5] = 1
    found = evaluate(picture(), hidden).structure("lung_right")
    assert found.state == "judged"
    assert found.metrics["hd95"].reason == "no border lies in the judged part of the image"


def test_empty_image_and_empty_reference():
    nothing = np.zeros((20, 12), dtype=np.uint8)
    assert {s.state for s in evaluate(nothing, nothing).structures} == {"both_empty"}


def test_json_round_trip_without_nan():
    case = evaluate(np.roll(picture(), 1, axis=0), picture(), spacing=None)
    text = json.dumps(case.to_json(), allow_nan=False)
    assert CaseEvaluation.from_json(json.loads(text)) == case


def test_rows_as_csv():
    rows = list(csv.DictReader(io.StringIO(rows_to_csv(evaluate(picture(), picture()).rows()))))
    assert [row["structure"] for row in rows] == ["lung_right", "lung_left", "lung"]
    assert rows[0]["source"] == "a"
    assert (rows[0]["dice"], rows[0]["hd95_unit"], rows[0]["volume_difference"]) == ("1.0", "mm", "")
    assert rows[0]["tp"] == "48"


def test_csv_does_not_hand_formulas_to_a_spreadsheet():
    assert rows_to_csv([{"a": "=1+1", "b": -1.5}]) == "a,b\n'=1+1,-1.5\n"


def test_chosen_structures_and_refusals():
    case = evaluate(picture(), picture(), structures=["lung"])
    assert [s.structure for s in case.structures] == ["lung"]
    with pytest.raises(ConfigError, match="'heart', which are neither labels nor regions; known: lung_right"):
        evaluate(picture(), picture(), structures=["heart"])
    with pytest.raises(ConfigError, match="'hart'"):
        evaluate(picture(), picture(), require={"hart": {"dice": 0.9}})
    with pytest.raises(GeometryError, match="2 axes need 2 spacings"):
        evaluate(picture(), picture(), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="share a grid"):
        evaluate(picture()[:5], picture())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"metrics": [{"use": "dice"}, {"use": "dice"}]}, "dice more than once"),
        ({"metrics": [{"use": "nsd"}]}, "tolerance_mm"),
        ({"metrics": [{"use": "nsd", "tolerance_mm": {"liver": 2}}]}, "needs the entry 'other'"),
        ({"metrics": [{"use": "nsd", "tolerance_mm": 1}] * 3}, "nsd_1mm more than once"),
        ({"require": {"lung": {"nsd": 0.9}}}, "which `metrics` does not list"),
        ({"structures": ["lung"], "require": {"heart": {"dice": 0.9}}}, "which `structures` leaves out"),
        ({"sample": 10}, "Extra inputs"),
    ],
)
def test_options_that_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        EvaluationOptions.model_validate(value)


def test_options_import_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, medseg.evaluation.options, medseg.quality.options; "
        "print(sorted({'numpy', 'scipy', 'torch', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_real_spine_label_maps_against_monai(shared_data):
    """Anisotropic volumes with several labels, MONAI as second implementation."""
    nibabel = pytest.importorskip("nibabel")
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    maps = []
    for kind in ("ref", "pred"):
        image = nibabel.load(shared_data / "seg_metrics_spine" / f"semantic_{kind}.nii.gz")
        maps.append(np.asarray(image.dataobj)[150:300, 150:300].astype(np.int64))
    values = [int(v) for v in np.unique(np.stack(maps)) if v][:4]
    codes = {value: index + 1 for index, value in enumerate(values)}
    lookup = np.array([codes.get(v, 0) for v in range(int(np.max(maps)) + 1)])
    reference, prediction = (lookup[m] for m in maps)
    table = LabelTable(labels=tuple(Label(name=f"v{v}", value=i, colour="#ffffff") for v, i in codes.items()))
    case = evaluate_case(
        prediction,
        table.encode(reference),
        table=table,
        case_id="spine",
        spacing_mm=image.header.get_zooms(),
        options=options(),
    )
    for structure, index in zip(case.structures, codes.values(), strict=True):
        tensors = [torch.from_numpy(m == index)[None, None].float() for m in (prediction, reference)]
        expected = compute_dice(*tensors, include_background=True).item()
        assert structure.metrics["dice"].value == pytest.approx(expected, abs=1e-6)
        spacing = [float(v) for v in image.header.get_zooms()]
        hausdorff = compute_hausdorff_distance(
            *tensors, include_background=True, percentile=95, spacing=spacing
        )
        # torch.quantile finds the place of the percentile among many distances in single precision.
        assert structure.metrics["hd95"].value == pytest.approx(hausdorff.item(), rel=1e-6, abs=1e-4)
