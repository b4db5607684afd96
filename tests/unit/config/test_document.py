"""YAML text -> tree: what is data, what is refused, where it stands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config.document import MAX_BYTES, MAX_DEPTH, Document, merge, parse, read_document, scalar_value
from medseg.config.problems import SettingsError, SourceText


def parsed(text: str) -> Document:
    return parse(SourceText.of(text, name="x.yaml", folder=Path()), text)


def plain(text: str) -> object:
    root = parsed(text).root
    return None if root is None else root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3e4", 30000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2_core_schema(text, value):
    found = plain(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_are_text():
    assert plain("""{a: "1", b: '1e-3', c: "no", d: ""}""") == {"a": "1", "b": "1e-3", "c": "no", "d": ""}


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9" * 41])
def test_numbers_that_are_none_are_problems(text):
    assert len(parsed(f"key: {text}").problems) == 1
    with pytest.raises(ValueError, match=r"finite|digits"):
        scalar_value(text)


def test_marks_point_at_key_and_value():
    root = parsed("a:\n  bb: [1, xyz]\n").root
    entry = root.value["a"].node.value["bb"]
    assert (entry.key_mark.line, entry.key_mark.column, entry.key_mark.width) == (1, 2, 2)
    item = entry.node.value[1]
    assert (item.mark.line, item.mark.column, item.mark.width) == (1, 10, 3)


def test_duplicate_keys_and_tags_are_all_listed():
    document = parsed("a: 1\nb: !!python/object/apply:os.system [ls]\na: 2\nc: !x 1\nd: !!str 5\n")
    texts = [problem.text for problem in document.problems]
    assert len(texts) == 4
    assert any("`a` stands twice, first in line 1" in text for text in texts)
    assert sum("tag" in text for text in texts) == 3


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a:\n\t- b", "tab stands here"),
        ("a: b: c", "second `:`"),
        ("a: [1\nb: 2", r"expected ',' or '\]'.*starts in line 1"),
        ("p: {root: ${X}/a}", r'in quotes: "\$\{NAME\}/folder"'),
        ("a: 1\n---\nb: 2", "second YAML document"),
        ("%YAML 1.1\n---\na: 1", "directives"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directives"),
        ("a: *b", "names no anchor"),
        ("a: &x [*x]", "inside its own anchor"),
        ("a: \x1b[31m", r"U\+001B"),
        ('a: "\\UFFFFFFFF"', "cannot be read as YAML"),
        ("a: 'b", "not YAML"),
        ("[" * (MAX_DEPTH + 2), "nested deeper"),
        ("a: }", "not YAML"),
        ("a: @b", "not YAML"),
        ("a:\n    b: 1\n   c: 2", "x.yaml:3:4  this line begins in another column"),
        (" a: 1\nb: 2", "x.yaml:2:1  this line begins in another column"),
        ("- a: 1\n b: 2", "x.yaml:2:2  this line begins in another column"),
        ("a: 1\n  b: 2", "x.yaml:2:4  this line begins too far to the right"),
        ("a: b: 2", "x.yaml:1:5  a second `:`"),
    ],
)
def test_what_cannot_be_read_says_why_and_where(text, match):
    with pytest.raises(SettingsError, match=match) as caught:
        parsed(text)
    assert caught.value.problems[-1].where.startswith("x.yaml:")


def test_merge_keys_and_odd_keys_are_problems():
    document = parsed("base: &b {x: 1}\nc: {<<: *b}\n? [1, 2]\n: 3\n~: 4\n")
    assert ["merge keys" in p.text for p in document.problems] == [True, False, False]


def test_whole_number_keys_are_their_value():
    assert plain("{1: a, 0x10: b, 'x y': c, true: d}") == {"1": "a", "16": "b", "x y": "c", "true": "d"}


def test_aliases_stand_for_their_value():
    assert plain("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("depth", [8, 30])
def test_alias_bomb_is_refused_at_once(depth):
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    start = time.monotonic()
    with pytest.raises(SettingsError, match="more than 50000 values"):
        parsed("\n".join(lines))
    assert time.monotonic() - start < 2


def test_alias_cannot_hide_depth():
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60)]
    with pytest.raises(SettingsError, match="nested deeper"):
        parsed("\n".join(lines))


def test_files_that_hold_no_settings(tmp_path: Path):
    path = tmp_path / "x.yaml"
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_document(path)
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_document(tmp_path)
    for content, match in [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"a: 1\nb: caf\xe9\n", r":2:7  byte 0xe9 is not UTF-8"),
        ("a: 1".encode("utf-16"), "is not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ]:
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=match):
            read_document(path)


def test_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes("\ufeffa: 1\r\nb:\r\n  c: ü\r\n".encode())
    root = read_document(path).root
    assert root.plain() == {"a": 1, "b": {"c": "ü"}}
    assert root.value["b"].node.value["c"].key_mark.line == 2


def test_merge_joins_mappings_and_replaces_the_rest():
    base = parsed("a: {x: 1, y: [1, 2]}\nb: {use: sgd, momentum: 0.9}\nc: {use: sgd, momentum: 0.9}\n").root
    over = parsed("a: {y: [3]}\nb: {use: adamw}\nc: {momentum: 0.5}\n").root
    assert merge(base, over).plain() == {
        "a": {"x": 1, "y": [3]},
        "b": {"use": "adamw"},
        "c": {"use": "sgd", "momentum": 0.5},
    }


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!%#'\"|>\n\t ,?0.e@`~", max_size=60))
def test_any_text_is_read_or_refused_with_problems(text):
    try:
        document = parsed(text)
    except SettingsError as err:
        document, shown = None, str(err)
        assert "problem" in shown
    assert document is None or isinstance(document, Document)
