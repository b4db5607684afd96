"""Mean IoU over all cases: counted by hand, and what happens to classes that do not occur."""

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.config.schema import RunConfig
from medseg.errors import ConfigError
from medseg.evaluation.cases import CaseEvaluation, evaluate_case
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.summary import summarise
from medseg.labels import Label, LabelTable

TABLE = LabelTable(
    labels=tuple(
        Label(name=name, value=value, colour="#000000")
        for value, name in enumerate(("road", "car", "pole", "tram"), start=1)
    ),
    ignore=9,
)
OPTIONS = EvaluationOptions.model_validate({"metrics": [{"use": "iou"}], "mean_iou": "all", "samples": 200})


def case(case_id: str, prediction: list[int], reference: list[int], patient: str = "") -> CaseEvaluation:
    return evaluate_case(
        np.array([prediction], dtype=np.uint8),
        TABLE.encode(np.array([reference])),
        table=TABLE,
        case_id=case_id,
        patient_id=patient,
        spacing_mm=None,
        options=OPTIONS,
    )


def test_counts_are_added_up_before_the_quotient():
    cases = [
        case("a", [1, 1, 1, 1, 2], [1, 1, 1, 2, 2]),  # road 3 of 4, car 1 of 2
        case("b", [1, 2], [2, 2]),  # road 0 of 1, car 1 of 2
    ]
    found = summarise(cases, OPTIONS).mean_iou
    assert found is not None
    assert found.structures == {"road": 3 / 5, "car": 2 / 4, "pole": None, "tram": None}
    assert found.mean == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert found.absent == ("pole", "tram")
    assert found.mean_interval is not None
    assert found.mean_interval[0] <= found.mean <= found.mean_interval[1]
    assert found.text.startswith("mean IoU 0.550 (")
    assert found.text.endswith("of 2 structures, 2 absent")


def test_a_class_that_is_missed_or_made_up_counts_zero():
    found = summarise([case("a", [1, 3], [1, 2])], OPTIONS).mean_iou
    assert found is not None
    assert found.structures == {"road": 1.0, "car": 0.0, "pole": 0.0, "tram": None}
    assert found.mean == pytest.approx(1 / 3)
    assert found.mean_interval is None


def test_ignored_voxels_do_not_count():
    found = summarise([case("a", [1, 2, 2], [1, 9, 2])], OPTIONS).mean_iou
    assert found is not None
    assert (found.structures["road"], found.structures["car"]) == (1.0, 1.0)


def test_nothing_occurs():
    found = summarise([case("a", [0], [0])], OPTIONS).mean_iou
    assert found is not None
    assert found.mean is None
    assert "no structure occurs" in found.text


def test_named_structures_only_and_none_by_default():
    cases = [case("a", [1, 2, 2], [1, 1, 2])]
    named = OPTIONS.model_copy(update={"mean_iou": ("car",)})
    found = summarise(cases, named).mean_iou
    assert found is not None
    assert found.structures == {"car": 0.5}
    assert summarise(cases, EvaluationOptions()).mean_iou is None
    assert summarise(cases, named).to_json()["mean_iou"]["mean"] == 0.5


def test_names_are_checked():
    with pytest.raises(ValidationError, match="mean_iou names car, which `structures` leaves out"):
        EvaluationOptions.model_validate({"structures": ["road"], "mean_iou": ["car"]})
    settings = {
        "medseg": 1,
        "name": "p",
        "data": {"source": {"use": "phantom"}},
        "labels": {"road": {"value": 1}},
        "model": {"use": "unet"},
        "evaluation": {"mean_iou": ["raod"]},
    }
    with pytest.raises((ValidationError, ConfigError), match="no label `raod`, did you mean `road`"):
        RunConfig.model_validate(settings)
