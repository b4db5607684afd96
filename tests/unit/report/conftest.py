"""A small cohort made of drawn images, with numbers as the stages write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medseg.evaluation.cases import CaseEvaluation, evaluate_case
from medseg.evaluation.measure import measure_case
from medseg.evaluation.options import EvaluationOptions
from medseg.evaluation.summary import summarise
from medseg.labels import Label, LabelTable
from medseg.report.case import draw_picture
from medseg.report.page import Card, CaseReport, CohortReport, Refusal, Structure

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    ),
    regions={"lung": ("lung_right", "lung_left")},
)
OPTIONS = EvaluationOptions.model_validate(
    {
        "metrics": [{"use": "dice"}, {"use": "iou"}, {"use": "hd95"}],
        "require": {"lung": {"dice": 0.9}},
        "samples": 100,
    }
)


def _lungs(shift: int) -> Any:
    i, j = np.mgrid[:160, :200]
    label_map = np.zeros((160, 200), dtype=np.uint8)
    label_map[((i - 45 - shift) / 25.0) ** 2 + ((j - 100) / 70.0) ** 2 < 1] = 1
    label_map[((i - 115 + shift) / 25.0) ** 2 + ((j - 100 - shift) / 70.0) ** 2 < 1] = 2
    return label_map


def _record(case_id: str, label_map: Any, *, verdict: str, text: str, spacing: Any) -> dict[str, Any]:
    flag = {"code": "Q201", "level": verdict, "structure": "lung_left", "text": text, "measured": 0.034,
            "limit": 0.01, "advice": text, "title": "disconnected parts"}  # fmt: skip
    check = {"code": "Q201", "structure": "lung_left", "outcome": "flagged", "reason": "", "title": "parts"}
    measures = measure_case(
        label_map,
        table=TABLE,
        measures=("area", "left_right_ratio", "cardiothoracic_ratio"),
        case_id=case_id,
        spacing_mm=spacing,
        spacing_origin="unknown" if spacing is None else "imager_pixel_spacing",
        patient_orientation=("L", "F"),
    )
    return {
        "format": 1,
        "case_id": case_id,
        "model": {"name": "m", "version": "1.0.0", "weights_sha256": "ab" * 32, "licence": "CC0-1.0"},
        "image": {"shape": [160, 200], "spacing_mm": spacing, "spacing_origin": "unknown", "modality": "CR",
                  "file_sha256": "cd" * 32, "pixel_sha256": "ef" * 32},
        "verdict": verdict,
        "flags": [] if verdict == "pass" else [flag],
        "checks": [check],
        "gate": {"level": "pass", "sentence": "", "distance": 1.25, "percentile": 40.0, "findings": []},
        "confidence": {"lung_right": {"mean_probability": 0.97, "entropy": 0.1, "uncertain_share": 0.02}},
        "notes": [text],
        "measurements": measures.to_json(),
    }  # fmt: skip


@pytest.fixture
def make_report() -> Callable[..., CohortReport]:
    """A cohort of `count` cases; `text` stands in every place that files or people can fill."""

    def make(
        count: int = 3, *, text: str = "a note", evaluated: bool = True, noise: bool = False
    ) -> CohortReport:
        rng = np.random.default_rng(1)
        cases, found = [], []
        for index in range(count):
            case_id = f"case-{index}" if index or text == "a note" else text
            reference, predicted = _lungs(0), _lungs(2 * index)
            gray = rng.integers(90, 110, (160, 200)).astype(np.uint8) - 50 * (reference > 0).astype(np.uint8)
            if noise:
                predicted = rng.integers(0, 3, predicted.shape).astype(np.uint8)
            spacing = None if index == 1 else (2.0, 2.0)
            record = _record(
                case_id, predicted, verdict=("review", "pass", "note")[index % 3], text=text, spacing=spacing
            )
            evaluation: CaseEvaluation = evaluate_case(
                predicted, reference[None].astype(np.int16), table=TABLE, case_id=case_id, patient_id="P-0",
                spacing_mm=spacing, options=OPTIONS, columns={},
            )  # fmt: skip
            found.append(evaluation)
            picture = draw_picture(
                gray,
                predicted={"lung_right": predicted == 1, "lung_left": predicted == 2},
                reference={"lung_right": reference == 1, "lung_left": reference == 2},
                spacing_mm=spacing,
                orientation=("L", "F"),
            )
            cases.append(
                CaseReport(
                    case_id=case_id,
                    patient="P-00000000",
                    split="test",
                    record=record,
                    evaluation=evaluation.to_json() if evaluated else None,
                    picture=picture,
                    files={text: "12" * 32},
                    notes=(text,),
                )
            )
        return CohortReport(
            title=text,
            pipeline="chest_xray",
            about=text,
            run="20260101-000000-abcdef01",
            settings_sha256="99" * 32,
            cards=(
                Card(title="Run", rows=(("Device", text),)),
                Card(title="Data", rows=(("Cases", str(count)),)),
            ),
            structures=(
                Structure(name="lung_right", colour="#3aa0ff"),
                Structure(name="lung_left", colour="#b684f5"),
                Structure(name="lung", colour="#888888", kind="region"),
            ),
            cases=tuple(cases),
            summary=summarise(found, OPTIONS).to_json() if evaluated else None,
            refused=(Refusal(case_id=text, stage="check", text=text),),
            notes=((text, text),),
            said=(text,),
            curve=({"epoch": 1.0, "loss": 2.0, "dice": 0.4}, {"epoch": 2.0, "loss": 1.0, "dice": None}),
            methods=text,
            settings=text,
            versions={"numpy": text},
            stages=({"name": "check", "text": text, "seconds": 1.0, "peak_ram_mb": 100.0},),
        )

    return make
