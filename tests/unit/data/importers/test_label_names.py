"""Label names: what dataset.json may say, and YAML that the settings accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from medseg.config.conflicts import RESERVED_NAMES, find_conflicts
from medseg.config.schema import LabelName, LabelOptions
from medseg.data.importers.label_names import RESERVED, fit_name, labels_yaml, read_label_names
from medseg.data.importers.records import LabelNames, Listing, NamedValue


def listed(labels: object, **options) -> Listing:
    listing = Listing(kind="nnunet", title="toy")
    listing.names = read_label_names(listing, labels, **options)
    return listing


def loaded(listing: Listing) -> dict:
    """The labels file as the settings read it: every block valid, none in conflict."""
    text = labels_yaml(listing, manifest=Path("m.csv"))
    blocks = YAML(typ="safe", pure=True).load(text) or {}
    assert set(blocks) <= {"labels", "regions", "ignore_value"}
    TypeAdapter(dict[LabelName, LabelOptions]).validate_python(blocks.get("labels", {}))
    labels = {name: LabelOptions(**entry) for name, entry in blocks.get("labels", {}).items()}
    sections = {
        "labels": labels,
        "regions": blocks.get("regions", {}),
        "ignore_value": blocks.get("ignore_value"),
    }
    assert find_conflicts(sections) == []
    return blocks


def test_reserved_names_are_those_of_the_settings():
    assert RESERVED == RESERVED_NAMES


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("liver", "liver"),
        ("Left lung", "Left_lung"),
        ("  a  /  b ", "a_b"),
        ("Hälfte", "Halfte"),
        ("3rd ventricle", "label_3rd_ventricle"),
        ("other", "other_label"),
        ("肝", "label_7"),
        ("", "label_7"),
        ("x" * 80, "x" * 64),
    ],
)
def test_names_are_made_fit(name, fit):
    assert fit_name(name, value=7) == fit


@given(st.lists(st.text(max_size=70), max_size=6))
def test_fit_names_are_allowed_and_differ(names):
    listing = Listing(kind="msd", title="toy")
    listing.names = LabelNames(values=tuple(NamedValue(value=n + 1, name=t) for n, t in enumerate(names)))
    blocks = loaded(listing)
    assert [entry["value"] for entry in blocks.get("labels", {}).values()] == list(range(1, len(names) + 1))


def test_both_directions_say_the_same():
    first, second = (
        listed({"0": "background", "2": "b", "1": "a"}),
        listed({"background": 0, "a": 1, "b": "2"}),
    )
    assert not first.problems
    assert loaded(first) == loaded(second) == {"labels": {"a": {"value": 1}, "b": {"value": 2}}}


def test_regions_name_values_that_have_no_name():
    labels = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    listing = listed(labels, order=[1, 2, 3])
    assert not listing.problems
    assert loaded(listing) == {
        "labels": {"value_1": {"value": 1}, "value_2": {"value": 2}, "enhancing": {"value": 3}},
        "regions": {"whole_tumour": ["value_1", "value_2", "enhancing"], "core": ["value_2", "enhancing"]},
        "ignore_value": 4,
    }
    text = labels_yaml(listing, manifest=Path("m.csv"))
    assert "# no name of its own; in whole tumour, core" in text
    assert "regions_class_order of nnU-Net: [1, 2, 3]" in text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "expected names and values"),
        ({}, "expected names and values"),
        ({"background": 0}, "nothing but background"),
        ({"a": 1, "b": 1}, "a and b have the same value 1"),
        ({"a": -1}, "labels.a: expected whole numbers"),
        ({"a": 1.5}, "labels.a: expected whole numbers"),
        ({"a": True}, "labels.a: expected whole numbers"),
        ({"a": 70000}, "values are 1 to 65535"),
        ({"a": [0, 1]}, "values are 1 to 65535"),
        ({"a": [], "b": 1}, "labels.a: expected whole numbers"),
        ({"1": {"name": "x"}}, "labels.1: expected a name"),
        ({"99999999999": "x"}, "labels.x: expected whole numbers"),
        ({"a": "x"}, "neither names nor values"),
        ({"a": 1, "ignore": 1}, "the value 1 is ignored and a label"),
    ],
)
def test_labels_that_cannot_be_understood_are_fatal(labels, message):
    listing = listed(labels)
    assert any(message in p.text for p in listing.problems), listing.problems
    assert all(p.fatal for p in listing.problems)


def test_an_order_of_another_length_is_a_problem():
    (problem,) = listed({"a": [1, 2], "b": 2}, order=[1]).problems
    assert re.search("regions_class_order: expected 2 values", problem.text)


def test_a_name_cannot_break_out_of_its_comment():
    listing = listed({"liver\nignore_value: 9": 1})
    assert loaded(listing) == {"labels": {"liver_ignore_value_9": {"value": 1}}}


def test_words_that_yaml_takes_for_truth_are_quoted():
    assert loaded(listed({"No": 1, "on": 2})) == {"labels": {"No": {"value": 1}, "on": {"value": 2}}}
