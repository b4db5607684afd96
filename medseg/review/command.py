"""`medseg review`: rank results, send cases out for correction, take corrected masks back."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medseg.data.tables import write_csv
from medseg.errors import ConfigError, InputError, MedsegError, StorageError
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.pipeline.run_folder import held
from medseg.privacy import safe_name
from medseg.review.decide import REVIEWED
from medseg.review.export import Exported, export_cases
from medseg.review.images import find_origin
from medseg.review.options import ReviewOptions
from medseg.review.ranking import FAILED, RankedCase, rank_cases
from medseg.review.results import Results, read_results
from medseg.review.take_back import take_back
from medseg.review.versions import Version, latest_version
from medseg.review.viewers import TITLES, command_text, find_program, open_case, viewer_command

FOLDER = "review"
LIST = "review.csv"
_SHOWN = 30


def review(path: Path, options: ReviewOptions, *, reporter: Reporter | None = None) -> Result:
    """Rank the cases of a run or of predictions, and do what the options ask for.

    Writes review.csv; with `export` or `open_with` the folders of cases (see `export`), with `take_back` or sign-offs
    the next version of the manifest (see `versions`) and settings that fine-tune on it.

    Parameters
    ----------
    path : Path
        Run folder, or output of `medseg predict`.
    options : ReviewOptions
    reporter : Reporter, optional

    Returns
    -------
    Result
        Exit code 1 where some cases failed, 3 where all of those did that were exported or came back.

    Raises
    ------
    MedsegError
        What concerns all cases: the folder, the command, the disk.
    """
    reporter = reporter or SilentReporter()
    taking = options.take_back is not None or bool(options.signoffs)
    if taking and (options.export is not None or options.open_with is not None):
        raise ConfigError(
            "--import and --signoff take masks back, --export and --open send them out; give one of the two"
        )
    results = read_results(path)
    home = options.output or path / FOLDER
    if home in {case.folder for case in results.cases.values()}:
        raise ConfigError(f"{home} is the folder of a case; choose another one with --output")
    ranked = rank_cases({i: case.record for i, case in results.cases.items()}, results.failures)
    with _held(home):
        version = latest_version(home)
        done = {} if version is None else _reviewed(version)
        rows = [case.row(n) | {REVIEWED: done.get(case.case_id, "")} for n, case in enumerate(ranked, 1)]
        write_csv(home / LIST, rows)
        if taking:
            return take_back(results, home, options, reporter=reporter)
    if options.export is not None or options.open_with is not None:
        return _send_out(results, ranked, done, options, reporter, home)
    reporter.table("", *_table(ranked, done))
    return Result(path=home / LIST, lines=_told(ranked, done), facts={"cases": rows})


@contextlib.contextmanager
def _held(home: Path) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(
            f"cannot make {home}: {err.strerror or err}; name another folder with --output"
        ) from err
    with held(home):
        yield


def _reviewed(version: Version) -> dict[str, str]:
    """Case id -> what became of it in the latest version that spoke of it."""
    return {str(k): str(v) for k, v in version.record.get("reviewed", {}).items()}


def _table(ranked: Sequence[RankedCase], done: Mapping[str, str]) -> tuple[list[str], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = [
        (str(number), case.case_id, case.level, f"{case.score:.2f}", done.get(case.case_id, ""), _short(case))
        for number, case in enumerate(ranked[:_SHOWN], start=1)
    ]
    return ["#", "case", "level", "score", "reviewed", "why"], rows


def _short(case: RankedCase) -> str:
    """Flags without their level, and doubt in numbers; review.csv has it in words."""
    if case.level == FAILED:
        return case.because
    codes = [" ".join(word for n, word in enumerate(flag.split(" ")) if n != 1) for flag in case.flags]
    numbers = [("doubt", case.uncertainty), ("disagreement", case.disagreement)]
    return ", ".join([*codes, *(f"{name} {value:.2f}" for name, value in numbers if value is not None)])


def _told(ranked: Sequence[RankedCase], done: Mapping[str, str]) -> tuple[str, ...]:
    counts = Counter(case.level for case in ranked)
    levels = ", ".join(
        f"{counts[level]} {level}" for level in (FAILED, "fail", "review", "note", "pass") if counts[level]
    )
    more = [f"{len(ranked) - _SHOWN} more are listed in {LIST}"] if len(ranked) > _SHOWN else []
    seen = [f"{len(done)} were reviewed before"] if done else []
    return (f"{len(ranked)} cases: {levels}", *more, *seen)


def _send_out(
    results: Results,
    ranked: Sequence[RankedCase],
    done: Mapping[str, str],
    options: ReviewOptions,
    reporter: Reporter,
    home: Path,
) -> Result:
    """Export the chosen cases and open them where that is asked for."""
    program = find_program(options.open_with) if options.open_with is not None else ""
    wanted = {case.case_id for case in results.named(options.cases)}
    chosen = [c for c in ranked if c.case_id in wanted] if wanted else _first(ranked, done, options.first)
    if not chosen:
        return Result(
            path=home / LIST, lines=("nothing to export: every case was reviewed; name some with --case",)
        )
    folder = options.export or home / "to-correct"
    origin = find_origin(results, images=options.images, manifest=options.manifest)
    reporter.stage_started("review", f"{len(chosen)} cases")
    found = export_cases(folder, results, chosen, origin.by_case, reporter=reporter)
    lines = [
        f"{case.case_id} ({case.level}): {case.because}" for case in chosen if case.case_id in found.images
    ]
    lines += _commands(folder, found)
    if options.open_with is not None:
        for case_id, images in found.images.items():
            reporter.note(f"{TITLES[options.open_with]}: {case_id}; the next case opens when it is closed")
            open_case(options.open_with, folder / results.cases[case_id].name, images=images, program=program)
    lines += [f"  {case_id}: {text}" for case_id, text in found.problems.items()]
    lines.append(
        f"{len(found.images)} of {len(chosen)} cases exported; then: medseg review {results.path} --import {folder}"
    )
    facts = {"exported": list(found.images), "failed": dict(found.problems)}
    return Result(
        exit_code=_code(found.problems, len(found.images)), path=folder, lines=tuple(lines), facts=facts
    )


def _first(ranked: Sequence[RankedCase], done: Mapping[str, str], count: int) -> list[RankedCase]:
    return [c for c in ranked if c.level != FAILED and done.get(c.case_id, "pending") == "pending"][:count]


def _commands(folder: Path, found: Exported) -> list[str]:
    """How to open the first case; HOWTO.txt has all."""
    case_id, images = next(iter(found.images.items()), ("", ()))
    home = folder.resolve() / safe_name(case_id)
    return [
        f"{title}: {command_text(viewer_command(viewer, home, images=images))}"
        for viewer, title in TITLES.items()
        if images
    ]


def _code(problems: Mapping[str, str], good: int) -> int:
    if not problems:
        return 0
    return MedsegError.exit_code if good else InputError.exit_code
