"""Choose the values of a trial: the same ones whenever the same trials came before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import optuna

from cnnforge.sweeping.space import Dimension, Value


def distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    """Return the distribution of each dimension, by name."""
    found: dict[str, Any] = {}
    for each in space:
        if each.choices:
            found[each.name] = optuna.distributions.CategoricalDistribution(each.choices)
        elif isinstance(each.low, int) and isinstance(each.high, int):
            found[each.name] = optuna.distributions.IntDistribution(
                each.low, each.high, log=each.log
            )
        else:
            found[each.name] = optuna.distributions.FloatDistribution(
                each.low, each.high, log=each.log
            )
    return found


def propose(study: Any, space: Sequence[Dimension], seed: int) -> dict[str, Value]:
    """Choose the values of the next trial with a tree-structured Parzen estimator (TPE).

    Nothing is written. The result depends only on the trials of the study, on the seed and on the
    number of the trial. So a sweep that was killed and continued proposes the same values.

    Args:
        study: The study.
        space: The dimensions.
        seed: Random seed of the sweep.

    Returns:
        The value of each dimension, by name.
    """
    trials = study.get_trials(deepcopy=False)
    # Sampled in a copy in memory: a process that is killed while it samples leaves no half trial.
    sampler = optuna.samplers.TPESampler(seed=_seed(seed, len(trials)))
    copy = optuna.create_study(direction=study.direction, sampler=sampler)
    copy.add_trials(trials)
    return copy.ask(distributions(space)).params


def add_running(study: Any, space: Sequence[Dimension], values: dict[str, Value]) -> int:
    """Add a trial that is running to a study, with all of its values at once.

    Returns:
        The number of the trial, from 0.
    """
    number = len(study.get_trials(deepcopy=False))
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=values,
            distributions=distributions(space),
        )
    )
    return number


def _seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
