"""The questions of a continual study, answered in rows from what its runs measured."""

from collections.abc import Mapping

import numpy as np

from experiments.continual_spec import OLD, SPLITS, Spec, Stage
from experiments.continual_splits import LONG
from llm_dynamics.continual import measures
from llm_dynamics.continual.expected import expected_rows
from llm_dynamics.continual.law_rows import held_out_rows, replay_rows
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.report.continual_study import Kept
from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, seed_row

Splits = Mapping[str, Mapping[int, list[StageLog]]]  # variant -> seed -> stages in order


def ask(
    spec: Spec,
    planned: list[Stage],
    arms: Mapping[str, Mapping[str, Arm]],
    facts: Mapping[str, Mapping[str, Kept]],
    splits: Splits,
) -> list[Row]:
    """Every question of the study; rows SHIFT/VARIANT/..., n = seeds.

    Args:
      spec: of the study.
      planned: its runs.
      arms: shift -> variant -> what its runs measured, the first stage alone as OLD.
      facts: shift -> variant -> what is kept of the facts.
      splits: the stages without a shift.
    """
    schedule, peak = spec.schedules[0], spec.peaks[0]
    sweep = {share: f"{schedule}-replay-{share:g}" for share in spec.replay}
    peaks = {}
    if 0.0 in sweep and schedule == "rewarm":
        peaks = {other: sweep[0.0] + f"-peak-{other:g}" for other in spec.peaks}
        peaks[peak] = sweep[0.0]
    shares = {(s.shift, s.variant): s.share for s in planned}
    rows = []
    for shift, found in arms.items():
        for variant, arm in found.items():
            rows += _arm(f"{shift}/{variant}", arm, found, sweep, variant)
            if variant in facts.get(shift, {}):
                rows.append(_kept_row(f"{shift}/{variant}", facts[shift][variant]))
        rows += expected_rows(shift, found, sweep if schedule == "rewarm" else {}, peaks)
        rows += held_out_rows(shift, found, {v: shares.get((shift, v), 0.0) for v in found})
        rows += replay_rows(shift, found, {variant: share for share, variant in sweep.items()})
    started = next(arm for found in arms.values() for arm in found.values() if arm.before)
    rows += measures.saving_rows(dict(zip(("old", "new"), started.tokens, strict=True)))
    return rows + split_rows(splits)


def _arm(
    name: str, arm: Arm, found: Mapping[str, Arm], sweep: Mapping[float, str], variant: str
) -> list[Row]:
    """The rows of one arm."""
    rows = []
    for z, dataset in enumerate(arm.datasets):
        last = PerSeed({seed: float(log.losses_SxZ[-1, z]) for seed, log in arm.runs.items()})
        words = f"loss on the {dataset} data at the end, nats per token of held-out text"
        rows.append(seed_row(f"{name}/{dataset}/loss", last, measures.NATS, words, contrast=False))
    matrix = arm.matrix
    if matrix is None:
        last = PerSeed({seed: float(log.losses_SxZ[-1].mean()) for seed, log in arm.runs.items()})
        words = measures.DEFINITIONS["average"]
        return [*rows, seed_row(f"{name}/average", last, measures.NATS, words, contrast=False)]
    replays = variant in sweep.values() and variant != sweep.get(0.0)
    plain = found[sweep[0.0]].matrix if replays and 0.0 in sweep else None
    rows += measures.matrix_rows(name, matrix)
    rows += measures.arm_rows(name, matrix, arm.curves, plain)
    unions = {key: found[key].curves for key in ("union", "union_update") if key in found}
    return rows + measures.union_rows(
        name, matrix, arm.tokens, unions.get("union"), unions.get("union_update")
    )


def _kept_row(name: str, kept: Kept) -> Row:
    lost = PerSeed(
        {seed: float(kept.after[seed][1][-1] - kept.before[seed][1][-1]) for seed in kept.after}
    )
    return seed_row(
        f"{name}/facts/change",
        lost,
        "nats/token",
        "log-probability of injected facts less that of never-injected ones (memorization "
        "probes) at the end of the stage less the same before it; below 0 is forgotten",
    )


def split_rows(splits: Splits) -> list[Row]:
    """Losses after every part without a shift, and what each schedule gains or costs."""
    rows = []
    final = {
        variant: PerSeed({seed: float(logs[-1].losses_SxZ[-1, 0]) for seed, logs in found.items()})
        for variant, found in splits.items()
    }
    for variant, found in splits.items():
        name = f"{SPLITS}/{variant}"
        parts = len(next(iter(found.values())))
        for k in range(parts):
            last = PerSeed({s: float(logs[k].losses_SxZ[-1, 0]) for s, logs in found.items()})
            after = "all parts" if parts == 1 else f"part {k + 1}"
            words = f"loss on held-out {OLD} text after {after}, nats per token"
            where = f"{name}/loss" if k + 1 == parts else f"{name}/after_{k + 1}/loss"
            rows.append(seed_row(where, last, measures.NATS, words, contrast=False))
        if parts > 1:
            rises = PerSeed(
                {
                    seed: max(
                        float(np.max(log.losses_SxZ[:, 0]) - log.losses_SxZ[0, 0])
                        for log in logs[1:]
                    )
                    for seed, logs in found.items()
                }
            )
            words = "largest rise of that loss during a later part above that at its beginning"
            rows.append(seed_row(f"{name}/transient_peak", rises, measures.NATS, words))
        if variant != LONG:
            words = "loss after all parts less that of one run over them under one cosine"
            gap = final[variant] - final[LONG]
            rows.append(seed_row(f"{name}/less_{LONG}", gap, measures.NATS, words))
    return rows
