"""Catalogues of the pages' texts: the same keys and fields in every language, and what is done with dates."""

import itertools
import string

import pytest

from medseg.report import language
from medseg.report.language import LANGUAGES, day, days_between, phrase, structure_name, text


def fields(words):
    return {name for _, name, _, _ in string.Formatter().parse(words) if name is not None}


@pytest.mark.parametrize("other", [name for name in LANGUAGES if name != "en"])
def test_every_language_has_the_keys_and_fields_of_english(other):
    english, found = text("en"), text(other)
    assert set(found) == set(english)
    assert {key for key in english if fields(english[key]) != fields(found[key])} == set()
    assert all(words.strip() for key, words in found.items() if english[key].strip())


def test_chinese_is_chinese():
    import json

    parts = [part for part in language._folder("zh").iterdir() if part.name.endswith(".json")]
    words = [w for part in parts for w in json.loads(part.read_text(encoding="utf-8")).values()]
    assert not [w for w in words if any("぀" <= sign <= "ヿ" for sign in w)]
    # A half-width comma beside a Chinese sign is a slip of the keyboard.
    wrong = [w for w in words for a, b in itertools.pairwise(w) if b == "," and "一" <= a <= "鿿"]
    assert wrong == []


def test_a_key_that_is_not_there_is_an_error_and_not_an_empty_text():
    with pytest.raises(KeyError):
        text("zh")["no.such.key"]
    with pytest.raises(TypeError):
        text("en")["verdict.pass"] = "x"


def test_dates_are_written_as_the_language_writes_them():
    assert day("en", "20261120") == "2026-11-20"
    assert day("zh", "2026-11-20") == "2026年11月20日"
    assert day("en", "2026-11-22T14:02:11+00:00") == "2026-11-22 14:02 UTC"
    assert day("zh", "2026-01-02T03:04:05Z") == "2026年1月2日 03:04 UTC"
    assert day("zh", "before lunch") == "before lunch"
    assert days_between("2026-05-12", "20261114") == 186
    assert days_between("2026-02-30", "2026-03-01") is None
    assert days_between("", "2026-03-01") is None


def test_structures_have_names_and_unknown_ones_keep_theirs():
    assert structure_name("en", "lung_left/lung_right") == "lung left / lung right"
    assert structure_name("zh", "lung_left") == "左肺"
    assert structure_name("zh", "os_trigonum") == "os trigonum"


def test_sentences_of_the_program_are_put_into_words_where_there_are_any(monkeypatch):
    monkeypatch.setattr(
        language, "_phrases", lambda _: {"absent": "未见", "{} and {} absent": "{0}与{1}未见"}
    )
    language._patterns.cache_clear()
    assert phrase("zh", "absent") == "未见"
    assert phrase("zh", "heart and lungs absent") == "心脏与双肺未见"
    assert phrase("zh", "who knows") is None
    assert phrase("en", "who knows") == "who knows"
    language._patterns.cache_clear()
