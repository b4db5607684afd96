"""What an option model expects at each place: choices, models, lists, paths.

The walk over a tree with its shape writes a bare name out (`adamw` -> `{use: adamw}`), resolves
paths, and remembers which model each mapping stands for, so that messages can name its keys.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator
from pydantic.fields import FieldInfo

from medseg.config.document import Entry, KeyPath, Node
from medseg.config.problems import Problem

CHOICE_KEY = "use"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What may stand at a place.

    `members` holds the models of a choice by name, and `tagged` says whether pydantic puts the name
    into the place of its errors; `parts` are the alternatives of a union or the places of a fixed
    tuple, `item` the entries of a list or mapping, `words` the texts of a Literal.
    """

    kind: Literal["leaf", "text", "words", "path", "model", "choice", "list", "tuple", "mapping", "union"]
    model: type[BaseModel] | None = None
    members: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    tagged: bool = False
    item: Shape | None = None
    parts: tuple[Shape, ...] = ()
    words: tuple[str, ...] = ()


def shape_of(annotation: Any, info: FieldInfo | None = None) -> Shape:
    """The shape of a type, `info` being the field that it annotates."""
    if hasattr(annotation, "__value__"):
        return shape_of(annotation.__value__, info)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = [m for m in arguments[1:] if isinstance(m, FieldInfo | Discriminator)]
        return shape_of(arguments[0], _discriminated(found) or info)
    if origin in (Union, types.UnionType):
        return _union_shape(arguments, info)
    if origin is Literal:
        return Shape(kind="words", words=tuple(a for a in arguments if isinstance(a, str)))
    if isinstance(origin, type):
        return _container_shape(origin, arguments)
    if not isinstance(annotation, type):
        return Shape(kind="leaf")
    if issubclass(annotation, BaseModel):
        names = _choice_names(annotation)
        if names:
            return Shape(kind="choice", members=dict.fromkeys(names, annotation))
        return Shape(kind="model", model=annotation)
    if issubclass(annotation, Path):
        return Shape(kind="path")
    return Shape(kind="text" if issubclass(annotation, str) else "leaf")


def _discriminated(found: Sequence[FieldInfo | Discriminator]) -> FieldInfo | None:
    return next((m for m in found if isinstance(m, FieldInfo) and m.discriminator), None)


def _union_shape(arguments: Sequence[Any], info: FieldInfo | None) -> Shape:
    some = [a for a in arguments if a is not type(None)]
    if len(some) == 1:
        return shape_of(some[0], info)
    if info is not None and info.discriminator == CHOICE_KEY:
        members = {name: model for model in some for name in _choice_names(_bare(model))}
        return Shape(kind="choice", members={n: _bare(m) for n, m in members.items()}, tagged=True)
    return Shape(kind="union", parts=tuple(shape_of(a) for a in some))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _container_shape(origin: type, arguments: Sequence[Any]) -> Shape:
    if issubclass(origin, Mapping) and len(arguments) == 2:
        return Shape(kind="mapping", item=shape_of(arguments[1]))
    if issubclass(origin, tuple) and arguments and arguments[-1] is not Ellipsis:
        return Shape(kind="tuple", parts=tuple(shape_of(a) for a in arguments))
    if issubclass(origin, Sequence | AbstractSet) and arguments:
        return Shape(kind="list", item=shape_of(arguments[0]))
    return Shape(kind="leaf")


def _choice_names(model: Any) -> tuple[str, ...]:
    """The names by which `use` picks a model; () for a model without `use`."""
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return ()
    use = model.model_fields.get(CHOICE_KEY)
    return get_args(use.annotation) if use is not None and get_origin(use.annotation) is Literal else ()


@lru_cache(maxsize=512)
def field_shapes(model: type[BaseModel]) -> Mapping[str, Shape]:
    """Shapes of a model's fields, by the key that a file uses."""
    return {info.alias or name: shape_of(info.annotation, info) for name, info in model.model_fields.items()}


def shape_at(shape: Shape, parts: Sequence[str]) -> Shape | None:
    """The shape of a place below `shape`, such as `model.channels`; None where no branch has it."""
    if not parts:
        return shape
    inner: list[Shape] = [*shape.parts, *([shape.item] if shape.item is not None else [])]
    if shape.kind == "union":
        found = [shape_at(part, parts) for part in inner]
    elif shape.kind in ("list", "mapping", "tuple"):
        found = [shape_at(part, parts[1:]) for part in inner]
    else:
        models = [*shape.members.values(), *([shape.model] if shape.model is not None else [])]
        fields = [field_shapes(model).get(parts[0]) for model in models]
        found = [shape_at(part, parts[1:]) for part in fields if part is not None]
    return next((part for part in found if part is not None), None)


@dataclass(slots=True)
class Walk:
    """One walk over a tree; afterwards `models` and `choices` say what stands where.

    `name_or_path` are the places of texts that are a path where they look like one.
    """

    resolve_paths: bool
    name_or_path: frozenset[KeyPath] = frozenset()
    models: dict[KeyPath, type[BaseModel]] = field(default_factory=dict)
    choices: dict[KeyPath, Shape] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def run(self, node: Node, shape: Shape, path: KeyPath = ()) -> Node:
        """The tree with names written out and, where asked for, paths made absolute."""
        if shape.kind == "union":
            node = _written_out(node, shape.parts)
            picked = _pick(node, shape.parts)
            return node if picked is None else self.run(node, picked, path)
        if shape.kind == "choice":
            return self._choice(node, shape, path)
        if shape.kind == "model" and shape.model is not None:
            return self._model(node, shape.model, path)
        if self.resolve_paths and isinstance(node.value, str) and self._is_path(node.value, shape, path):
            return self._path(node, node.value, path)
        if shape.kind == "mapping" and shape.item is not None:
            return self._entries(node, dict.fromkeys(_keys(node), shape.item), path)
        if shape.kind in ("list", "tuple") and isinstance(node.value, tuple):
            shapes = (
                shape.parts
                if shape.kind == "tuple"
                else (shape.item or Shape(kind="leaf"),) * len(node.value)
            )
            items = [
                self.run(n, s, (*path, i)) for i, (n, s) in enumerate(zip(node.value, shapes, strict=False))
            ]
            return replace(node, value=(*items, *node.value[len(items) :]))
        return node

    def run_at(self, root: Node, place: KeyPath, shape: Shape) -> Node:
        """The tree with the value at `place`, which is there, run through as if it had `shape`."""

        def inner(node: Node, rest: KeyPath) -> Node:
            if not rest:
                return self.run(node, shape, place)
            if isinstance(node.value, dict):
                entry = node.value[str(rest[0])]
                changed = replace(entry, node=inner(entry.node, rest[1:]))
                return replace(node, value={**node.value, str(rest[0]): changed})
            items = list(node.value) if isinstance(node.value, tuple) else []
            items[int(rest[0])] = inner(items[int(rest[0])], rest[1:])
            return replace(node, value=tuple(items))

        return inner(root, place)

    def _is_path(self, text: str, shape: Shape, path: KeyPath) -> bool:
        looks_like_one = "/" in text or text.startswith((".", "~", "${"))
        return shape.kind == "path" or (path in self.name_or_path and looks_like_one)

    def _choice(self, node: Node, shape: Shape, path: KeyPath) -> Node:
        if isinstance(node.value, str):
            use = Entry(key_mark=node.mark, node=node)
            node = Node(value={CHOICE_KEY: use}, mark=node.mark)
        self.choices[path] = shape
        model = shape.members.get(node.choice or "")
        return node if model is None else self._model(node, model, path)

    def _model(self, node: Node, model: type[BaseModel], path: KeyPath) -> Node:
        self.models[path] = model
        return self._entries(node, field_shapes(model), path)

    def _entries(self, node: Node, shapes: Mapping[str, Shape], path: KeyPath) -> Node:
        if not isinstance(node.value, dict):
            return node
        entries = {
            key: replace(entry, node=self.run(entry.node, shapes[key], (*path, key)))
            if key in shapes
            else entry
            for key, entry in node.value.items()
        }
        return replace(node, value=entries)

    def _path(self, node: Node, text: str, path: KeyPath) -> Node:
        try:
            written = _substitute(text)
        except ValueError as err:
            self.problems.append(Problem(path=dotted(path), text=str(err), mark=node.mark))
            return node
        joined = os.path.join(os.path.abspath(node.mark.source.folder), written)
        plain = os.path.normpath(joined)
        # "link/.." names the folder above the link's target, which normpath does not know.
        same = os.path.realpath(plain) == os.path.realpath(joined)
        return replace(node, value=plain if same else joined)


def _substitute(text: str) -> str:
    """A path with `${NAME}` from the environment and `~` written out; ValueError where it cannot be."""
    for name in _VARIABLE.findall(text):
        if not _VARIABLE_NAME.fullmatch(name):
            raise ValueError(f"`${{{name}}}` is not a variable; expected ${{NAME}}, letters, digits and _")
        if not os.environ.get(name):
            raise ValueError(f"the environment variable {name} is not set; set it or write the path itself")
    written = _VARIABLE.sub(lambda match: os.environ[match.group(1)], text)
    if "${" in written or "\0" in written or not written.strip():
        raise ValueError(f"expected a path, found {written!r}")
    return os.path.expanduser(written)


def _keys(node: Node) -> tuple[str, ...]:
    return tuple(node.value) if isinstance(node.value, dict) else ()


def _written_out(node: Node, parts: Sequence[Shape]) -> Node:
    """The block of settings that a word stands for, where a model of the union names it a shorthand."""
    for part in parts:
        known: Mapping[str, Mapping[str, Any]] = getattr(part.model, "shorthands", {})
        if isinstance(node.value, str) and node.value in known:
            values = known[node.value].items()
            entries = {
                key: Entry(key_mark=node.mark, node=replace(node, value=value)) for key, value in values
            }
            return replace(node, value=entries)
    return node


def _pick(node: Node, parts: Sequence[Shape]) -> Shape | None:
    """The alternative of a union that a value was written for."""
    if isinstance(node.value, dict):
        named = [p for p in parts if p.kind == "choice" and node.choice in p.members]
        wanted: tuple[str, ...] = ("choice", "model", "mapping")
    elif isinstance(node.value, tuple):
        named, wanted = [], ("list", "tuple")
    elif isinstance(node.value, str):
        named = [p for p in parts if node.value in p.words or node.value in p.members]
        open_text = any(p.kind == "text" for p in parts)
        wanted = ("path",) if open_text or any(p.kind == "path" for p in parts) else ("choice",)
    else:
        return None
    return next(iter(named), None) or next((p for p in parts if p.kind in wanted), None)


def dotted(path: KeyPath) -> str:
    """`training.loss`, `preprocess.2.low`: a place as `--set` writes it."""
    return ".".join(str(part) for part in path)
