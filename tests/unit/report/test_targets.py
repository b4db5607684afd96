"""The part of the cohort page on recognised targets."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from medseg.evaluation.detect_case import detect_case
from medseg.evaluation.detection import summarise_detection
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions
from medseg.labels import Label, LabelTable
from medseg.report.cohort import page_data, render
from medseg.report.cohort_text import words
from medseg.report.targets import froc_plot, targets_part

TABLE = LabelTable(labels=(Label(name="lung_right", value=1, colour="#3aa0ff"),))


def detection(*, case_id: str = "case-0", sure: tuple[float, ...] = (0.9, 0.6)):
    """Two cases: one target found and one invented; one missed."""
    prediction, reference = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    reference[2:8, 2:9] = 1
    prediction[2:8, 2:8], prediction[15:18, 20:25] = 1, 1
    cases = [
        detect_case(
            shown,
            TABLE.encode(reference),
            ImageFacts(shape=(20, 30)),
            table=TABLE,
            recognise=RecogniseOptions(),
            options=DetectionOptions(),
            case_id=name,
            patient_id=name,
            confidences={("lung_right", n + 1): value for n, value in enumerate(sure)},
        )
        for name, shown in ((case_id, prediction), ("case-1", np.zeros_like(prediction)))
    ]
    return summarise_detection(cases, DetectionOptions(), samples=100, level=0.95, seed=1).to_json()


def test_counts_numbers_and_lists_are_on_the_page(make_report):
    page = render(replace(make_report(), detection=detection()))
    part = page[page.index('id="targets"') :]
    assert "matched one to one: intersection over union of at least 0.5" in part
    row = re.search(r"lung right<small[^>]*>2 cases</small></th>(.*?)</tr>", part, re.DOTALL).group(1)
    assert re.findall(r'<td class="n">(\d+)', row) == ["2", "1", "1", "1", "0"]
    assert "<b>0.500</b>" in row
    assert "<summary>Missed (1)</summary>" in part
    assert "<b>case-1</b> lung right 1: 42.0 pixels" in part
    assert "<b>case-0</b> lung right 2: 15.0 pixels" in part
    assert "FROC: share of the reference targets found" in part


def test_the_numbers_lie_in_the_page(make_report):
    found = detection()
    assert page_data(replace(make_report(), detection=found))["detection"] == found
    assert 'id="targets"' not in render(make_report())


def test_hostile_names_are_text(make_report):
    name = "</script><img src=x onerror=alert(1)>"
    page = render(replace(make_report(), detection=detection(case_id=name)))
    assert name not in page
    assert escape(name) in page


def test_without_confidence_the_reason_is_told(make_report):
    found = detection(sure=())
    page = render(replace(make_report(), detection=found))
    assert "some predicted instances have no confidence" in page
    assert targets_part(found, words("en"), "en")["figures"] == []


def test_the_curve_goes_up_and_to_the_right():
    plot = froc_plot(
        [(0.9, 0.0, 0.25), (0.7, 0.5, 0.25), (0.4, 0.5, 0.75)], title="a b <c>", words=words("en")
    )
    tree = ElementTree.fromstring(str(plot))
    points = [
        tuple(float(v) for v in pair.split(",")) for pair in tree.find(".//polyline").get("points").split()
    ]
    assert points[0] == (46.0, 156.0)
    assert points[-1][1] == pytest.approx(156 - 130 * 0.75)
    assert all(b[0] >= a[0] and b[1] <= a[1] for a, b in pairwise(points))
    assert "75.0% of the targets found with 0.5 invented per case" in tree.get("aria-label")
    assert froc_plot([], title="nothing", words=words("en")) is None


def test_long_lists_are_cut_and_say_so(make_report):
    found = detection()
    found["missed"] = [
        {"case_id": f"c{n}", "structure": "lung_right", "number": 1, "text": ""} for n in range(130)
    ]
    page = render(replace(make_report(), detection=found))
    assert "<summary>Missed (130)</summary>" in page
    assert "30 more are in evaluation/detection.csv." in page


def test_the_part_speaks_chinese(make_report):
    page = render(replace(make_report(), detection=detection(), language="zh"))
    part = page[page.index('id="targets"') : page.index('id="checklist"')]
    assert "识别的目标" in part
    assert 'lang="en"' not in part
    assert not [word for word in ("Found", "Missed", "invented per case", "Panoptic") if word in part]
