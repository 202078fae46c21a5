"""The hypotheses H1 to H6 asked of trained runs: rows h1/... to h6/... over seeds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.skills import languages, measures
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.trained_rows import SHARE, Arm, Arms, is_independent, known_row, row
from llm_dynamics.skills.training import HELD_OUT, Trained
from llm_dynamics.skills.weakest import Weakest, weakest

SLINGSHOT_RANGE = (0.9, 1.25)
_HAD = 0.95  # success on single skills
_LN2 = math.log(2)
_ROUNDING = 1e-5  # of a float32 sum


def bounds_rows(arms: Arms, alphas: Sequence[float]) -> list[Row]:
    """H1: no measured point is above what the theory allows, at any look of any run.

    Raises:
      UserError: one is, beyond its interval: the measurement or the bound is wrong.
    """
    weakest_points, failed_points, violated, margin = 0, 0, 0, -math.inf
    for name, arm in arms.items():
        for seed, run in arm.items():
            for which, (_, held) in run.config.sets().items():
                for i, outcomes in enumerate(measures.looks(run, which)):
                    where = f"{name}, seed {seed}, {which}, step {run.steps_N[i]}"
                    _check_failed(outcomes, run, where)
                    failed_points += 1
                    if held or not is_independent(run.config):
                        continue
                    for alpha in alphas:
                        found = weakest(outcomes, alpha, languages.measure(run.config.language))
                        violated += found.violated
                        _check_weakest(found, where)
                        weakest_points += 1
                        if 0.01 < found.theta < 0.99:
                            margin = max(margin, found.error - found.exact)
    words = "measured points that lie above their bound beyond a 99.9 % interval"
    rows = [
        interval_row(
            "h1/violations", exact(violated), "1", weakest_points + failed_points, words,
            f"{weakest_points} errors of the weakest skills against the exact worst case, and "
            f"{failed_points} shares of failed texts against the excess; a violation stops the run",
        )
    ]  # fmt: skip
    if math.isfinite(margin):
        words = (
            "largest error of weakest skills less the exact bound, of points with theta .01 to .99"
        )
        note = "an extreme of many points: no interval"
        rows.append(interval_row("h1/closest", exact(margin), SHARE, weakest_points, words, note))
    return rows


def slingshot_rows(widths: Mapping[float, Arm], name: str, taus: Sequence[float]) -> list[Row]:
    """H2: rho is within 0.9 to 1.25, and does not drift with the size of the model.

    Args:
      widths: arms that differ in width alone.
      name: of the set of texts.
      taus: competences.
    """
    rows = []
    answers = next(iter(next(iter(widths.values())).values())).seen[name].right_NxTxA.shape[2]
    for tau in taus:
        for j in range(2, answers + 1):
            found = {
                width: {seed: measures.slingshot(run, name, tau)[j] for seed, run in arm.items()}
                for width, arm in widths.items()
            }
            for width, by in found.items():
                made = known_row(
                    f"h2/width={width:g}/slingshot_{j}/tau={tau:g}", "1",
                    f"{j} times the excess at which c_{j} reaches {tau:g}, over that of c_1", by,
                )  # fmt: skip
                rows += [_within(one, *SLINGSHOT_RANGE) for one in made]
            rows += known_row(
                f"h2/drift_{j}/tau={tau:g}", "per factor e of width",
                f"slope of slingshot_{j} on the logarithm of the width, seed by seed",
                _slopes(found), contrast=True,
            )  # fmt: skip
    return rows


def scale_rows(widths: Mapping[float, Arm], name: str, taus: Sequence[float]) -> list[Row]:
    """H3: halving the excess by a larger model doubles the tuples had at equal competence.

    The slope of ln k*(tau) on ln(1 / excess) over models of several widths, trained alike; k* is
    the size of tuples on which competence is tau. The theory says 1 where both are small.
    """
    rows = []
    for tau in taus:
        values = {}
        for seed in sorted(set.intersection(*(set(arm) for arm in widths.values()))):
            points = []
            for arm in widths.values():
                outcomes = arm[seed].outcomes(name, -1)
                answers = outcomes.right_TxA.shape[1]
                joint_A = np.array([outcomes.joint(j) for j in range(1, answers + 1)])
                size = measures.tuple_size_at(joint_A, tau)
                if math.isfinite(size) and outcomes.delta > 0:
                    points.append((-math.log(outcomes.delta), math.log(size)))
            values[seed] = math.nan
            if len(points) >= 2:
                values[seed] = float(np.polyfit(*zip(*points, strict=True), 1)[0])
        rows += [
            _against(made, 1.0, "doubling for half the excess")
            for made in known_row(
                f"h3/slope/tau={tau:g}", "1",
                "slope of ln k* on ln(1 / excess) over widths, k* the size of tuples on which "
                f"competence is {tau:g}, between 1 and the answers of a text",
                values,
            )
        ]  # fmt: skip
    return rows


def serial_rows(arm: Arm, taus: Sequence[float]) -> list[Row]:
    """H4: composed skills do not follow the excess over their number; they come later."""
    rows = []
    sizes = [k for k in next(iter(arm.values())).config.language.sizes if k > 1]
    for tau in taus:
        for k in sizes:
            found = row(
                f"h4/slingshot_{k}/tau={tau:g}", "1",
                f"{k} times the excess of the mixture at which texts of {k} skills in a row reach "
                f"{tau:g}, over that for single skills; 1 if the excess over {k} were enough",
                arm, lambda run, tau=tau, k=k: measures.slingshot_by_size(run, tau)[k],
            )  # fmt: skip
            rows += [_against(r, 1.0, "as tuples of parallel skills") for r in found]
    for k in sizes:
        rows += row(
            f"h4/residual_{k}", SHARE,
            f"success on texts of {k} skills less the product of the single skills' accuracies, "
            f"at the first look at which single skills are right with {_HAD:g}",
            arm, lambda run, k=k: _residual_when_had(run, k), True,
        )  # fmt: skip
        rows += row(
            f"h4/later_{k}", "updates",
            f"updates after which texts of {k} skills reach one half, less those of {k - 1}",
            arm, lambda run, k=k: _half_step(run, k) - _half_step(run, k - 1), True,
        )  # fmt: skip
    return rows


def held_out_rows(arms: Mapping[float, Arm], size: int) -> list[Row]:
    """H5: the gap on held-out pairs shrinks with the distinct pairs that training shows.

    Args:
      arms: serial arms by share of held-out pairs.
      size: of the texts.
    """
    rows, values = [], {}
    for share, arm in arms.items():
        found = {seed: measures.held_out_gap(run, size)[0] for seed, run in arm.items()}
        values[share] = found
        pairs = measures.distinct_pairs(next(iter(arm.values())))
        rows.append(
            seed_row(
                f"h5/held_out={share:g}/gap", PerSeed(found), SHARE,
                f"success on seen less on held-out texts of {size} skills at the end; training "
                f"shows {pairs:.3g} distinct pairs a skill",
            )
        )  # fmt: skip
        rows.append(
            seed_row(
                f"h5/held_out={share:g}/success", PerSeed(
                    {s: 1 - run.outcomes(f"k{size}/{HELD_OUT}", -1).theta for s, run in arm.items()}
                ), SHARE, f"success on held-out texts of {size} skills at the end", contrast=False,
            )
        )  # fmt: skip
    slope = {}
    for seed in sorted(set.intersection(*(set(found) for found in values.values()))):
        shares = sorted(values)
        if len(shares) > 1:
            gaps = [values[share][seed] for share in shares]
            slope[seed] = float(np.polyfit(shares, gaps, 1)[0])
    if slope:
        rows.append(
            seed_row(
                "h5/slope", PerSeed(slope), "1",
                "slope of the gap on the share of held-out pairs, seed by seed",
            )
        )  # fmt: skip
    return rows


def emergence_rows(zipfs: Mapping[float, Arm], name: str) -> list[Row]:
    """H6: the time of emergence grows with a skill's rank as its measure falls: slope = Zipf's."""
    rows = []
    for zipf, arm in zipfs.items():
        if not zipf:
            continue
        steps = {seed: measures.emergence_steps(run, name) for seed, run in arm.items()}
        found = known_row(
            f"h6/zipf={zipf:g}/slope", "1",
            "slope of ln(updates until a skill's accuracy is one half) on ln rank",
            {seed: measures.rank_slope(found) for seed, found in steps.items()},
        )  # fmt: skip
        rows += [_against(r, zipf, "the time goes as one over the measure") for r in found]
        fits = {seed: measures.onset_and_slope(found) for seed, found in steps.items()}
        rows += known_row(
            f"h6/zipf={zipf:g}/onset", "updates", "t0 of the fit t0 + c rank^z to these times",
            {seed: onset for seed, (onset, _) in fits.items()},
        )  # fmt: skip
        found = known_row(
            f"h6/zipf={zipf:g}/slope_after_onset", "1", "z of the fit t0 + c rank^z",
            {seed: z for seed, (_, z) in fits.items()},
        )  # fmt: skip
        rows += [_against(r, zipf, "the time after an onset goes as 1 / measure") for r in found]
    return rows


def _check_failed(outcomes: Outcomes, run: Trained, where: str) -> None:
    slack = _ROUNDING * (1 + outcomes.delta)
    if outcomes.theta_half > 2 * outcomes.delta + slack:
        raise UserError(
            f"{where}: {outcomes.theta_half:.4f} of the texts have an excess of at least 1/2, "
            f"above 2 x {outcomes.delta:.4f}: the excess is measured wrongly; please report it"
        )
    certain = not run.config.language.noise and run.config.language.kind != "latent"
    if certain and outcomes.theta > outcomes.delta / _LN2 + slack:
        raise UserError(
            f"{where}: {outcomes.theta:.4f} of the texts fail, above {outcomes.delta:.4f} / ln 2: "
            "answers are judged wrongly; please report this run"
        )


def _check_weakest(found: Weakest, where: str) -> None:
    if found.violated:
        raise UserError(
            f"{where}: the weakest skills of measure {found.alpha:.3f} have an error of at least "
            f"{found.low:.4f}, above {found.exact_high:.4f}, the most that failing "
            f"{found.theta:.4f} of the texts allows: the bound or the measurement is wrong; please "
            "report this run"
        )


def _residual_when_had(run: Trained, k: int) -> float:
    singles = measures.looks(run, "k1")
    had = [i for i, one in enumerate(singles) if 1 - one.theta >= _HAD]
    if not had:
        return math.nan
    return measures.product_residual(run.outcomes(f"k{k}", had[0]), k, of=singles[had[0]])


def _half_step(run: Trained, k: int) -> float:
    seen = measures.along(run, f"k{k}")
    reached = np.flatnonzero(seen.theta_N <= 0.5)
    if not len(reached):
        return math.nan
    i = reached[0]
    if not i:
        return 0.0
    share = (seen.theta_N[i - 1] - 0.5) / (seen.theta_N[i - 1] - seen.theta_N[i])
    return float(seen.steps_N[i - 1] + share * (seen.steps_N[i] - seen.steps_N[i - 1]))


def _slopes(found: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Per seed, the slope on ln(width); NaN where fewer than two widths have a number."""
    slopes = {}
    for seed in sorted({s for by in found.values() for s in by}):
        points = [
            (math.log(width), by[seed])
            for width, by in found.items()
            if math.isfinite(by.get(seed, math.nan))
        ]
        slopes[seed] = math.nan
        if len(points) >= 2:
            slopes[seed] = float(np.polyfit(*zip(*points, strict=True), 1)[0])
    return slopes


def _within(made: Row, low: float, high: float) -> Row:
    if made["low"] is None:
        return made
    if low <= made["low"] and made["high"] <= high:
        return _noted(made, f"within {low:g} to {high:g}")
    outside = made["low"] > high or made["high"] < low
    return _noted(made, f"{'outside' if outside else 'not shown to be within'} {low:g} to {high:g}")


def _against(made: Row, expected: float, words: str) -> Row:
    if made["low"] is None:
        return made
    if made["low"] <= expected <= made["high"]:
        return _noted(made, f"compatible with {expected:g}: {words}")
    side = "above" if made["low"] > expected else "below"
    return _noted(made, f"{side} {expected:g} ({words})")


def _noted(made: Row, words: str) -> Row:
    return {**made, "note": "; ".join(filter(None, (made["note"], words)))}
