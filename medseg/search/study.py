"""The study: what has been tried, kept in a database, and what is tried next. Imports Optuna when opened.

The values of a trial are a function of the seed, its number, and what the trials before it came to, so
that a search that was killed and goes on tries the same as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from medseg.errors import ConfigError
from medseg.provenance import write_text
from medseg.search.options import SearchOptions
from medseg.search.records import ENDED, Outcome, TrialJob, TrialRow, TrialState, finite
from medseg.search.space import Parameter, parameters, settings_of
from medseg.search.storage import open_storage, storage_errors

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_OWNER, _REASON, _SECONDS, _FACTS = "owner", "reason", "seconds", "facts"
_STATES: dict[str, TrialState] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
MIN_FOR_IMPORTANCES = 5


class SearchStudy:
    """Trials of one search, in a database.

    Parameters
    ----------
    options : SearchOptions
    folder : Path
        `search/` of the run: its own database, where none is named, and the name of this run in a
        shared one.
    name : str
        Of the study.
    digest : str
        SHA-256 of all that decides what a trial comes to; a study of another is refused.

    Raises
    ------
    ConfigError
        The database has a study of this name with other settings.
    StorageError, MissingPackageError
        See `open_storage`.
    """

    def __init__(self, options: SearchOptions, *, folder: Path, name: str, digest: str) -> None:
        import optuna

        from medseg.search.sampling import build_pruner, build_sampler

        self.options = options
        self.parameters: tuple[Parameter, ...] = parameters(options.space)
        self._storage = open_storage(options, folder)
        self._owner = _owner(folder)
        self._states = optuna.trial.TrialState
        self._trials: dict[int, Trial] = {}
        self._begun: dict[int, float] = {}
        self._noted: dict[int, set[int]] = {}
        with storage_errors(self._storage.place):
            self._study = optuna.create_study(
                storage=self._storage.database,
                study_name=name,
                sampler=build_sampler(options.sampler),
                pruner=build_pruner(options.pruner),
                direction="maximize" if options.higher_is_better else "minimize",
                load_if_exists=True,
            )
            found = self._study.user_attrs.get("settings_sha256")
            if found is None:
                self._study.set_user_attr("settings_sha256", digest)
        if found not in (None, digest):
            self._storage.close()
            raise ConfigError(
                f"{self._storage.place} holds a search {name!r} of other settings or data (SHA-256 {found[:16]} "
                f"there, {digest[:16]} here); give this pipeline another name, or use another storage"
            )

    @property
    def place(self) -> str:
        """Where the study is kept, without a password."""
        return self._storage.place

    # -- which trial ------------------------------------------------------------------------------

    def interrupted(self) -> list[TrialJob]:
        """Trials that this run began and did not end, in order; they go on with their values."""
        with storage_errors(self.place):
            mine = [
                trial
                for trial in self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
                if not self._storage.shared or trial.user_attrs.get(_OWNER) == self._owner
            ]
        return [self._take(self._resumed(trial), trial.intermediate_values) for trial in mine]

    def next(self) -> TrialJob | None:
        """The next trial, or None where as many as wanted were begun."""
        with storage_errors(self.place):
            self._storage.give_back_stale(self._study)
            if self.begun() >= self.options.trials:
                return None
            return self._take(self._study.ask())

    def begun(self) -> int:
        """Trials that count: those of dead machines do not, others do them again."""
        with storage_errors(self.place):
            found = self._study.get_trials(deepcopy=False)
        lost = (t.state == self._states.FAIL and _REASON not in t.user_attrs for t in found)
        waiting = (t.state == self._states.WAITING for t in found)
        return len(found) - sum(lost) - sum(waiting)

    def elsewhere(self) -> int:
        """Trials that other runs are working on, or should be."""
        with storage_errors(self.place):
            states = (self._states.RUNNING, self._states.WAITING)
            found = self._study.get_trials(deepcopy=False, states=states)
        return sum(trial.number not in self._trials for trial in found)

    def _resumed(self, trial: FrozenTrial) -> Trial:
        from optuna.trial import Trial

        return Trial(self._study, trial._trial_id)

    def _take(self, trial: Trial, epochs: Iterable[int] = ()) -> TrialJob:
        with storage_errors(self.place):
            trial.set_user_attr(_OWNER, self._owner)
            self._storage.beat(trial)
            raw = {parameter.key: parameter.suggest(trial) for parameter in self.parameters}
        self._trials[trial.number], self._begun[trial.number] = trial, time.monotonic()
        self._noted[trial.number] = set(epochs)
        return TrialJob(number=trial.number, raw=raw, values=settings_of(self.parameters, raw))

    # -- what a trial says ------------------------------------------------------------------------

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Note the metric of an epoch; whether the trial is bad enough to be ended."""
        trial = self._trials[number]
        with storage_errors(self.place):
            # An epoch that is done again after a kill was noted before.
            if epoch not in self._noted[number]:
                trial.report(value, epoch)
                self._noted[number].add(epoch)
            self._spend(number)
            self._storage.beat(trial)
            return trial.should_prune()

    def finish(self, number: int, outcome: Outcome) -> None:
        """Note how a trial ended."""
        states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        with storage_errors(self.place):
            self._spend(number)
            trial = self._trials.pop(number)
            trial.set_user_attr(_REASON, outcome.reason)
            trial.set_user_attr(_FACTS, dict(outcome.facts))
            self._study.tell(
                trial,
                outcome.value if outcome.state == "complete" else None,
                state=self._states[states[outcome.state]],
                skip_if_finished=True,
            )
        self._storage.rest(trial)

    def take_over(self, number: int, row: TrialRow) -> None:
        """End a trial as an earlier one with the same values ended, with its curve."""
        with storage_errors(self.place):
            for epoch, value in row.curve.items():
                self._trials[number].report(value, epoch)
        reason = row.reason or f"the same values as trial {row.number}"
        self.finish(
            number, Outcome(state=row.state, value=row.value, reason=reason, facts={"same_as": row.number})
        )

    def _spend(self, number: int) -> None:
        """Add the time since the last call to what the trial has taken."""
        now = time.monotonic()
        trial = self._trials[number]
        spent = float(trial.user_attrs.get(_SECONDS, 0.0)) + now - self._begun[number]
        self._begun[number] = now
        trial.set_user_attr(_SECONDS, round(spent, 3))

    # -- what is known ----------------------------------------------------------------------------

    def rows(self) -> tuple[TrialRow, ...]:
        """All trials that were begun, by number."""
        with storage_errors(self.place):
            found = self._study.get_trials(deepcopy=False)
        return tuple(_row(trial) for trial in found if _STATES[trial.state.name] != "waiting")

    def same_values(self, job: TrialJob) -> TrialRow | None:
        """An ended trial with the same values, if there is one; failures are tried again."""
        ended = (row for row in self.rows() if row.state in ENDED and row.state != "failed")
        return next((row for row in ended if row.raw == job.raw and row.number != job.number), None)

    def seconds(self) -> float:
        """Time that this run has spent searching."""
        with storage_errors(self.place):
            return float(self._study.user_attrs.get(f"{_SECONDS}_{self._owner}", 0.0))

    def note_seconds(self, seconds: float) -> None:
        """Remember the time that this run has spent searching."""
        with storage_errors(self.place):
            self._study.set_user_attr(f"{_SECONDS}_{self._owner}", round(seconds, 3))

    def importances(self) -> dict[str, float] | None:
        """Share of each setting in the differences between trials, by PED-ANOVA; None for too few trials."""
        import optuna

        whole = [row for row in self.rows() if row.state == "complete"]
        if len(whole) < MIN_FOR_IMPORTANCES or len(self.parameters) < 2:
            return None
        if len({row.value for row in whole}) < 2:
            return None
        with storage_errors(self.place):
            found = optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        return {key: share for key, value in found.items() if (share := finite(float(value))) is not None}

    def close(self) -> None:
        """Let go of the database; trials that did not end go on with the next call of the same search."""
        self._storage.close()


def study_digest(facts: Mapping[str, Any], options: SearchOptions) -> str:
    """SHA-256 of what decides the outcome of a trial; how many and where are left out."""
    from medseg.provenance import sha256_json

    own = {"space", "settings", "metric", "metric_is", "sampler", "pruner"}
    return sha256_json({**facts, "search": options.model_dump(mode="json", include=own)})


def _row(trial: FrozenTrial) -> TrialRow:
    facts = trial.user_attrs
    state = _STATES[trial.state.name]
    return TrialRow(
        number=trial.number,
        state=state,
        raw=dict(trial.params),
        value=finite(trial.value) if state == "complete" else None,
        reason=str(facts.get(_REASON, "" if state != "failed" else "its machine no longer answered")),
        seconds=float(facts.get(_SECONDS, 0.0)),
        curve={k: v for k, v in sorted(trial.intermediate_values.items()) if finite(v) is not None},
        facts=facts.get(_FACTS, {}),
    )


def _owner(folder: Path) -> str:
    """A name for this run among those that share a study; kept in its folder."""
    path = folder / "owner"
    if not path.exists():
        write_text(path, uuid4().hex)
    return path.read_text(encoding="utf-8").strip()
