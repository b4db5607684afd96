"""`medseg evaluate --compare RUN_A RUN_B`: two evaluations of the same cases, paired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medseg.data.tables import write_csv
from medseg.errors import ConfigError, StorageError
from medseg.evaluation.cases import CaseEvaluation
from medseg.evaluation.compare import Comparison, PairedDifference, compare
from medseg.evaluation.options import EvaluationOptions
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.pipeline.summary_table import main_metrics
from medseg.provenance import sha256_file, write_json, write_text
from medseg.report.cohort import render_comparison
from medseg.report.cohort_text import words
from medseg.report.language import Language


def compare_runs(
    first: Path,
    second: Path,
    output: Path | None,
    *,
    language: Language = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Compare two evaluations case by case.

    Parameters
    ----------
    first, second : Path
        Run folders, or folders that `medseg evaluate --prediction` wrote. The metrics are those of both.
    output : Path or None
        Folder for comparison.csv, comparison.json and comparison.html; nothing is written unless given.
    language : {"en", "zh"}
        Of the page.
    reporter : Reporter, optional

    Raises
    ------
    ConfigError
        Different tolerances, references or patients, or no case in common.
    StorageError
        There is no evaluation in a folder, or it is damaged.
    """
    reporter = reporter or SilentReporter()
    found, folders = _compared(first, second)
    reporter.table("", *_table(found))
    if output is not None:
        _write(output, found, folders, names=_names(first, second), language=language)
    lines = [f"only in {path}: {len(ids)} cases, not compared" for path, ids in _alone(found, first, second)]
    lines += _verdicts(found)
    lines.append(
        f"{found.cases} cases of {found.patients} patients compared; differences are second minus first"
    )
    return Result(path=output, lines=tuple(lines), facts={"comparison": found.to_json()})


def compare_folders(first: Path, second: Path) -> dict[str, Any]:
    """Two evaluations as comparison.json holds them, with the names of their folders; nothing is written.

    Raises
    ------
    ConfigError, StorageError
        As `compare_runs`.
    """
    found, folders = _compared(first, second)
    return _record(found, folders, _names(first, second))


def _compared(first: Path, second: Path) -> tuple[Comparison, list[Path]]:
    folders = [_evaluation(path) for path in (first, second)]
    return compare(_cases(folders[0]), _cases(folders[1]), _common_settings(folders)), folders


def _names(first: Path, second: Path) -> list[str]:
    """Names that tell the two apart: of the folders, or of those above where they are the same."""
    one, two = first.resolve(), second.resolve()
    return [path.name if one.name != two.name else f"{path.parent.name}/{path.name}" for path in (one, two)]


def _record(found: Comparison, folders: list[Path], names: list[str]) -> dict[str, Any]:
    hashes = [sha256_file(folder / "cases.json") for folder in folders]
    return found.to_json() | {"names": names, "cases_sha256": hashes}


def _evaluation(path: Path) -> Path:
    for folder in (path / "evaluation", path):
        if (folder / "cases.json").is_file():
            return folder
    raise StorageError(f"{path}: no evaluation in it (evaluation/cases.json); run medseg evaluate first")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise StorageError(f"{path} cannot be read: {err}; evaluate again") from err


def _cases(folder: Path) -> list[CaseEvaluation]:
    try:
        return [CaseEvaluation.from_json(item) for item in _read(folder / "cases.json")]
    except (KeyError, TypeError, AttributeError) as err:
        raise StorageError(f"{folder / 'cases.json'} is damaged: {err}; evaluate again") from err


def _common_settings(folders: list[Path]) -> EvaluationOptions:
    """Settings of the first with the metrics that both have; refuses other tolerances."""
    both = [EvaluationOptions.model_validate(_settings(folder)) for folder in folders]
    own = dict(both[1].keyed)
    shared = []
    for key, metric in both[0].keyed:
        if key not in own:
            continue
        if own[key] != metric:
            raise ConfigError(
                f"{key} was computed in two ways: {metric.model_dump(mode='json')} and "
                f"{own[key].model_dump(mode='json')}; evaluate both with the same settings"
            )
        shared.append(metric)
    if not shared:
        raise ConfigError(
            "the two evaluations have no metric in common; evaluate both with the same settings"
        )
    return both[0].model_copy(update={"metrics": tuple(shared), "require": {}, "by": ()})


def _settings(folder: Path) -> dict[str, Any]:
    summary = _read(folder / "summary.json")
    if not isinstance(summary, dict) or "settings" not in summary:
        raise StorageError(f"{folder / 'summary.json'} does not tell its settings; evaluate again")
    settings: dict[str, Any] = summary["settings"]
    return settings


def _alone(found: Comparison, first: Path, second: Path) -> list[tuple[Path, tuple[str, ...]]]:
    pairs = [(first, found.only_first), (second, found.only_second)]
    return [(path, ids) for path, ids in pairs if ids]


def _verdicts(found: Comparison) -> list[str]:
    """What differs after the adjustment for all that was compared."""
    alpha = 1 - found.level
    sure = [d for d in found.differences if d.wilcoxon_holm is not None and d.wilcoxon_holm < alpha]
    if not sure:
        return [
            f"no difference holds at {alpha:.2g} after Holm's adjustment over {len(found.differences)} comparisons"
        ]
    return [
        f"{d.metric} of {d.structure}: {d.mean_difference:+.4g} (adjusted p {d.wilcoxon_holm:.2g})"
        for d in sure
    ]


def _table(found: Comparison) -> tuple[list[str], list[tuple[str, ...]]]:
    shown = main_metrics(list(dict.fromkeys(d.metric for d in found.differences)))
    columns = [
        "structure",
        "metric",
        "first",
        "second",
        f"difference ({found.level:.0%})",
        "p",
        "p adjusted",
        "cases",
    ]
    return columns, [_row(d) for d in found.differences if d.metric in shown]


def _row(d: PairedDifference) -> tuple[str, ...]:
    spread = "" if d.interval is None else f" ({d.interval[0]:+.3g} to {d.interval[1]:+.3g})"
    p_values = ["not defined" if p is None else f"{p:.2g}" for p in (d.wilcoxon_p, d.wilcoxon_holm)]
    unit = "" if d.unit == "1" else f" {d.unit}"
    return (
        d.structure,
        d.metric,
        f"{d.mean_first:.3f}{unit}",
        f"{d.mean_second:.3f}{unit}",
        f"{d.mean_difference:+.4g}{spread}",
        *p_values,
        str(d.count),
    )


def _write(
    output: Path, found: Comparison, folders: list[Path], *, names: list[str], language: Language
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "comparison.csv", [d.row() for d in found.differences])
    record = _record(found, folders, names)
    write_json(output / "comparison.json", record)
    title = words(language)["comparison_title"]
    write_text(output / "comparison.html", render_comparison(record, title=title, language=language))
