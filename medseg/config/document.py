"""YAML 1.2 text -> a tree that knows where each of its values stands.

YAML is data here: tags, merge keys, directives and several documents in one file are refused, and
size, depth and the growth by aliases are bounded. Scalars follow the core schema of YAML 1.2.2
(section 10.3.2): `no` and `012:30` are text, `1e-3` is a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

from medseg.config.problems import Mark, Problem, SettingsError, SourceText

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 50_000
_MAX_DIGITS = 40

_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Scalar: TypeAlias = bool | int | float | str | None
KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and where it stands: a scalar, a tuple of nodes, or a mapping of text to `Entry`."""

    value: Scalar | tuple[Node, ...] | dict[str, Entry]
    mark: Mark

    def plain(self) -> Any:
        """The value as JSON knows it."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The entry `key` of a mapping or list, None where there is none."""
        if isinstance(self.value, dict):
            entry = self.value.get(str(key))
            return entry.node if entry else None
        if isinstance(self.value, tuple) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    @property
    def choice(self) -> str | None:
        """What a mapping's `use` says, None where it has none or it is not text."""
        use = self.child("use") if isinstance(self.value, dict) else None
        return use.value if use is not None and isinstance(use.value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The value of a key, and where the key stands."""

    key_mark: Mark
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The tree of one text (None where it holds no value) and what is wrong with its YAML."""

    source: SourceText
    root: Node | None
    problems: tuple[Problem, ...] = ()


def read_document(path: Path) -> Document:
    """Parse a YAML file.

    Raises
    ------
    SettingsError
        The file is absent, too large, not UTF-8, empty, or not YAML 1.2. Duplicate keys and tags do
        not raise; they are in `problems`, so that they are shown with everything else.
    """
    nowhere = SourceText.of("", name=str(path), folder=path.parent)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as err:
        raise _refused(nowhere, f"cannot be read: {err.strerror or err}") from err
    if len(data) > MAX_BYTES:
        raise _refused(nowhere, f"is larger than {MAX_BYTES >> 20} MiB; settings are refused at that size")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n")
        column = len(data[: err.start].rpartition(b"\n")[2].decode("utf-8", "replace"))
        source = SourceText.of(data.decode("utf-8", "replace"), name=str(path), folder=path.parent)
        sentence = f"byte 0x{data[err.start]:02x} is not UTF-8; save the file as UTF-8"
        raise SettingsError(
            source.name, [_problem(sentence, Mark(source=source, line=line, column=column))]
        ) from err
    document = parse(SourceText.of(text, name=str(path), folder=path.parent), text)
    if document.root is None and not document.problems:
        raise _refused(document.source, "is empty; expected settings as `key: value`")
    return document


def parse(source: SourceText, text: str) -> Document:
    """Parse YAML text; see `read_document` for the errors."""
    composer = _Composer(source, text)
    return Document(source=source, root=composer.compose(), problems=tuple(composer.problems))


def merge(base: Node, over: Node) -> Node:
    """Mappings joined key by key, `over` winning; lists and scalars are replaced.

    Where both choose a different `use`, the options of the other choice do not carry over.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if base.choice is not None and over.choice not in (None, base.choice):
        return over
    entries = dict(base.value)
    for key, entry in over.value.items():
        node = merge(entries[key].node, entry.node) if key in entries else entry.node
        entries[key] = replace(entry, node=node)
    return Node(value=entries, mark=over.mark)


def without(node: Node, key: str) -> Node:
    """A mapping without one key."""
    if not isinstance(node.value, dict):
        return node
    return replace(node, value={k: v for k, v in node.value.items() if k != key})


def scalar_value(text: str) -> Scalar:
    """What a plain (unquoted) scalar means in the core schema; ValueError where it is no finite number."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("a number must be finite")
    whole = _INT.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text)
    if whole and len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number has at most {_MAX_DIGITS} digits")
    if whole:
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("a number must be finite")
        return number
    return text


@dataclass(slots=True)
class _Composer:
    """Builds the tree from the parser's events, so that every bound holds while it grows."""

    source: SourceText
    text: str
    problems: list[Problem] = field(default_factory=list)
    _anchors: dict[str, tuple[Node, int, int]] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    _nodes: int = 0

    def compose(self) -> Node | None:
        root: Node | None = None
        documents = 0
        try:
            events = self._events()
            for event in events:
                if isinstance(event, DocumentStartEvent):
                    documents += 1
                    self._check_document(event, documents)
                elif not isinstance(event, StreamStartEvent | StreamEndEvent | DocumentEndEvent):
                    root = self._node(event, events, depth=0)[0]
        except YAMLError as err:
            raise SettingsError(self.source.name, [self._syntax_problem(err)]) from err
        return root

    def _events(self) -> Iterator[Event]:
        # An escape such as "\UFFFFFFFF" reaches chr() inside the scanner.
        try:
            yield from YAML(typ="safe", pure=True).parse(self.text)
        except (ValueError, OverflowError) as err:
            sentence = f"cannot be read as YAML: {err}"
            raise SettingsError(self.source.name, [_problem(sentence, Mark(source=self.source))]) from err

    def _check_document(self, event: DocumentStartEvent, number: int) -> None:
        if number > 1:
            self._refuse("a second YAML document starts here; a settings file holds one", event)
        if event.version is not None or event.tags:
            self._refuse("YAML directives (%YAML, %TAG) are refused; the file is read as YAML 1.2", event)

    def _node(self, event: Event, events: Iterator[Event], *, depth: int) -> tuple[Node, int, int]:
        """The node that starts with `event`, the number of nodes in it, and its height."""
        if isinstance(event, AliasEvent):
            return self._alias(event, depth)
        if not isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
            self._refuse("a value was expected here", event)
        self._grow(1, depth, event)
        if event.tag is not None:
            self.problems.append(
                _problem(f"the tag {event.tag!r} is refused; settings are plain data", self._mark(event))
            )
        if event.anchor is not None:
            self._open.add(event.anchor)
        if isinstance(event, MappingStartEvent):
            built = self._mapping(event, events, depth)
        elif isinstance(event, SequenceStartEvent):
            built = self._sequence(event, events, depth)
        else:
            built = Node(value=self._scalar(event), mark=self._mark(event)), 1, 0
        if event.anchor is not None:
            self._open.discard(event.anchor)
            self._anchors[event.anchor] = built
        return built

    def _alias(self, event: AliasEvent, depth: int) -> tuple[Node, int, int]:
        name = event.anchor
        if name in self._open:
            self._refuse(f"the alias *{name} stands inside its own anchor", event)
        if name not in self._anchors:
            self._refuse(f"the alias *{name} names no anchor above it", event)
        node, count, height = self._anchors[name]
        self._grow(count, depth + height, event)
        return node, count, height

    def _grow(self, count: int, depth: int, event: Event) -> None:
        self._nodes += count
        if self._nodes > MAX_NODES:
            self._refuse(
                f"more than {MAX_NODES} values, aliases written out; settings are refused at that size", event
            )
        if depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels", event)

    def _mapping(self, start: Event, events: Iterator[Event], depth: int) -> tuple[Node, int, int]:
        entries: dict[str, Entry] = {}
        total, top = 1, 0
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            key_mark = self._mark(event)
            key = self._key(event, events, depth)
            node, count, height = self._node(next(events), events, depth=depth + 1)
            total, top = total + count, max(top, height + 1)
            if key is None:
                continue
            if key in entries:
                first = entries[key].key_mark.line + 1
                self.problems.append(
                    _problem(f"the key `{key}` stands twice, first in line {first}", key_mark)
                )
                continue
            entries[key] = Entry(key_mark=key_mark, node=node)
        return Node(value=entries, mark=self._mark(start)), total, top

    def _key(self, event: Event, events: Iterator[Event], depth: int) -> str | None:
        """The text of a key; None, with a problem noted, where it is not a plain name."""
        key = self._node(event, events, depth=depth + 1)[0]
        if isinstance(key.value, dict | tuple) or key.value is None:
            self.problems.append(_problem("a key must be a name or a whole number", key.mark))
            return None
        if key.value == "<<":
            self.problems.append(
                _problem("merge keys `<<` are not YAML 1.2; use `extends: base.yaml`", key.mark)
            )
            return None
        return str(key.value) if type(key.value) is int else str(getattr(event, "value", key.value))

    def _sequence(self, start: Event, events: Iterator[Event], depth: int) -> tuple[Node, int, int]:
        items: list[Node] = []
        total, top = 1, 0
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            node, count, height = self._node(event, events, depth=depth + 1)
            items.append(node)
            total, top = total + count, max(top, height + 1)
        return Node(value=tuple(items), mark=self._mark(start)), total, top

    def _scalar(self, event: ScalarEvent) -> Scalar:
        if event.style:
            return str(event.value)
        try:
            return scalar_value(event.value)
        except ValueError as err:
            self.problems.append(_problem(f"{err}, found {event.value[:_MAX_DIGITS]}", self._mark(event)))
            return 0

    def _mark(self, event: Event) -> Mark:
        start, end = event.start_mark, event.end_mark
        same_line = end.line == start.line and end.column > start.column
        single = isinstance(event, ScalarEvent | AliasEvent)
        width = end.column - start.column if same_line and single else 1
        return Mark(source=self.source, line=start.line, column=start.column, width=width)

    def _refuse(self, sentence: str, event: Event) -> NoReturn:
        raise SettingsError(self.source.name, [*self.problems, _problem(sentence, self._mark(event))])

    def _syntax_problem(self, err: YAMLError) -> Problem:
        mark = Mark(source=self.source)
        if isinstance(err, ReaderError):
            before = SourceText.of(self.text[: err.position], name="", folder=Path()).lines
            mark = replace(mark, line=len(before) - 1, column=len(before[-1]))
            return _problem(
                f"the character U+{ord(self.text[err.position]):04X} is not allowed in YAML", mark
            )
        if not isinstance(err, MarkedYAMLError):
            return _problem(f"cannot be read as YAML: {err}", mark)
        at = err.problem_mark or err.context_mark
        if at is not None:
            mark = replace(mark, line=at.line, column=at.column)
        line = self.source.lines[mark.line] if mark.line < len(self.source.lines) else ""
        return _problem(_syntax_sentence(err, line), mark)


_ONE_COLUMN = "keys of one block, and items of one list, begin in the same column"
_MISPLACED = ("expected <block end>", "expected '<document start>'", "did not find expected key")


def _syntax_sentence(err: MarkedYAMLError, line: str) -> str:
    problem = err.problem or "cannot be read as YAML"
    if "'\\t'" in problem:
        return "a tab stands here; YAML is indented with spaces"
    if "mapping values are not allowed" in problem:
        if ":" in line[: err.problem_mark.column if err.problem_mark else None]:
            return "a second `:` stands in this line; put text that holds `: ` in quotes"
        return f"this line begins too far to the right, the one above has its value already; {_ONE_COLUMN}"
    if problem.startswith(_MISPLACED):
        return f"this line begins in another column than those it belongs to; {_ONE_COLUMN}"
    opened = f" ({err.context} that starts in line {err.context_mark.line + 1})" if err.context_mark else ""
    hint = '; write a path with a variable in quotes: "${NAME}/folder"' if "${" in line else ""
    return f"not YAML: {problem}{opened}{hint}"


def _problem(sentence: str, mark: Mark) -> Problem:
    return Problem(path="", text=sentence, mark=mark)


def _refused(source: SourceText, sentence: str) -> SettingsError:
    return SettingsError(source.name, [_problem(sentence, Mark(source=source, line=-1))])
