"""What pydantic found wrong -> sentences about the file: the key, what is allowed, what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from medseg.config.document import KeyPath, Node, scalar_value
from medseg.config.problems import Mark, Problem, listed, nearest
from medseg.config.shapes import Shape, dotted, field_shapes
from medseg.settings_conflict import CONFLICT

_MAX_FOUND = 60
_QUOTED = re.compile(r"'([^']*)'")

_NEEDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "none_required": "nothing",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a block of `key: value`",
    "model_type": "a block of `key: value`",
    "model_attributes_type": "a block of `key: value`",
}
_LISTS = ("list_type", "tuple_type", "set_type", "frozen_set_type")
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_too_long": ("max_length", "text of at most {} characters"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
    "too_short": ("min_length", "a list of at least {} entries"),
    "too_long": ("max_length", "a list of at most {} entries"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The tree that was validated and what its walk learned."""

    root: Node
    models: Mapping[KeyPath, type[BaseModel]]
    choices: Mapping[KeyPath, Shape]

    def node(self, path: KeyPath) -> Node:
        """The deepest node on the way to `path`."""
        node = self.root
        for key in path:
            child = node.child(key)
            if child is None:
                return node
            node = child
        return node

    def mark(self, path: KeyPath) -> Mark:
        """Where to point for `path`: its key in a mapping, the entry itself in a list."""
        mark = self.root.mark
        node = self.root
        for key in path:
            child = node.child(key)
            if child is None:
                break
            mark = node.value[str(key)].key_mark if isinstance(node.value, dict) else child.mark
            node = child
        return mark

    def value_mark(self, path: KeyPath) -> Mark:
        """Where to point for a wrong value: the value itself where it is a word or a number."""
        node = self.node(path)
        blank = node.value is None or isinstance(node.value, dict | tuple)
        return self.mark(path) if blank else node.mark


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One pydantic error, placed: `rest` is what of its location is no key of the file."""

    error: ErrorDetails
    path: KeyPath
    rest: KeyPath
    branch: KeyPath | None

    @property
    def kind(self) -> str:
        return self.error["type"]


def translate(error: ValidationError, context: Context) -> list[Problem]:
    """All of pydantic's errors as problems of the file, one for each thing to mend."""
    findings = [_place(e, context) for e in error.errors(include_url=False)]
    findings = [f for f in findings if not _is_long_enough(f, context)]
    unknown = [_unknown_key(f, context) for f in findings if f.kind == "extra_forbidden"]
    meant = {(problem_path[:-1], guess) for problem_path, guess, _ in unknown if guess}
    problems = [problem for _, _, problem in unknown]
    problems += [
        _missing_key(f, context)
        for f in findings
        if f.kind == "missing" and (f.path, str(f.rest[-1])) not in meant
    ]
    rest = [f for f in findings if f.kind not in ("extra_forbidden", "missing")]
    for group in _by_union(rest):
        problems += _group_problems(group, context)
    return problems


def _is_long_enough(finding: _Finding, context: Context) -> bool:
    """Whether a list is called too short only because pydantic does not count its wrong entries, which are told."""
    found = context.node(finding.path).value
    least = finding.error.get("ctx", {}).get("min_length", 0)
    return finding.kind == "too_short" and isinstance(found, tuple | list) and len(found) >= least


def conflict_problems(
    pairs: Sequence[tuple[KeyPath, str]], context: Context, base: KeyPath = ()
) -> list[Problem]:
    """Problems of settings that do not go together."""
    places = [((*base, *path), text) for path, text in pairs]
    return [Problem(path=dotted(path), text=text, mark=context.value_mark(path)) for path, text in places]


def _place(error: ErrorDetails, context: Context) -> _Finding:
    """Split pydantic's location into keys of the file and names of pydantic's own."""
    node, path = context.root, cast("KeyPath", ())
    rest: list[str | int] = []
    branch: KeyPath | None = None
    named: set[KeyPath] = set()
    whole = error["type"] not in ("extra_forbidden", "missing")
    for part in error["loc"]:
        shape = context.choices.get(path)
        if shape is not None and shape.tagged and path not in named and part == node.choice:
            named.add(path)
            continue
        child = node.child(part)
        if child is not None:
            node, path = child, (*path, part)
            continue
        rest.append(part)
        if whole and branch is None and part != "[key]":
            branch = path
    return _Finding(error=error, path=path, rest=tuple(rest), branch=branch)


def _unknown_key(finding: _Finding, context: Context) -> tuple[KeyPath, str | None, Problem]:
    model = context.models.get(finding.path[:-1])
    known = tuple(field_shapes(model)) if model is not None else ()
    key = str(finding.path[-1])
    renamed: Mapping[str, str] = getattr(model, "renamed", {})
    if key in renamed:
        text = f"no such key `{key}`; it is now {renamed[key]}"
        return (
            finding.path,
            None,
            Problem(path=dotted(finding.path), text=text, mark=context.mark(finding.path)),
        )
    siblings = context.node(finding.path[:-1])
    guess = nearest(key, [k for k in known if siblings.child(k) is None]) or nearest(key, known)
    text = f"no such key `{key}`"
    if guess is not None:
        text += f", did you mean `{guess}`?"
    elif home := _home_of(key, context):
        text += f"; it belongs into `{home}`"
    else:
        text += f"; known here: {', '.join(known)}"
    return finding.path, guess, Problem(path=dotted(finding.path), text=text, mark=context.mark(finding.path))


def _home_of(key: str, context: Context) -> str | None:
    """The one block of the file whose model has the key."""
    homes = [path for path, model in context.models.items() if path and key in field_shapes(model)]
    return dotted(homes[0]) if len(homes) == 1 else None


def _missing_key(finding: _Finding, context: Context) -> Problem:
    key = str(finding.rest[-1])
    node = context.node(finding.path)
    if isinstance(finding.rest[-1], int) and isinstance(node.value, tuple):
        text = f"needs more entries, found {_found(node)}"
        return Problem(path=dotted(finding.path), text=text, mark=context.mark(finding.path))
    model = context.models.get(finding.path)
    info = model.model_fields.get(key) if model is not None else None
    about = f" ({info.description.rstrip('.')})" if info is not None and info.description else ""
    text = f"needs the key `{key}`{about}"
    if _is_bare(node):
        text += f"; write {{use: {node.choice}, {key}: ...}}"
    return Problem(path=dotted(finding.path), text=text, mark=context.mark(finding.path))


def _is_bare(node: Node) -> bool:
    """Whether the file has the bare name of a choice here."""
    use = node.value.get("use") if isinstance(node.value, dict) else None
    return use is not None and use.key_mark == use.node.mark


def _by_union(findings: Sequence[_Finding]) -> list[list[_Finding]]:
    """The errors of the alternatives of one union together, every other error alone."""
    groups: dict[Any, list[_Finding]] = {}
    for number, finding in enumerate(findings):
        groups.setdefault(number if finding.branch is None else finding.branch, []).append(finding)
    return list(groups.values())


def _by_path(findings: Sequence[_Finding]) -> list[list[_Finding]]:
    """The errors of one place together: a union inside of the alternative that was meant."""
    groups: dict[KeyPath, list[_Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.path, []).append(replace(finding, branch=finding.path))
    return list(groups.values())


def _group_problems(group: Sequence[_Finding], context: Context) -> list[Problem]:
    deepest = [f for f in group if f.branch is not None and len(f.path) > len(f.branch)]
    if len(group) == 1:
        return _single_problem(group[0], context)
    if deepest:
        return [p for same in _by_path(deepest) for p in _group_problems(same, context)]
    path = group[0].path
    needs = list(dict.fromkeys(_needs(f) for f in group))
    text = f"needs {' or '.join(needs)}, found {_found(context.node(path))}"
    text += _guess(group, context.node(path))
    return [Problem(path=dotted(path), text=text, mark=context.value_mark(path))]


def _single_problem(finding: _Finding, context: Context) -> list[Problem]:
    node, path = context.node(finding.path), finding.path
    mark = context.value_mark(path)
    if finding.kind == CONFLICT:
        return conflict_problems(finding.error.get("ctx", {})["pairs"], context, path)
    if finding.kind in ("union_tag_invalid", "union_tag_not_found"):
        return [_choice_problem(finding, context)]
    if finding.kind in ("value_error", "assertion_error"):
        text = finding.error["msg"].partition(", ")[2]
    elif path in context.choices and finding.kind in ("dict_type", "model_type", "model_attributes_type"):
        text = f"needs one of {listed(tuple(context.choices[path].members))}, found {_found(node)}"
    elif "[key]" in finding.rest:
        text, mark = f"the key `{path[-1]}` must be {_needs(finding)}", context.mark(path)
    else:
        text = f"needs {_needs(finding)}, found {_found(node)}{_hint(finding, node)}{_guess([finding], node)}"
    return [Problem(path=dotted(path), text=text, mark=mark)]


def _choice_problem(finding: _Finding, context: Context) -> Problem:
    path = finding.path
    node, names = context.node(path), tuple(context.choices[path].members)
    use = node.child("use")
    if use is None or node.choice is None:
        found = "" if use is None else f", found {_found(use)}"
        text = f"needs the key `use`, one of {listed(names)}{found}"
        return Problem(path=dotted(path), text=text, mark=context.mark(path))
    guess = nearest(node.choice, names)
    asked = f", did you mean {guess!r}?" if guess else ""
    name = node.choice if _is_bare(node) else f"use: {node.choice}"
    text = f"unknown `{name}`{asked} (one of {listed(names)})"
    return Problem(path=dotted(path), text=text, mark=use.mark)


def _needs(finding: _Finding) -> str:
    """What would have been right, as a noun."""
    bounds = finding.error.get("ctx", {})
    if finding.kind == "literal_error":
        words = _QUOTED.findall(bounds["expected"])
        return f"one of {listed(words)}" if len(words) > 1 else bounds["expected"]
    if finding.kind in _BOUNDS:
        name, text = _BOUNDS[finding.kind]
        bound = bounds[name]
        return text.format(f"{bound:g}" if isinstance(bound, float) else bound)
    return _NEEDS.get(finding.kind, finding.error["msg"])


def _found(node: Node) -> str:
    value = node.value
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a block of `key: value`"
    if isinstance(value, tuple):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _MAX_FOUND else text[:_MAX_FOUND] + "..."


def _hint(finding: _Finding, node: Node) -> str:
    if finding.kind == "string_type" and isinstance(node.value, int | float):
        return "; write it in quotes"
    if finding.kind in _LISTS and isinstance(node.value, str | int | float):
        return f"; write it as [{node.value}]"
    wants_plain = finding.kind in ("int_type", "float_type", "bool_type") and isinstance(node.value, str)
    if wants_plain and _is_plain_word(str(node.value)):
        return "; write it without quotes"
    return ""


def _is_plain_word(text: str) -> bool:
    try:
        return not isinstance(scalar_value(text), str | None)
    except ValueError:
        return False


def _guess(group: Sequence[_Finding], node: Node) -> str:
    words = [
        w for f in group if f.kind == "literal_error" for w in _QUOTED.findall(f.error["ctx"]["expected"])
    ]
    guess = nearest(node.value, words) if isinstance(node.value, str) and words else None
    return f", did you mean {guess!r}?" if guess else ""
