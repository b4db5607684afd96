"""A YAML file, its `extends` and the `--set` of the command line -> one checked option model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from medseg.config.document import Entry, KeyPath, Node, merge, parse, read_document, without
from medseg.config.messages import Context, conflict_problems, translate
from medseg.config.problems import Mark, Problem, SettingsError, SourceText
from medseg.config.shapes import Walk, dotted, shape_at, shape_of
from medseg.provenance import sha256_json

EXTENDS = "extends"
_MAX_BASES = 8
KINDS = {
    "medseg": "a pipeline, for `medseg run`",
    "medseg_node": "settings of a node, for `medseg serve`",
    "medseg_deidentify": "settings for `medseg deidentify --settings`",
}
"""Files that are told apart by the key that bears the version of their format."""
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ModelT]):
    """Checked settings, the file they come from, and the SHA-256 of the settings as resolved.

    Equal settings have equal digests, however the file is laid out or split into bases.
    """

    config: ModelT
    path: Path
    digest: str


def load_yaml_model(path: Path, model_class: type[ModelT], overrides: Sequence[str] = ()) -> Loaded[ModelT]:
    """Read, merge and check a settings file.

    Values are typed strictly (no text for a number), relative paths are taken from the folder of
    the file (for an override: from the working folder), and a choice may be its bare name.

    Parameters
    ----------
    path : Path
        YAML 1.2 file; `extends: NAME.yaml` in it names one base file of the same folder.
    model_class : type
        Frozen pydantic model to check against. A static method `conflicts(sections)` of it, if
        any, is asked about the sections that are valid even where others are not.
    overrides : sequence of str
        `a.b=value` as after `--set`, later ones winning; `value` is read as YAML.

    Raises
    ------
    SettingsError
        With every problem of the file, its bases and the overrides.
    """
    root, problems = _merged(path, model_class, ())
    for override in overrides:
        root, found = _with_override(root, override, model_class)
        problems += found
    _check_kind(path, root, model_class)
    root, walk = _written_out(root, model_class)
    context = Context(root=root, models=walk.models, choices=walk.choices)
    config, found = _validate(model_class, context)
    problems += walk.problems + found
    if config is None or problems:
        raise SettingsError(str(path), problems)
    return Loaded(config=config, path=path, digest=sha256_json(config.model_dump(mode="json")))


def _check_kind(path: Path, root: Node, model_class: type[BaseModel]) -> None:
    """Refuse settings of another command in one sentence instead of one for each of their keys."""
    known = root.value if isinstance(root.value, dict) else {}
    wanted = [kind for kind in KINDS if kind in model_class.model_fields]
    found = [kind for kind in KINDS if kind in known]
    if wanted and found and wanted[0] not in known:
        text = f"the file holds {KINDS[found[0]]}; expected one with `{wanted[0]}: 1`"
        problem = Problem(path="", text=text, mark=known[found[0]].key_mark)
        raise SettingsError(str(path), [problem])


def with_values(config: ModelT, values: Mapping[str, Any]) -> ModelT:
    """Checked settings with other values at some dotted keys, as `--set` would have set them.

    A value is plain data as JSON knows it; a choice may be its bare name, and paths are absolute. A
    key is set before the keys below it.

    Raises
    ------
    SettingsError
        The settings do not allow it; `problems` say why, without places in a file.
    """
    model_class, source = type(config), SourceText.of("", name="values", folder=Path.cwd())
    mark = Mark(source=source, line=-1)
    root = _node_of(config.model_dump(mode="json"), mark)
    for key, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        try:
            root = _set(root, tuple(key.split(".")), 0, _node_of(value, mark), source)
        except LookupError as err:
            raise SettingsError(key, [Problem(path=key, text=str(err.args[0]), mark=mark)]) from err
    walk = Walk(resolve_paths=False)
    root = walk.run(root, shape_of(model_class))
    changed, found = _validate(model_class, Context(root=root, models=walk.models, choices=walk.choices))
    if changed is None:
        raise SettingsError("values", found)
    return changed


def _node_of(value: Any, mark: Mark) -> Node:
    """Plain data as a tree that stands nowhere."""
    if isinstance(value, Mapping):
        entries = {str(key): Entry(key_mark=mark, node=_node_of(v, mark)) for key, v in value.items()}
        return Node(value=entries, mark=mark)
    if isinstance(value, list | tuple):
        return Node(value=tuple(_node_of(item, mark) for item in value), mark=mark)
    return Node(value=value, mark=mark)


def _written_out(root: Node, model_class: type[BaseModel]) -> tuple[Node, Walk]:
    """The tree with names written out and paths resolved, and what the walk learned.

    Values that stand for settings elsewhere (`values_of` of the model names their tables) are treated
    like the settings that they are for.
    """
    shape = shape_of(model_class)
    names: frozenset[KeyPath] = getattr(model_class, "name_or_path", frozenset())
    values = [
        (place, key) for table in getattr(model_class, "values_of", ()) for place, key in _values(root, table)
    ]
    names |= {place for place, key in values if tuple(key.split(".")) in names}
    walk = Walk(resolve_paths=True, name_or_path=names)
    root = walk.run(root, shape)
    for place, key in values:
        meant = shape_at(shape, key.split("."))
        root = root if meant is None else walk.run_at(root, place, meant)
    return root, walk


def _values(root: Node, table: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Place and dotted key of every value in a table of values: the entries, or the `choices` in them."""
    node: Node | None = root
    for part in table:
        node = None if node is None else node.child(part)
    for key, entry in (node.value if node is not None and isinstance(node.value, dict) else {}).items():
        choices = entry.node.child("choices") if isinstance(entry.node.value, dict) else None
        if choices is not None and isinstance(choices.value, tuple):
            yield from (((*table, key, "choices", index), key) for index in range(len(choices.value)))
        elif table[-1] == "settings":
            yield (*table, key), key


def _merged(path: Path, model_class: type[BaseModel], above: tuple[Path, ...]) -> tuple[Node, list[Problem]]:
    """The tree of a file over the tree of its base, names written out."""
    document = read_document(path)
    problems = list(document.problems)
    if document.root is None or not isinstance(document.root.value, dict):
        mark = Mark(source=document.source) if document.root is None else document.root.mark
        text = "expected settings as `key: value` at the top of the file"
        raise SettingsError(str(path), [*problems, Problem(path="", text=text, mark=mark)])
    root = Walk(resolve_paths=False).run(document.root, shape_of(model_class))
    name = root.child(EXTENDS)
    if name is None:
        return root, problems
    root = without(root, EXTENDS)
    above = (*above, path.resolve())
    base, sentence = _base_path(path, name, above)
    if base is None:
        return root, [*problems, Problem(path=EXTENDS, text=sentence, mark=name.mark)]
    tree, found = _merged(base, model_class, above)
    return merge(tree, root), problems + found


def _base_path(path: Path, name: Node, above: tuple[Path, ...]) -> tuple[Path | None, str]:
    """The file that `extends` names, or None and why not."""
    text = name.value
    if not isinstance(text, str) or Path(text).name != text or "\\" in text or text in ("", ".", ".."):
        return None, f"expected the name of a file in the same folder, found {text!r}"
    base = path.parent / text
    if base.resolve() in above:
        chain = " -> ".join(p.name for p in (*above, base))
        return None, f"files extend each other in a circle: {chain}"
    if len(above) > _MAX_BASES:
        return None, f"more than {_MAX_BASES} files extend one another"
    if not base.is_file():
        return None, f"no file {text!r} in {path.parent}"
    return base, ""


def _with_override(root: Node, override: str, model_class: type[BaseModel]) -> tuple[Node, list[Problem]]:
    """The tree with one `a.b=value` set."""
    source = SourceText.of(override, name=f"--set {override}", folder=Path.cwd(), on_command_line=True)
    keys, equals, value = override.partition("=")
    whole = Mark(source=source, width=len(override))
    parts = keys.split(".")
    if not equals or not all(part.strip() == part and part for part in parts):
        text = "expected --set key.key=value"
        return root, [Problem(path="", text=text, mark=whole)]
    # Blanks in place of the key keep the columns of the value those of the override.
    document = parse(source, " " * (len(keys) + 1) + value)
    node = document.root or Node(value=None, mark=whole)
    try:
        changed = _set(root, tuple(parts), 0, node, source)
    except LookupError as err:
        return root, [*document.problems, Problem(path=keys, text=str(err.args[0]), mark=whole)]
    return Walk(resolve_paths=False).run(changed, shape_of(model_class)), list(document.problems)


def _set(node: Node, parts: tuple[str, ...], depth: int, value: Node, source: SourceText) -> Node:
    """`node` with the place `parts[depth:]` replaced; LookupError where it has no such place."""
    if depth == len(parts):
        return value
    part, here = parts[depth], dotted(parts[:depth])
    if isinstance(node.value, tuple):
        index = int(part) if part.isascii() and part.isdigit() and len(part) < 10 else len(node.value)
        if index >= len(node.value):
            known = f"its entries are 0 to {len(node.value) - 1}" if node.value else "it is empty"
            raise LookupError(f"`{here}` is a list and has no entry {part}; {known}")
        items = list(node.value)
        items[index] = _set(items[index], parts, depth + 1, value, source)
        return replace(node, value=tuple(items))
    if not isinstance(node.value, dict | None):
        raise LookupError(
            f"`{here}` is {node.value!r}, not a block of settings; nothing can be set inside it"
        )
    column = sum(len(p) + 1 for p in parts[:depth])
    mark = Mark(source=source, column=column, width=len(part))
    entries = dict(node.value or {})
    old = entries[part].node if part in entries else Node(value=None, mark=mark)
    entries[part] = Entry(key_mark=mark, node=_set(old, parts, depth + 1, value, source))
    return replace(node, value=entries)


def _validate(model_class: type[ModelT], context: Context) -> tuple[ModelT | None, list[Problem]]:
    """The model, or None and every problem pydantic and the model's own cross checks find."""
    try:
        # JSON mode: strict types, while lists may become tuples and text may become paths.
        return model_class.model_validate_json(json.dumps(context.root.plain()), strict=True), []
    except ValidationError as err:
        problems = translate(err, context)
        top = {str(e["loc"][0]) for e in err.errors(include_url=False) if e["loc"]}
    conflicts = getattr(model_class, "conflicts", None)
    if top and conflicts is not None:
        sections = _valid_sections(model_class, context.root, top)
        problems += conflict_problems(conflicts(sections), context)
    return None, problems


def _valid_sections(model_class: type[BaseModel], root: Node, broken: set[str]) -> Mapping[str, Any]:
    """The top-level values that are valid by themselves, defaults included."""
    sections: dict[str, Any] = {}
    for name, info in model_class.model_fields.items():
        node = root.child(name)
        if name in broken or (node is None and info.is_required()):
            continue
        if node is None:
            sections[name] = info.get_default(call_default_factory=True)
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
        sections[name] = adapter.validate_json(json.dumps(node.plain()), strict=True)
    return sections
