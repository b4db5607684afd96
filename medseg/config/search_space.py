"""Whether what a search would try are settings: each value checked as if it stood in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medseg.config.document import KeyPath
from medseg.config.problems import SettingsError
from medseg.config.yaml_model import with_values
from medseg.data.options import FoldSplit, HoldoutSplit
from medseg.search.space import Parameter, parameters

if TYPE_CHECKING:
    from medseg.config.schema import PipelineConfig

# What a trial may change: what its training reads, and nothing that the data were checked with.
SEARCHED = ("model", "training", "augment", "preprocess", "inference")
_AUTO = "auto"
Found = list[tuple[KeyPath, str]]


def find_search_conflicts(config: PipelineConfig) -> Found:
    """What is wrong with the section `search` of settings that are valid otherwise.

    A value that is refused by itself and with every value of every other searched setting is wrong; one
    that goes with some is left to the trial that draws it.

    Returns
    -------
    list of (path, sentence)
        The key or choice to change, and why.
    """
    search = config.search
    if search is None:
        return []
    found = list(_needs(config))
    if config.training is None:
        return found
    keys = {("search", table, key): key for table in ("space", "settings") for key in getattr(search, table)}
    for place, key in keys.items():
        if key.partition(".")[0] not in SEARCHED:
            found.append((place, f"a search changes {', '.join(SEARCHED)}; `{key}` is none of them"))
    if found:
        return found
    plain = config.model_dump(mode="json")
    known = tuple(p for p in parameters(search.space) if not _undecided(plain, p.key))
    settings = {key: value for key, value in search.settings.items() if not _undecided(plain, key)}
    return _refused(_Checker(config), settings, known)


def _undecided(plain: Any, key: str) -> bool:
    """Whether the plan decides on a block that the key stands in, so that it cannot be checked before."""
    for part in key.split(".")[:-1]:
        plain = plain.get(part) if isinstance(plain, Mapping) else None
        if plain == _AUTO or (isinstance(plain, Mapping) and plain.get("use") == _AUTO):
            return True
    return False


def _needs(config: PipelineConfig) -> Iterator[tuple[KeyPath, str]]:
    """What a search needs from the other sections."""
    search, split = config.search, config.data.split
    if search is None:
        return
    if config.training is None:
        yield ("search",), "searches settings of the training, and there is no section `training`"
    if isinstance(split, HoldoutSplit) and split.validation == 0:
        yield ("search",), "compares trials on validation cases; give data.split.validation a share"
    if isinstance(split, FoldSplit) and split.validation != "next":
        yield ("search",), "compares trials on validation cases; set data.split.validation: next"
    structure = search.metric.removeprefix("dice_")
    known = (*config.labels, *config.regions)
    if structure != search.metric and structure not in known:
        text = f"no structure `{structure}`; known: {', '.join(f'dice_{name}' for name in known)}"
        yield ("search", "metric"), text


class _Checker:
    """Asks whether the settings with some other values are settings; the answer is a reason or None."""

    def __init__(self, config: PipelineConfig) -> None:
        self._plain = config.model_copy(update={"search": None})

    def __call__(self, values: Mapping[str, Any]) -> str | None:
        try:
            with_values(self._plain, values)
        except SettingsError as err:
            return refusal_text(err, values)
        return None


def refusal_text(err: SettingsError, values: Mapping[str, Any]) -> str:
    """Why values were refused, in one sentence; the key is left out where it is the only one."""
    only = next(iter(values)) if len(values) == 1 else None
    said = [p.text if p.path == only else f"{p.path}: {p.text}" for p in err.problems]
    more = f" (and {len(said) - 2} more)" if len(said) > 2 else ""
    return "; ".join(said[:2]) + more


def _refused(why: _Checker, settings: Mapping[str, Any], space: tuple[Parameter, ...]) -> Found:
    found: Found = []
    for key, value in settings.items():
        reason = why({key: value}) and why(settings)
        if reason:
            found.append((("search", "settings", key), reason))
    if found:
        return found
    for parameter in space:
        found += _twice(parameter)
        for index, value in enumerate(parameter.samples()):
            reason = _reason(why, {**settings, parameter.key: value}, parameter, space)
            if reason is not None:
                found.append((_place(parameter, index), reason))
    return _joined(found)


def _reason(
    why: _Checker, values: Mapping[str, Any], parameter: Parameter, space: tuple[Parameter, ...]
) -> str | None:
    """Why a value cannot be used, or None where it can be with some value of another setting."""
    if values[parameter.key] in (_AUTO, {"use": _AUTO}):
        return "a search tries values, and `auto` is none: the plan decides once, before the search"
    alone = why(values)
    if alone is None:
        return None
    partners = (
        {**values, other.key: sample}
        for other in space
        if other.key != parameter.key
        for sample in other.samples()
    )
    if any(why(pair) is None for pair in partners):
        return None
    return why({parameter.key: values[parameter.key]}) or alone


def _place(parameter: Parameter, index: int) -> KeyPath:
    here: KeyPath = ("search", "space", parameter.key)
    return (*here, "choices", index) if parameter.labels else (*here, ("low", "high")[index])


def _twice(parameter: Parameter) -> Found:
    counts = Counter(parameter.labels)
    text = "stands twice, or two choices look the same: {}"
    return [
        (("search", "space", parameter.key, "choices"), text.format(label))
        for label, count in counts.items()
        if count > 1
    ]


def _joined(found: Found) -> Found:
    """One finding at the key where all of its values are refused for the same reason, such as its name."""
    reasons: dict[KeyPath, list[str]] = {}
    for path, text in found:
        reasons.setdefault(path[:3], []).append(text)
    whole = {path for path, texts in reasons.items() if len(texts) > 1 and len(set(texts)) == 1}
    kept = [(path, text) for path, text in found if path[:3] not in whole]
    return [*kept, *((path, reasons[path][0]) for path in whole)]
