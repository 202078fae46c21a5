"""Advice from a sweep whose losses obey a known law."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import continual_advice as lib
from experiments import continual_stages
from llm_dynamics.continual import advice
from llm_dynamics.continual.curve_law import at_steps, evaluate
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.optim.schedules import make_schedule

DECAY = 0.97
LAWS = {  # of the old and of the new set; replay as in Eq. 8
    "old": dict(L0=3.0, A=0.5, alpha=0.5, C1=0.1, C2=0.1, B=0.6, E=30.0, beta=0.3, a1=0.2, a2=1.5),
    "new": dict(
        L0=3.2, A=0.4, alpha=0.6, C1=0.1, C2=0.15, B=-0.5, E=60.0, beta=0.3, a1=0.2, a2=0.7
    ),
}


def _stage(run):
    schedule = make_schedule(run.optim.schedule, run.train.steps)
    return np.array([float(schedule(jnp.asarray(t))) for t in range(run.train.steps)])


def _losses(rates_T, start, steps_S, share):
    at = at_steps(rates_T, start, steps_S, DECAY)
    return np.stack([evaluate(LAWS[which], at, share, which) for which in ("old", "new")], axis=1)


def _arms(spec):
    """The arms of the sweep, as if their runs had obeyed the laws exactly."""
    short = lib.sweep(spec)
    planned = continual_stages.stages(short, Path("WORKDIR"))
    first_T = _stage(planned[0].spec)
    steps_S = np.arange(10, len(first_T) + 1, 10)
    before = StageLog(
        Path("old"), steps_S, _losses(first_T, len(first_T), steps_S, 0.0), first_T, 100, {}
    )
    arms, shares, peaks = {}, {}, {}
    for stage in planned:
        if not stage.shift or stage.seed:
            continue
        rates_T = _stage(stage.spec)
        whole_T = np.concatenate([first_T, rates_T])
        steps_S = np.arange(1, len(rates_T) + 1)
        losses_SxZ = _losses(whole_T, len(first_T), steps_S + len(first_T), stage.share)
        log = StageLog(Path(stage.name), steps_S, losses_SxZ, rates_T, 100, {})
        runs = {0: log}  # the others would say the same
        arms[stage.variant] = Arm(("old", "strong"), runs, dict.fromkeys(runs, before))
        shares[stage.variant] = stage.share
        peaks[stage.variant] = stage.spec.optim.schedule.peak
    return arms, shares, peaks, first_T


@pytest.fixture(scope="module")
def spec():
    laptop = continual_stages.laptop()
    return dataclasses.replace(laptop, shifts=("strong=wiktionary_de",), steps=80)


def test_the_sweep_is_short_and_holds_peaks_and_shares(spec):
    short = lib.sweep(spec)
    assert short.steps == 20 and short.seeds == 3 and short.baselines == ()
    variants = {s.variant for s in continual_stages.stages(short, Path("W")) if s.shift}
    assert len(variants) == 5 + 2 * 2  # all shares at one peak, two shares at each other peak


def test_the_choice_of_whole_stages_is_that_of_the_law(spec):
    arms, shares, peaks, first_T = _arms(spec)
    found = lib.predicted(spec, arms, shares, peaks)
    assert len(found) == 15
    true = {}
    for candidate in found:
        rates_T = np.concatenate([first_T, lib.second_rates(spec, candidate.peak)])
        assert len(rates_T) == 240 + 80
        losses = _losses(rates_T, 240, [len(rates_T)], candidate.share)[0]
        true[candidate.name] = losses.mean()
        assert candidate.average.mean == pytest.approx(losses.mean(), rel=0.01)
    chosen = advice.advise(found)
    assert true[chosen.choice.name] == pytest.approx(min(true.values()), rel=2e-3)
    lines = "\n".join(lib.say(spec, "strong", chosen, chosen))
    share, tokens = chosen.choice.share, 80 * 16 * 128
    assert f"replayed: {share:.0%} = {share * tokens:,.0f} tokens" in lines
    assert "law of the curve" in lines and "1 seed)" in lines


def test_trials_are_the_last_losses(spec):
    arms, shares, peaks, _ = _arms(spec)
    trials = lib.trials(arms, shares, peaks)
    assert len(trials) == 9
    one = next(t for t in trials if t.share == 0.5)
    last = arms["rewarm-replay-0.5"].runs[0].losses_SxZ[-1]
    assert (one.old, one.new) == tuple(last) and one.peak == pytest.approx(3e-3)
