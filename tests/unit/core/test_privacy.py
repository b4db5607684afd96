"""Names that become paths stay inside their folder and stay apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.privacy import MAX_NAME, inside, pseudonym, safe_name


@given(st.text(max_size=200))
def test_any_text_becomes_a_short_plain_name(text):
    name = safe_name(text)
    assert 0 < len(name) <= MAX_NAME
    assert name not in (".", "..")
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


@given(st.text(max_size=40), st.text(max_size=40))
def test_different_texts_have_different_names(one, two):
    assert (safe_name(one) == safe_name(two)) == (one == two)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs", "a/b", "..", "CON", "nul.txt", "\x00", "\u202egnp.exe"]
)
def test_hostile_names_stay_inside(tmp_path, name):
    assert inside(tmp_path, name).parent == tmp_path


def test_plain_names_are_kept():
    assert safe_name("cxr-001_a.2") == "cxr-001_a.2"


def test_a_pseudonym_is_stable_and_does_not_show_the_identifier():
    assert pseudonym("Miller^Ann") == pseudonym("Miller^Ann") != pseudonym("Miller^Bob")
    assert "Miller" not in pseudonym("Miller^Ann")
