"""Figures: round ticks, escaped names, plots of few cases."""

from __future__ import annotations

import pytest

from medseg.report.figures import curve
from medseg.report.svg import ticks
from medseg.report.text import metric_text, quantity_text, statistic_cell


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.93, 1.0), (-250.0, 180.0), (3.0, 3.0), (0.0, 0.0)])
def test_ticks_cover_the_range(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 9


def test_curve_skips_epochs_without_a_value() -> None:
    assert curve([{"epoch": 1.0, "dice": None}], column="dice", title="d", style="dice") is None
    assert curve([{"epoch": 1.0, "dice": 0.5}], column="dice", title="d", style="dice") is not None


def test_quantities_are_honest() -> None:
    assert quantity_text({"value": None, "unit": "mm2", "reason": "absent"}) == "absent"
    cut = {"value": 63300.0, "unit": "mm2", "reason": "", "bound": "lower"}
    assert quantity_text(cut) == "> 633.0 cm² (cut off)"
    assert quantity_text({"value": 0.4812, "unit": "1", "reason": "", "bound": "exact"}) == "0.48"


def test_statistic_without_value_gives_the_reason() -> None:
    cell = statistic_cell({"mean": None, "mean_interval": None, "undefined": {"no spacing": 2}, "unit": "mm"})
    assert cell["more"] == "2: no spacing"


def test_small_volumes_keep_their_digits() -> None:
    shared = {"undefined": {}, "count": 3, "patients": 3, "unit": "ml"}
    small = statistic_cell({"mean": 0.0123, "mean_interval": (-0.055, 0.079), "median": 0.01, **shared})
    assert (small["mean"], small["interval"]) == ("0.012", "−0.055 to 0.079")
    large = statistic_cell({"mean": 153.21, "mean_interval": None, "median": 150.0, **shared})
    assert large["mean"] == "153.2"
    assert metric_text({"value": 0.029, "unit": "ml"}) == "0.029 mL"
