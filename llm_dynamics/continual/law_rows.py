"""Whole curves of a study foretold by laws that have not seen them, and how far off they were."""

from collections.abc import Mapping

import numpy as np

from llm_dynamics.continual.curve_fit import fit_curves
from llm_dynamics.continual.replay_law import fit_replay
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, seed_row

DECAYS = (0.9, 0.97, 0.99, 0.999)  # of S2; the published 0.999 is a long memory for short runs
_LAW = "law of the curve (Wang et al. 2025, Eq. 4 with Eq. 8)"


def held_out_rows(prefix: str, arms: Mapping[str, Arm], shares: Mapping[str, float]) -> list[Row]:
    """Mean relative error of each arm's second stage, by the law fitted to all other arms.

    Args:
      prefix: of the names PREFIX/VARIANT/DATASET/law_error.
      arms: variant -> arm; those from fresh parameters are left out.
      shares: variant -> replay share of the arm; 0 where it has none.
    """
    fitted = {variant: arm for variant, arm in arms.items() if arm.before}
    rows = []
    for variant, arm in fitted.items():
        others = [name for name in fitted if name != variant]
        for z, dataset in enumerate(arm.datasets):
            name = f"{prefix}/{variant}/{dataset}/law_error"
            words = (
                f"mean of |predicted - measured| / measured along the second stage on the "
                f"{dataset} data, by the {_LAW} fitted to the other arms: {', '.join(others)}"
            )
            try:
                if len(others) < 2:
                    raise UserError("fewer than two other arms to fit the law to")
                curves = [
                    curve
                    for i, other in enumerate(others)
                    for curve in fitted[other].law_curves(dataset, shares[other], first=i == 0)
                ]
                law = fit_curves(curves, ("old", "new")[z], DECAYS, resamples=0)
                # An arm's curves on its second stage alone: the first was fitted.
                found = {
                    curve.seed: law.relative_error(curve)
                    for curve in arm.law_curves(dataset, shares[variant], first=False)
                }
            except UserError as error:
                rows.append(interval_row(name, exact(np.nan), "1", 0, words, missing=str(error)))
                continue
            rows.append(seed_row(name, PerSeed(found), "1", words, contrast=False))
    return rows


def replay_rows(prefix: str, arms: Mapping[str, Arm], shares: Mapping[str, float]) -> list[Row]:
    """The laws of replay fitted to the arms of different shares, with their left-out errors.

    None with fewer than five shares.
    """
    rows = []
    for z, which in enumerate(("old", "new")):
        sweep = {
            share: PerSeed(
                {seed: float(log.losses_SxZ[-1, z]) for seed, log in arms[variant].runs.items()}
            )
            for variant, share in shares.items()
        }
        if len(sweep) >= 5:
            rows += fit_replay(which, sweep).rows(f"{prefix}/replay_law/{which}")
    return rows
