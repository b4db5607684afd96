"""The page of one case for paper."""

from __future__ import annotations

import pytest

from medseg.report.case_page import render_case_page
from medseg.report.page import Structure

STRUCTURES = (Structure(name="lung_right", colour="#3aa0ff"), Structure(name="lung_left", colour="#b684f5"))


def test_says_what_the_record_says_and_escapes_it(make_report):
    record = make_report(1, text="<script>alert(1)</script>").cases[0].record
    page = render_case_page(record, structures=STRUCTURES, picture_jpeg=b"\xff\xd8", notes=("one more",))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "For research use only" in page
    assert "one more" in page
    assert 'src="data:image/jpeg;base64,/9g="' in page
    assert record["model"]["weights_sha256"] in page
    assert "background:#b684f5" in page
    assert "http" not in page


def test_numbers_without_a_value_are_left_out_and_absence_is_said(make_report):
    record = dict(make_report(1).cases[0].record)
    measures = record["measurements"]
    absent = {**measures["structures"]["lung_left"], "state": "absent", "quantities": {}}
    record["measurements"] = {**measures, "structures": {**measures["structures"], "lung_left": absent}}
    page = render_case_page(record, structures=STRUCTURES)
    assert "the label table has no heart" not in page
    assert "absent" in page
    assert "<img" not in page


def test_colours_are_checked(make_report):
    bad = (Structure(name="a", colour="red;} body{"),)
    with pytest.raises(ValueError, match="must be #rrggbb"):
        render_case_page(make_report(1).cases[0].record, structures=bad)
