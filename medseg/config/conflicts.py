"""Settings that are right by themselves and do not go together: names, numbers of axes, missing parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from medseg.config.document import KeyPath
from medseg.config.problems import nearest
from medseg.data.options import FolderSource, FoldSplit, HoldoutSplit, PhantomSource
from medseg.errors import ConfigError
from medseg.labels import BACKGROUND
from medseg.models.options import check_window

AUTO = "auto"
RESERVED_NAMES = frozenset({BACKGROUND, "all", "none", "other", "ignore"})
Found = Iterator[tuple[KeyPath, str]]
Sections = Mapping[str, Any]


def find_conflicts(sections: Sections) -> list[tuple[KeyPath, str]]:
    """All conflicts among the sections of a run.

    Parameters
    ----------
    sections : mapping of str to object
        Valid top-level values of a PipelineConfig by name. A check whose sections are not all there is
        left out, so that conflicts are found beside other mistakes.

    Returns
    -------
    list of (path, sentence)
        The setting to change and what is wrong with it.
    """
    found: list[tuple[KeyPath, str]] = []
    for needed, check in _CHECKS:
        if all(name in sections for name in needed):
            found += check(sections)
    return found


def _label_values(s: Sections) -> Found:
    taken: dict[int, str] = {}
    for name, label in s["labels"].items():
        if name in RESERVED_NAMES:
            yield ("labels", name), f"`{name}` has a meaning of its own; choose another name"
        first = taken.setdefault(label.value, name)
        if first != name:
            yield ("labels", name, "value"), f"the value {label.value} is that of {first}"
        if label.value == s["ignore_value"]:
            yield ("labels", name, "value"), f"the value {label.value} is ignore_value"


def _pairs(s: Sections) -> Found:
    labels = s["labels"]
    for name, label in labels.items():
        place = ("labels", name, "pair")
        if label.pair is None:
            continue
        if label.pair not in labels or label.pair == name:
            others = [n for n in labels if n != name]
            yield place, f"{_no_label(label.pair, others)}; a pair is the label on the other side"
        elif labels[label.pair].pair != name:
            yield place, f"{label.pair} does not name it back; add `pair: {name}` to {label.pair}"
        elif {label.side, labels[label.pair].side} not in ({"left", "right"}, {"none"}):
            sides = f"{label.side} and {labels[label.pair].side}"
            yield place, f"the sides of a pair are left and right, found {sides} (in {label.pair})"


def _regions(s: Sections) -> Found:
    for name, members in s["regions"].items():
        if name in s["labels"] or name in RESERVED_NAMES:
            yield ("regions", name), f"`{name}` is taken; choose another name for the region"
        if len(set(members)) != len(members):
            yield ("regions", name), "a label stands twice"
        yield from _names(("regions", name), members, tuple(s["labels"]))


def _schemes(s: Sections) -> Found:
    known = (BACKGROUND, *s["labels"])
    pairs = [{name, label.pair} for name, label in s["labels"].items() if label.pair]
    for name, scheme in s["label_schemes"].items():
        place: KeyPath = ("label_schemes", name)
        for value, members in scheme.members.items():
            yield from _names(
                (*place, "values", str(value)), members, known, single=isinstance(scheme.values[value], str)
            )
            if value == s["ignore_value"]:
                yield (*place, "values", str(value)), f"the value {value} is ignore_value"
        if scheme.sides_by_position and not any(p <= set(m) for m in scheme.members.values() for p in pairs):
            text = "needs a value that names a left label and its pair on the right"
            yield (*place, "sides_by_position"), text
        for label in scheme.medial_open:
            opened: KeyPath = (*place, "medial_open", label)
            if label not in s["labels"]:
                yield opened, _no_label(label, tuple(s["labels"]))
            elif s["labels"][label].side not in ("left", "right"):
                yield opened, f"`{label}` has no side; its midline end is known for left and right labels"


def _source_scheme(s: Sections) -> Found:
    source = s["data"].source
    scheme = source.scheme if isinstance(source, FolderSource) else None
    if scheme is not None and scheme not in s["label_schemes"]:
        known = ", ".join(s["label_schemes"]) or "none"
        yield ("data", "source", "scheme"), f"label_schemes has no `{scheme}`; it has: {known}"


def _postprocess(s: Sections) -> Found:
    regions = tuple(s["regions"])
    for index, step in enumerate(() if s["postprocess"] == "auto" else s["postprocess"]):
        if step.labels == "all":
            continue
        allowed = tuple(s["labels"]) if step.use == "fill_holes" else (*s["labels"], *regions)
        yield from _names(("postprocess", index, "labels"), step.labels, allowed)


def _structures(s: Sections) -> Found:
    known = (*s["labels"], *s["regions"])
    evaluation = s["evaluation"]
    if evaluation.structures != "all":
        yield from _names(("evaluation", "structures"), evaluation.structures, known)
    yield from _names(("evaluation", "mean_iou"), evaluation.pooled, known)
    for name in evaluation.require:
        if name not in known:
            yield ("evaluation", "require", name), _no_label(name, known)


def _refine(s: Sections) -> Found:
    refine = s["inference"].refine
    if refine is not None and refine.labels != "all":
        known = (*s["labels"], *s["regions"])
        yield from _names(("inference", "refine", "labels"), refine.labels, known)


def _expected(s: Sections) -> Found:
    expected = s["flags"].expected
    if expected != "all":
        yield from _names(("flags", "expected"), expected, tuple(s["labels"]))


def _class_weights(s: Sections) -> Found:
    if s["training"] is None:
        return
    known = (BACKGROUND, *s["labels"], *s["regions"])
    for name in s["training"].loss.class_weights:
        if name not in known:
            yield ("training", "loss", "class_weights", name), _no_label(name, known)


def _codes(s: Sections) -> Found:
    if "dicom_seg" not in s["export"]:
        return
    for name, label in s["labels"].items():
        if label.code is None:
            text = "DICOM SEG needs a coded concept; add code: {scheme: SCT, value: ..., meaning: ...}"
            yield ("labels", name), f"{text}, or leave dicom_seg out of export"


def _reports(s: Sections) -> Found:
    """A measurement report refers to a SEG and needs numbers that have a code."""
    if "measurement_sr" not in s["export"]:
        return
    where = ("export", s["export"].index("measurement_sr"))
    if "dicom_seg" not in s["export"]:
        yield where, "measurement_sr refers to the segments of a DICOM SEG; add dicom_seg to export"
    coded = ("area", "volume", "long_axis", "intensity", "width")
    if not set(coded) & set(s["measure"]):
        yield where, f"measurement_sr needs a number to report; add one of {', '.join(coded)} to measure"


def _sent(s: Sections) -> Found:
    """What is sent must be written."""
    if s["pacs"] is None:
        return
    for index, name in enumerate(s["pacs"].send):
        if name not in s["export"]:
            yield ("pacs", "send", index), f"{name} is not written; add {name} to export"


def _targets(s: Sections) -> Found:
    """What tells, draws or judges targets needs to know which they are."""
    recognise = s["recognise"]
    if recognise is None:
        for index, name in enumerate(s["export"]):
            if name in ("instance_seg", "instance_sr", "coco"):
                yield ("export", index), f"{name} holds recognised targets; add a section recognise"
        if s["evaluation"].detection is not None:
            yield ("evaluation", "detection"), "judges recognised targets; add a section recognise"
    elif recognise.labels != "all":
        yield from _names(("recognise", "labels"), recognise.labels, (*s["labels"], *s["regions"]))
    if "instance_sr" in s["export"] and "instance_seg" not in s["export"]:
        where = ("export", s["export"].index("instance_sr"))
        yield where, "instance_sr refers to the segments of instance_seg; add instance_seg to export"


def _measures(s: Sections) -> Found:
    paired = any(label.pair for label in s["labels"].values())
    for index, name in enumerate(s["measure"]):
        if name == "left_right_ratio" and not paired:
            yield ("measure", index), "left_right_ratio needs two labels that name each other as pair"


def _axes(s: Sections) -> Found:
    """Sizes, windows and directions must agree on the number of axes."""
    lengths = list(_lengths(s))
    if isinstance(s["data"].source, PhantomSource):
        dims, origin = 2, f"data.source makes {s['data'].source.recipe} images"
    elif lengths:
        (path, dims) = lengths[0]
        origin = ".".join(str(part) for part in path)
    else:
        return
    for path, length in lengths:
        if length != dims:
            yield path, f"has {length} axes where {origin} has {dims}"
    too_far = [axis for axis in s["inference"].flip_axes if axis >= dims]
    if too_far:
        yield ("inference", "flip_axes"), f"axis {too_far[0]} does not exist; the axes are 0 to {dims - 1}"


def _lengths(s: Sections) -> Iterator[tuple[KeyPath, int]]:
    for section in ("preprocess", "augment"):
        for index, step in enumerate(_steps(s[section])):
            for key in ("size", "start", "spacing_mm", "to"):
                value = getattr(step, key, None)
                if isinstance(value, tuple if key != "to" else str):
                    yield (section, index, key), len(value)
    for path, size in (
        (("inference", "window"), s["inference"].window),
        (("training", "patch_size"), s["training"] and s["training"].patch_size),
    ):
        if isinstance(size, tuple):
            yield path, len(size)
    for name, count in getattr(s["model"], "axes_by_field", {}).items():
        yield ("model", name), count


def _steps(section: Any) -> tuple[Any, ...]:
    """The steps of a section, none where the plan decides on them."""
    return () if section == AUTO else section


def _window(s: Sections) -> Found:
    """The network's levels must fit into what it is shown."""
    if s["model"].use == AUTO:
        return
    sizes = [
        (("preprocess", i, "size"), step.size)
        for i, step in enumerate(_steps(s["preprocess"]))
        if step.use == "resize"
    ]
    shown: list[tuple[KeyPath, tuple[int, ...]]] = [*sizes[-1:]]
    patch = s["training"] and s["training"].patch_size
    if isinstance(patch, tuple):
        shown = [(("training", "patch_size"), patch)]
    if isinstance(s["inference"].window, tuple):
        shown = [(("inference", "window"), s["inference"].window)]
    axes = set(s["model"].axes_by_field.values())
    for path, window in shown:
        if axes - {len(window)}:
            continue  # Told by `_axes`.
        try:
            check_window(s["model"], window)
        except ConfigError as err:
            yield path, str(err)


def _weights(s: Sections) -> Found:
    """Without training the weights must come from somewhere."""
    if s["training"] is None and s["model"].start_from is None:
        text = "says neither start_from (a trained model) nor is there a `training` that makes one"
        yield ("model",), text


def _probe(s: Sections) -> Found:
    """The number of epochs is fitted to a measured speed."""
    if s["training"] is not None and s["training"].epochs == AUTO and not s["budget"].probe:
        text = "auto is fitted to the speed that the probe measures; give a number, or budget.probe: true"
        yield ("training", "epochs"), text


def _parts(s: Sections) -> Found:
    """What the training and the evaluation look at must have a share of the cases."""
    split = s["data"].split
    if isinstance(split, FoldSplit):
        yield from _folds(split, s)
    if not isinstance(split, HoldoutSplit):
        return
    if split.validation == 0:
        yield from _unchosen(s["training"], "validation", "needs validation cases; give them a share")
    evaluated = s["evaluation"].cases
    if evaluated in ("test", "validation") and getattr(split, evaluated) == 0:
        yield ("data", "split", evaluated), f"evaluation.cases is {evaluated}, but the share is 0"


def _folds(split: FoldSplit, s: Sections) -> Found:
    """A fold that is tested chooses nothing, and every fold is evaluated by the network that never saw it."""
    if split.validation != "next":
        text = "lets no case choose" if split.validation == "none" else "only watches the tested fold"
        yield from _unchosen(
            s["training"], "validation", f"needs validation: next; {split.validation} {text}"
        )
    if split.fold != "all":
        return
    if s["training"] is None:
        yield ("data", "split", "fold"), "all trains every fold, but there is no `training`"
    evaluated = s["evaluation"].cases
    if evaluated not in ("test", "all"):
        text = f"is {evaluated}; with data.split.fold: all every case is a test case of its fold, so say test"
        yield ("evaluation", "cases"), text


def _unchosen(training: Any, key: str, why: str) -> Found:
    """Settings of the training that choose among epochs, where no case may choose."""
    if training is None:
        return
    if training.keep == "best":
        yield ("data", "split", key), f"training.keep: best {why}, or keep: last"
    if training.early_stop is not None:
        yield ("data", "split", key), f"training.early_stop {why}"


def _names(path: KeyPath, members: tuple[str, ...], known: tuple[str, ...], *, single: bool = False) -> Found:
    for index, name in enumerate(members):
        if name not in known:
            yield (path if single else (*path, index)), _no_label(name, known)


def _no_label(name: str, known: tuple[str, ...] | list[str]) -> str:
    guess = nearest(name, known)
    return (
        f"no label `{name}`, did you mean `{guess}`?"
        if guess
        else f"no label `{name}`; known: {', '.join(known)}"
    )


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Sections], Found]], ...] = (
    (("labels", "ignore_value"), _label_values),
    (("labels",), _pairs),
    (("labels", "regions"), _regions),
    (("labels", "label_schemes", "ignore_value"), _schemes),
    (("data", "label_schemes"), _source_scheme),
    (("labels", "regions", "postprocess"), _postprocess),
    (("labels", "regions", "evaluation"), _structures),
    (("labels", "regions", "inference"), _refine),
    (("labels", "regions", "training"), _class_weights),
    (("labels", "flags"), _expected),
    (("labels", "export"), _codes),
    (("export", "measure"), _reports),
    (("export", "pacs"), _sent),
    (("labels", "measure"), _measures),
    (("labels", "regions", "export", "evaluation", "recognise"), _targets),
    (("data", "preprocess", "augment", "inference", "training", "model"), _axes),
    (("preprocess", "inference", "training", "model"), _window),
    (("training", "model"), _weights),
    (("data", "training", "evaluation"), _parts),
    (("training", "budget"), _probe),
)
