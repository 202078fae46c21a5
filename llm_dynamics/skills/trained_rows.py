"""Numbers of trained runs, arm by arm: rows trained/ARM/... with Student's intervals over seeds.

An arm is the runs of one config with several seeds; a seed decides parameters, texts and language
at once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.skills import languages, measures, training
from llm_dynamics.skills.training import Trained, TrainedConfig
from llm_dynamics.skills.weakest import weakest

Arm = Mapping[int, Trained]  # by seed
Arms = Mapping[str, Arm]

TEXT = "nats per text"
SHARE = "share"
_THETAS = (0.4, 0.2, 0.1, 0.05)  # at which the weakest skills are shown


class Number(NamedTuple):
    """A number of a run, NaN where it has none; `contrast` if 0 means no difference."""

    key: str
    unit: str
    words: str
    value: float
    contrast: bool = False


def arm_rows(name: str, arm: Arm, alphas: Sequence[float], taus: Sequence[float]) -> list[Row]:
    """What every arm has: how good it is in the end, its slingshot ratios, its weakest skills.

    Args:
      name: of the arm.
      arm: its runs.
      alphas: measures of the weakest skills.
      taus: competences of the slingshot ratios.
    """
    found: dict[str, dict[int, Number]] = {}
    for seed, run in arm.items():
        for number in _numbers(run, alphas, taus):
            found.setdefault(number.key, {})[seed] = number
    rows = []
    for key, by_seed in found.items():
        any_ = next(iter(by_seed.values()))
        values = {seed: number.value for seed, number in by_seed.items()}
        rows += known_row(f"trained/{name}/{key}", any_.unit, any_.words, values, any_.contrast)
    return rows


def row(
    name: str,
    unit: str,
    words: str,
    arm: Arm,
    value: Callable[[Trained], float],
    contrast: bool = False,
) -> list[Row]:
    """`known_row` of a function of every run."""
    return known_row(name, unit, words, {s: value(run) for s, run in arm.items()}, contrast)


def known_row(
    name: str, unit: str, words: str, values: Mapping[int, float], contrast: bool = False
) -> list[Row]:
    """The row of a number per seed, none where no seed has it; the note counts those without."""
    known = {seed: float(v) for seed, v in values.items() if math.isfinite(v)}
    if not known:
        return []
    missing = len(values) - len(known)
    note = f"{missing} of {len(values)} seeds have no such number" if missing else ""
    return [seed_row(name, PerSeed(known), unit, words, note, contrast)]


def is_independent(config: TrainedConfig) -> bool:
    """Whether the skills of a text are independent, as the bounds need."""
    return not config.language.held_out


# ---- the numbers of a run ------------------------------------------------------------------------


def _numbers(run: Trained, alphas: Sequence[float], taus: Sequence[float]) -> Iterator[Number]:
    for which, (size, held) in run.config.sets().items():
        texts = f"texts of {size} skills, " + (
            "with a pair that training has not" if held else "as trained on"
        )
        last = run.outcomes(which, -1)
        words = f"best possible loss of {texts}, exact given the texts"
        yield Number(f"{which}/best", TEXT, words, training.best_loss(run.config, which))
        yield Number(f"{which}/excess", TEXT, f"excess of {texts}, at the end", last.delta)
        yield Number(f"{which}/theta", SHARE, f"failed {texts}, at the end", last.theta)
        if held:
            yield from _held_out(run, which, size)
            continue
        yield from _tuples(run, which, texts, taus)
        yield from _jumps(run, which)
        if is_independent(run.config):
            yield from _adversariality(run, which, alphas)


def _held_out(run: Trained, which: str, size: int) -> Iterator[Number]:
    raw, matched = measures.held_out_gap(run, size)
    words = f"success on seen less on held-out texts of {size} skills, at the end"
    yield Number(f"{which}/gap", SHARE, words, raw, True)
    words = (
        "the same, each less the product of the accuracies of its skills, so that rarer skills do "
        "not count"
    )
    yield Number(f"{which}/matched_gap", SHARE, words, matched, True)


def _tuples(run: Trained, which: str, texts: str, taus: Sequence[float]) -> Iterator[Number]:
    looks = measures.looks(run, which)
    answers = looks[0].right_TxA.shape[1]
    for j in range(1, answers + 1):
        words = f"competence on {j}-tuples of answers of {texts}, at the end"
        yield Number(f"{which}/c_{j}", SHARE, words, looks[-1].joint(j))
        if j > 1:
            words = f"c_{j} less the product of the accuracies of its skills on other texts"
            found = np.array([measures.product_residual(o, j) for o in looks])
            found = found[np.isfinite(found)]
            if len(found):
                mean, most = found.mean(), np.abs(found).max()
                yield Number(
                    f"{which}/residual_{j}", SHARE, f"{words}, mean over looks", mean, True
                )
                words = f"{words}, largest size at any look; noise alone has one too"
                yield Number(f"{which}/residual_{j}/largest", SHARE, words, most)
    for tau in taus if answers > 1 else ():
        for j, ratio in measures.slingshot(run, which, tau).items():
            words = (
                f"{j} times the excess at which c_{j} reaches {tau:g}, over that at which c_1 does"
            )
            yield Number(f"{which}/slingshot_{j}/tau={tau:g}", "1", words, ratio)


def _jumps(run: Trained, which: str) -> Iterator[Number]:
    """Whether failing is seen to fall faster than the excess: what thresholds can invent.

    The excess counts from that of a guess among the symbols on: what falls before is to learn which
    tokens are answers. Schaeffer et al. 2023 (arXiv:2304.15004).
    """
    seen = measures.along(run, which)
    guess = seen.joint_NxA.shape[1] * math.log(run.config.language.symbols)
    for key, what, values_N in (
        ("excess", "excess below that of a guess", np.minimum(seen.delta_N, guess)),
        ("failed", "share of failed texts", seen.theta_N),
        ("wrong", "share of wrong answers", 1 - seen.joint_NxA[:, 0]),
    ):
        words = f"largest part of the whole change of the {what} between two looks"
        yield Number(f"{which}/jump_{key}", SHARE, words, _jump(values_N))


def _adversariality(run: Trained, which: str, alphas: Sequence[float]) -> Iterator[Number]:
    """Where failures lie between chance and the worst case; a control with skills dealt anew."""
    measure_S, looks = languages.measure(run.config.language), measures.looks(run, which)
    for theta in _THETAS:
        near = min(looks, key=lambda o: abs(o.theta - theta))
        found = abs(near.theta - theta) <= theta / 2
        dealt = near.permuted(np.random.default_rng(run.config.seed))
        for alpha in alphas:
            words = (
                "(error - theta) / (largest possible - theta) of the weakest skills of measure "
                f"{alpha:g}, at the look whose theta is nearest to {theta:g}"
            )
            end = f"alpha={alpha:g}/theta={theta:g}"
            value = weakest(near, alpha, measure_S).adversariality if found else math.nan
            yield Number(f"{which}/adversariality/{end}", "1", words, value)
            value = weakest(dealt, alpha, measure_S).adversariality if found else math.nan
            words = f"the same with skills dealt anew to the texts: {words}"
            yield Number(f"{which}/control/{end}", "1", words, value, True)


def _jump(values_N: np.ndarray) -> float:
    whole = values_N[0] - values_N[-1]
    return float(-np.diff(values_N).min() / whole) if whole > 0 else math.nan
