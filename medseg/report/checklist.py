"""The reporting checklist of a cohort: what the run tells of each item, and honestly what it does not.

Item numbers are those of CLAIM (Mongan, Moy and Kahn, Radiology: Artificial Intelligence 2020,
doi:10.1148/ryai.2020200029); entries that begin with s are points of STARD-AI (Sounderajah et al., Nature Medicine
2025, doi:10.1038/s41591-025-03953-8). The words, in language/*/checklist.json, are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medseg.report.cohort_text import Words, nice
from medseg.report.language import Language, text
from medseg.report.page import VERDICTS, CohortReport
from medseg.report.text import step_text

ITEMS: tuple[tuple[str, str], ...] = (
    ("1", "technology"), ("2", ""), ("3", "intended_use"), ("4", ""), ("5", ""),
    ("6", ""), ("7", "sources"), ("8", ""), ("9", "preprocessing"), ("10", "subsets"),
    ("11", "labels"), ("12", ""), ("13", "missing"), ("14", ""), ("15", ""),
    ("16", ""), ("17", ""), ("18", ""), ("19", ""), ("20", "partitions"),
    ("21", "disjoint"), ("22", "model"), ("23", "software"), ("24", "initial"), ("25", "training"),
    ("26", "selection"), ("27", "ensemble"), ("28", "metrics"), ("29", "uncertainty"), ("30", ""),
    ("31", ""), ("32", ""), ("33", "flow"), ("34", "groups"), ("35", "results"),
    ("36", "precision"), ("37", "failures"), ("38", ""), ("39", ""), ("40", ""),
    ("41", "protocol"), ("42", ""), ("s1", "fairness"), ("s2", "indeterminate"), ("s3", "threshold"),
    ("s4", "version"),
)  # fmt: skip
"""Item, and the key of what may answer it; "" where only a person can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item with its answer; `known` where the run tells it, and then `text` is what it tells."""

    number: str
    topic: str
    known: bool
    text: str


def checklist(report: CohortReport, words: Words) -> tuple[Entry, ...]:
    """All items in order.

    Parameters
    ----------
    report : CohortReport
    words : mapping
        Of its language.
    """
    facts, known = _Facts(report), text(report.language)
    entries = []
    for item, key in ITEMS:
        found = facts.of(key) if key else None
        tell = words["tell"].format(what=known[f"checklist.{item}.tell"])
        said = (
            f"{words['reported']}{words['colon']}{found}"
            if found
            else f"{words['not_known']}{words['colon']}{tell}"
        )
        number = "" if item.startswith("s") else item
        topic = known[f"checklist.{item}.topic"]
        entries.append(Entry(number=number, topic=topic, known=bool(found), text=said))
    return tuple(entries)


class _Facts:
    """What a report knows, by the key of an item; None for what it does not."""

    def __init__(self, report: CohortReport) -> None:
        self.report = report
        self.language: Language = report.language
        self.options: Mapping[str, Any] = report.options or {}
        self.summary: Mapping[str, Any] = report.summary or {}
        self.makers: Mapping[str, Callable[[], Mapping[str, Any] | None]] = {
            "technology": self._network,
            "intended_use": self._intended,
            "sources": self._sources,
            "preprocessing": self._preprocessing,
            "subsets": self._subsets,
            "labels": self._labels,
            "missing": self._missing,
            "partitions": self._partitions,
            "disjoint": self._disjoint,
            "model": self._network,
            "software": self._software,
            "initial": self._initial,
            "training": self._training,
            "selection": self._selection,
            "ensemble": self._ensemble,
            "metrics": self._metrics,
            "uncertainty": self._uncertainty,
            "flow": self._flow,
            "groups": self._groups,
            "results": self._results,
            "precision": self._precision,
            "failures": self._failures,
            "protocol": self._protocol,
            "fairness": self._fairness,
            "indeterminate": self._indeterminate,
            "threshold": self._threshold,
            "version": self._version,
        }

    def of(self, key: str) -> str | None:
        """The answer in words."""
        maker = self.makers.get(key)
        found = None if maker is None else maker()
        return None if found is None else self._say(key, **found)

    def _say(self, key: str, **found: Any) -> str:
        return text(self.language)[f"checklist.answer.{key}"].format(**found)

    def _model(self) -> Mapping[str, Any]:
        return self.report.cases[0].record["model"] if self.report.cases else {}

    def _network(self) -> Mapping[str, Any] | None:
        name = self.options.get("model", {}).get("use") or self.report.facts.get("network")
        return {"network": name} if name else None

    def _intended(self) -> Mapping[str, Any] | None:
        use = self.report.facts.get("intended_use")
        return {"text": use} if use else None

    def _sources(self) -> Mapping[str, Any] | None:
        source = self.report.facts.get("source")
        patients = len({case.patient for case in self.report.cases})
        return {"source": source, "cases": len(self.report.cases), "patients": patients} if source else None

    def _preprocessing(self) -> Mapping[str, Any] | None:
        steps = self.options.get("preprocess")
        return {"steps": "; ".join(step_text(step) for step in steps)} if steps else None

    def _usable(self) -> int:
        return sum(self.report.splits.values())

    def _subsets(self) -> Mapping[str, Any] | None:
        return {"evaluated": len(self.report.cases), "cases": self._usable()} if self._usable() else None

    def _labels(self) -> Mapping[str, Any] | None:
        labels = self.options.get("labels")
        if not labels:
            return None
        codes = [
            f"{nice(name)} ({label['code']['scheme']} {label['code']['value']})"
            if label.get("code")
            else nice(name)
            for name, label in labels.items()
        ]
        return {"labels": ", ".join(codes)} if any("(" in label for label in codes) else None

    def _missing(self) -> Mapping[str, Any] | None:
        if not self.summary:
            return None
        return {"refused": len(self.report.refused), "not_judged": len(self.summary["not_judged"])}

    def _splits(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.report.splits.items() if count)

    def _partitions(self) -> Mapping[str, Any] | None:
        split = self.options.get("data", {}).get("split")
        if not split or not self._splits():
            return None
        said = [
            f"{nice(k)} {v}" for k, v in split.items() if isinstance(v, str | int) and not isinstance(v, bool)
        ]
        return {"splits": self._splits(), "how": ", ".join(said)}

    def _disjoint(self) -> Mapping[str, Any] | None:
        leakage = self.summary.get("leakage")
        if not leakage or not leakage["checked"]:
            return None
        own, count = leakage["training_cases_evaluated"], leakage["evaluated"]
        said = self._say("leak_own", own=own, n=count) if own else self._say("leak_ok", n=count)
        return {"leakage": said}

    def _software(self) -> Mapping[str, Any] | None:
        shown = [f"{name} {value}" for name, value in self.report.versions.items()]
        return {"versions": ", ".join(shown)} if shown else None

    def _initial(self) -> Mapping[str, Any] | None:
        start = self.report.facts.get("start")
        return {"start": start} if start and self.report.training else None

    def _training(self) -> Mapping[str, Any] | None:
        trained = self.report.training
        return None if not trained else {"epochs": trained.get("epochs", "?")}

    def _selection(self) -> Mapping[str, Any] | None:
        training = self.options.get("training")
        if not training or not self.report.training:
            return None
        metric = training["metric"]
        best = training["keep"] == "best"
        return {"kept": self._say("best", metric=metric) if best else self._say("last")}

    def _ensemble(self) -> Mapping[str, Any] | None:
        members = self.report.facts.get("members")
        return {"members": members} if members else None

    def _metrics(self) -> Mapping[str, Any] | None:
        definitions = self.summary.get("definitions")
        return {"names": ", ".join(d["title"] for d in definitions.values())} if definitions else None

    def _uncertainty(self) -> Mapping[str, Any] | None:
        settings = self.summary.get("settings")
        return {"level": f"{settings['level']:.0%}", "samples": settings["samples"]} if settings else None

    def _flow(self) -> Mapping[str, Any] | None:
        if not self._usable():
            return None
        numbers = {
            "cases": self._usable(),
            "refused": len(self.report.refused),
            "done": len(self.report.cases),
        }
        return {**numbers, "splits": self._splits()}

    def _columns(self) -> str:
        return ", ".join(self.summary.get("groups", {}))

    def _groups(self) -> Mapping[str, Any] | None:
        return {"columns": self._columns()} if self._columns() else None

    def _which(self) -> str:
        return nice(self.options.get("evaluation", {}).get("cases", "")) or str(self.summary.get("cases", ""))

    def _results(self) -> Mapping[str, Any] | None:
        return {"which": self._which()} if self.summary else None

    def _precision(self) -> Mapping[str, Any] | None:
        found = [
            f"{nice(name)} Dice {s['mean']:.3f} ({s['mean_interval'][0]:.3f}-{s['mean_interval'][1]:.3f})"
            for name, metrics in self.summary.get("structures", {}).items()
            if (s := metrics.get("dice")) and s["mean"] is not None and s["mean_interval"] is not None
        ]
        return {"text": "; ".join(found)} if found else None

    def _failures(self) -> Mapping[str, Any] | None:
        if not self.report.cases:
            return None
        flagged = sum(case.verdict != "pass" for case in self.report.cases)
        missed, invented = (len(self.summary.get(key, ())) for key in ("missed", "false_positives"))
        return {"flagged": flagged, "cases": len(self.report.cases), "missed": missed, "invented": invented}

    def _protocol(self) -> Mapping[str, Any] | None:
        digest = self.report.settings_sha256
        return {"digest": f"{digest[:16]}…"} if digest else None

    def _fairness(self) -> Mapping[str, Any] | None:
        if not self._columns():
            return None
        gaps = [
            f"{nice(g['structure'])} {g['column']} {g['group']}"
            for g in self.summary.get("gaps", ())
            if g["finding"] == "worse"
        ]
        return {"columns": self._columns(), "gaps": "; ".join(dict.fromkeys(gaps)) or "0"}

    def _indeterminate(self) -> Mapping[str, Any] | None:
        counts = Counter(case.verdict for case in self.report.cases)
        said = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS)
        return {"refused": len(self.report.refused), "verdicts": said} if self.report.cases else None

    def _threshold(self) -> Mapping[str, Any] | None:
        if not self.options:
            return None
        codes = {check["code"] for case in self.report.cases for check in case.record["checks"]}
        return {"codes": len(codes), "required": len(self.summary.get("requirements", ()))}

    def _version(self) -> Mapping[str, Any] | None:
        model = self._model()
        if not model:
            return None
        weights = f"{model['weights_sha256'][:16]}…"
        return {"name": model["name"], "version": model["version"], "weights": weights}
