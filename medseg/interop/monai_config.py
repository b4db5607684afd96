"""Configuration of a MONAI bundle, read as data.

MONAI builds objects from such files: text that begins with `$` is evaluated as Python, `_target_` names what is called.
Nothing of that is done here. What an importer asks for is plain values, references `@id` to plain values, and names of
classes that are compared with the few that are known; anything else in it is refused with its place and text. What is
not asked for may hold what it likes.

References: MONAI, "Bundle configuration" and "Bundle specification" (format of 0.9 to 1.6).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from medseg.errors import BundleError

CONFIGS = "configs"
_NAMES = ("inference.json", "inference.yaml", "inference.yml")
_MOST_BYTES = 4 << 20
_DEEPEST = 32
# Told to people, or about when to call; they change no value.
_REMARKS = frozenset({"_desc_", "_requires_"})


@dataclass(frozen=True, slots=True)
class MonaiConfig:
    """One configuration file.

    Parameters
    ----------
    path : Path
    values : mapping
        As the file has them.
    """

    path: Path
    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether the file has a key at its top."""
        return name in self.values

    def plain(self, name: str) -> Any:
        """What stands under a key at the top, references followed; None where it is not there.

        Raises
        ------
        BundleError
            An expression, a macro, or a reference that leads nowhere.
        """
        return self.resolve(self.values[name], name) if name in self.values else None

    def resolve(self, value: Any, place: str) -> Any:
        """A value of this file, found at `place`, with all references below it followed.

        Raises
        ------
        BundleError
            See `plain`.
        """
        return self._resolved(value, place, 0)

    def components(self, name: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Place and raw text of each transform of a `Compose`, or of a list of transforms; none where there is none.

        Their arguments are not looked at: many that matter to nobody here are expressions.
        """
        value, place = self.values.get(name), name
        for _ in range(_DEEPEST):
            if not (isinstance(value, str) and value.startswith("@")):
                break
            place, value = value[1:], self.values.get(value[1:])
        if isinstance(value, Mapping) and class_name(value) == "Compose":
            value, place = value.get("transforms"), f"{place}::transforms"
        if value is None:
            return []
        if isinstance(value, str):
            self.resolve(value, place)
        if not isinstance(value, list) or not all(isinstance(item, Mapping | str) for item in value):
            self.refuse(place, "expected a Compose with a list of transforms")
        places = [f"{place}::{index}" for index in range(len(value))]
        items = [(where, self._component(item, where)) for where, item in zip(places, value, strict=True)]
        return [
            (where, item) for where, item in items if item.get("_disabled_") not in (True, "true", "True")
        ]

    def _component(self, item: Any, place: str) -> Mapping[str, Any]:
        if isinstance(item, str) and item.startswith("@") and isinstance(self.values.get(item[1:]), Mapping):
            item = self.values[item[1:]]
        if not isinstance(item, Mapping):
            item = self.resolve(item, place)
        if not isinstance(item, Mapping) or not isinstance(item.get("_target_"), str):
            self.refuse(place, "expected a transform with _target_")
        return item

    def with_values(self, values: Mapping[str, Any]) -> MonaiConfig:
        """The same with other values in some places, named as in a reference: `network_def::out_channels`.

        Raises
        ------
        BundleError
            There is no such place.
        """
        changed = copy.deepcopy(dict(self.values))
        for place, value in values.items():
            *parents, last = _parts(place)
            found: Any = changed
            for part in parents:
                found = _step(found, part)
            if isinstance(found, dict):
                found[last] = value
            elif isinstance(found, list) and last.isdigit() and int(last) < len(found):
                found[int(last)] = value
            else:
                self.refuse(place, "there is no such place, so that it cannot be set")
        return MonaiConfig(self.path, changed)

    def refuse(self, place: str, text: str) -> NoReturn:
        """Raise with file and place."""
        raise BundleError(f"{self.path}: {place}: {text}")

    def _resolved(self, value: Any, place: str, depth: int) -> Any:
        if depth > _DEEPEST:
            self.refuse(place, f"references go in circles, or values lie more than {_DEEPEST} deep")
        if isinstance(value, str):
            return self._text(value, place, depth)
        if isinstance(value, Mapping):
            if value.get("_disabled_") in (True, "true", "True"):
                return None
            return {
                str(key): self._resolved(item, f"{place}::{key}", depth + 1)
                for key, item in value.items()
                if key not in _REMARKS
            }
        if isinstance(value, list):
            return [self._resolved(item, f"{place}::{index}", depth + 1) for index, item in enumerate(value)]
        return value

    def _text(self, value: str, place: str, depth: int) -> Any:
        if value.startswith(("$", "%")):
            what = "the expression" if value[0] == "$" else "the macro"
            self.refuse(
                place,
                f"{what} {_short(value)} would have to be executed, which medseg never does; give its value with "
                f"--set {place}=VALUE",
            )
        if not value.startswith("@"):
            return value
        found: Any = self.values
        parts = _parts(value[1:])
        for part in parts:
            found = _step(found, part)
        if found is None:
            self.refuse(place, f"the reference {_short(value)} leads nowhere")
        return self._resolved(found, "::".join(parts), depth + 1)


def class_name(component: Any) -> str:
    """Last part of a component's `_target_`, "" where there is none."""
    target = component.get("_target_") if isinstance(component, Mapping) else None
    return target.rpartition(".")[2] if isinstance(target, str) else ""


def is_monai(component: Mapping[str, Any], module: str) -> bool:
    """Whether `_target_` is a bare name, or lies below a module of MONAI such as `monai.networks.nets`."""
    package = str(component["_target_"]).rpartition(".")[0]
    return package == "" or package == module or package.startswith(f"{module}.")


def read_inference_config(folder: Path) -> MonaiConfig:
    """The configuration for inference of a bundle folder.

    Raises
    ------
    BundleError
        There is none, or it is not JSON or YAML with keys at its top.
    """
    paths = [folder / CONFIGS / name for name in _NAMES]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise BundleError(
            f"{folder} has none of {', '.join(f'{CONFIGS}/{name}' for name in _NAMES)}; expected a MONAI bundle folder"
        )
    return read_config(path)


def read_config(path: Path) -> MonaiConfig:
    """A configuration file, JSON or YAML.

    Raises
    ------
    BundleError
        It cannot be read, is larger than 4 MiB, or holds no mapping.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path}: more than {_MOST_BYTES >> 20} MiB, no configuration")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise BundleError(f"{path} cannot be read: {getattr(err, 'strerror', None) or err}") from err
    value = _json(text, path) if path.suffix == ".json" else _yaml(text, path)
    if not isinstance(value, Mapping):
        raise BundleError(f"{path}: expected keys with values, found {type(value).__name__}")
    return MonaiConfig(path, {str(key): item for key, item in value.items()})


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{path} is not valid JSON: {err}") from err


def _yaml(text: str, path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, ValueError) as err:
        raise BundleError(f"{path} is not valid YAML: {' '.join(str(err).split())}") from err


def _parts(place: str) -> list[str]:
    return place.replace("#", "::").split("::")


def _step(value: Any, part: str) -> Any:
    """One step down; None where there is no such step."""
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list) and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
