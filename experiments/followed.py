"""Facts that are injected into one run and asked for in others that start from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import probed
from llm_dynamics.errors import UserError
from llm_dynamics.facts import arms as arms_lib
from llm_dynamics.facts import timetable
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.facts import label_arms
from llm_dynamics.facts.injections import injections as plan_injections
from llm_dynamics.probe.log import open_log
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.transform import Transform


def prepare(
    spec: RunSpec,
    config: FactsConfig,
    steps: Sequence[int],
    *,
    inject: bool,
    folder: RunFolder | None = None,
    transform: Transform | None = None,
) -> probed.Prepared:
    """A run that is asked for the facts at `steps`, and that holds them if `inject`."""
    facts = arms_lib.load_facts(config)
    arms = arms_lib.assign_arms(facts, config)
    times = timetable.timetable(facts, arms, config)
    return probed.prepare(
        spec,
        folder,
        label_arms(facts, arms, times, arms_lib.block_of(facts, config)),
        steps,
        injections=plan_injections(facts, arms, config) if inject else (),
        transform=transform,
    )


def net(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean log-probability of injected facts less that of the others, nats/token.

    Of memorization probes; the facts of a set share everything but the name and what was said.

    Args:
      path: of the run's folder.

    Raises:
      UserError: rows of the log are gone.
    """
    log = open_log(path / "probes").sel(measure="logprob_mean")
    log = log.isel(probe=log["depth"].values == "memorization")
    said = log["arm"].values != CONTROL
    scores_SxP = log["score"].values
    if not np.isfinite(scores_SxP).all():
        raise UserError(
            f"{path / 'probes'} lacks rows that were written; restore it, or delete the folder "
            f"{path} and run the same command again"
        )
    return log["step"].values, scores_SxP[:, said].mean(axis=1) - scores_SxP[:, ~said].mean(axis=1)
