"""Samplers and pruners of Optuna, as the settings name them. Imports Optuna."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from medseg.search.options import MedianPrunerOptions, PrunerOptions, SamplerOptions, TpeOptions


class NumberedSampler(BaseSampler):
    """Draws each trial with a sampler of its own, seeded by the search's seed and the trial's number.

    Optuna's samplers carry the state of their random numbers from trial to trial, and a process that
    starts again has lost it.
    """

    def __init__(self, options: SamplerOptions) -> None:
        self._options = options
        self._current: tuple[int, BaseSampler] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Settings that are drawn together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the settings that are drawn together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Value of a setting that is drawn by itself."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start the trial's own random numbers."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing of a trial is kept but what the study keeps."""

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            self._current = trial.number, self._fresh(trial.number)
        return self._current[1]

    def _fresh(self, number: int) -> BaseSampler:
        options = self._options
        text = f"{options.seed}\x00{number}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if isinstance(options, TpeOptions):
                return TPESampler(seed=seed, n_startup_trials=options.startup_trials)
            return RandomSampler(seed=seed)


def build_sampler(options: SamplerOptions) -> BaseSampler:
    """The sampler of the settings."""
    return NumberedSampler(options)


def build_pruner(options: PrunerOptions) -> BasePruner:
    """The pruner of the settings; epochs are counted from 1."""
    if isinstance(options, MedianPrunerOptions):
        return MedianPruner(n_startup_trials=options.startup_trials, n_warmup_steps=options.warmup_epochs + 1)
    return NopPruner()
