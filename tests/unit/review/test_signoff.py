import json

import pytest

from medseg.errors import InputError
from medseg.review.signoff import read_signoffs


def save(path, *reviews, schema="medseg.review/1"):
    """As report.js saves it."""
    path.write_text(
        json.dumps(
            {"schema": schema, "pipeline": "p", "run": "r", "saved": "2026-01-01", "reviews": list(reviews)}
        )
    )
    return path


def said(case_id, decision, note="", **files):
    return {"case_id": case_id, "decision": decision, "note": note, "verdict": "pass", "files": files}


def test_decisions_notes_and_digests_are_read(tmp_path):
    path = save(
        tmp_path / "review.json",
        {**said("a", "accept"), "files": {"segmentation.nii.gz": "ff"}},
        said("b", "edit", " the dome of the liver is missing \n"),
        said("c", None),
    )
    found = read_signoffs([path])
    assert set(found.by_case) == {"a", "b"}
    assert found.by_case["a"].mask_sha256 == "ff"
    assert found.by_case["b"].note == "the dome of the liver is missing"


def test_two_files_that_disagree_decide_nothing_and_name_both(tmp_path):
    one = save(tmp_path / "review.json", said("a", "accept"), said("b", "reject"))
    two = save(tmp_path / "review (1).json", said("a", "edit"), said("b", "reject"))
    found = read_signoffs([one, two])
    assert set(found.by_case) == {"b"}
    assert found.problems["a"] == "review.json says accept, review (1).json says edit; keep one of them"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "expected the JSON that the report page saves"),
        ("[]", "the file"),
        ('{"schema": "medseg.review/2", "reviews": []}', "schema"),
        (
            '{"schema": "medseg.review/1", "reviews": [{"case_id": "a", "decision": "maybe"}]}',
            "reviews.0.decision",
        ),
        ('{"schema": "medseg.review/1", "reviews": [{"decision": "edit"}]}', "reviews.0.case_id"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, text, match):
    path = tmp_path / "review.json"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_signoffs([path])
