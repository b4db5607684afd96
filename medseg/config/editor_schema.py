"""JSON Schema of a settings file, made for editors: what they complete, underline and explain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from medseg.config.schema import PipelineConfig
from medseg.config.shapes import CHOICE_KEY, field_shapes
from medseg.config.yaml_model import EXTENDS

SCHEMA_FILE = "pipeline-1.json"
_ID = "https://medseg.readthedocs.io/schema/{}-1.json"
_DRAFT = "http://json-schema.org/draft-07/schema#"


def json_schema(model: type[BaseModel] = PipelineConfig, *, kind: str = "pipeline") -> dict[str, Any]:
    """The schema of a settings file, as `medseg schema` prints it.

    Differs from what pydantic generates in four ways, each for the editor's sake: a choice also
    takes the bare names that need no options; each of its branches requires `use`, so that keys of
    one branch are not offered for another; titles that only repeat a key are left out; a file that
    `extends` another may leave out what that one says.

    Parameters
    ----------
    model : type
        What the file is checked against.
    kind : str
        What the schema is called.

    Returns
    -------
    dict
        JSON Schema, draft 7 (what YAML language servers read best).
    """
    schema = model.model_json_schema(mode="validation", ref_template="#/definitions/{model}")
    definitions: dict[str, Any] = schema.pop("$defs", {})
    members = {name for node in _nodes([schema, definitions]) for name in _member_names(node)}
    for name in members:
        definitions[name]["required"] = sorted({CHOICE_KEY, *definitions[name].get("required", [])})
    for node in _nodes([schema, definitions]):
        _open_choice(node, _choice_models(model))
    for properties in list(_property_tables([schema, definitions])):
        for value in properties.values():
            value.pop("title", None)
            # What a left-out block means stands at its own keys; written out here it fills the screen.
            if isinstance(value.get("default"), dict):
                del value["default"]
    for definition in definitions.values():
        definition.pop("title", None)
    required = schema.pop("required", [])
    schema["properties"][EXTENDS] = {
        "type": "string",
        "pattern": r"^[^/\\]+\.ya?ml$",
        "description": "File of the same folder whose settings hold where this file says nothing.",
    }
    head = {
        "$schema": _DRAFT,
        "$id": _ID.format(kind),
        "title": f"medseg {kind}",
        "description": schema.pop("description", ""),
    }
    schema.pop("title", None)
    extended = {"if": {"required": [EXTENDS]}, "then": {}, "else": {"required": required}}
    return {**head, **schema, **extended, "definitions": definitions}


def schema_text(model: type[BaseModel] = PipelineConfig, *, kind: str = "pipeline") -> str:
    """The schema as the text of a file; that of pipelines is `docs/schema/pipeline-1.json`."""
    return json.dumps(json_schema(model, kind=kind), indent=2, ensure_ascii=False) + "\n"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, children first."""
    if isinstance(value, dict):
        for child in list(value.values()):
            yield from _nodes(child)
        yield value
    elif isinstance(value, list):
        for child in value:
            yield from _nodes(child)


def _member_names(node: dict[str, Any]) -> list[str]:
    """Names of the definitions that are branches of a choice."""
    if not isinstance(node.get("discriminator"), dict):
        return []
    return [reference["$ref"].rpartition("/")[2] for reference in node["oneOf"]]


def _open_choice(node: dict[str, Any], models: dict[str, type[BaseModel]]) -> None:
    """Let a choice be a bare name as well."""
    if not _member_names(node):
        return
    by_word = node.pop("discriminator")["mapping"]
    bare = [word for word, ref in by_word.items() if _needs_no_options(models[ref.rpartition("/")[2]], word)]
    if bare:
        about = "The name alone takes the defaults of its options."
        node["oneOf"] = [{"type": "string", "enum": bare, "description": about}, *node["oneOf"]]


def _needs_no_options(model: type[BaseModel], word: str) -> bool:
    try:
        model.model_validate({CHOICE_KEY: word})
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=4)
def _choice_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every model that a choice anywhere below `model` can be, by class name."""
    found: dict[str, type[BaseModel]] = {}
    waiting, seen = list(field_shapes(model).values()), {model}
    while waiting:
        shape = waiting.pop()
        found |= {member.__name__: member for member in shape.members.values()}
        waiting += [*shape.parts, *([shape.item] if shape.item else [])]
        for inner in {*shape.members.values(), *([shape.model] if shape.model else [])} - seen:
            seen.add(inner)
            waiting += field_shapes(inner).values()
    return found


def _property_tables(value: Any) -> Iterator[dict[str, Any]]:
    for node in _nodes(value):
        if isinstance(node.get("properties"), dict) and "type" in node:
            yield node["properties"]
