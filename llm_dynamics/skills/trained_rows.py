"""The hypotheses about skills asked of trained runs: rows with Student's intervals over seeds.

Rows are named trained/ARM/... for one arm and h1/... to h6/... for the hypotheses. An arm is the
runs of one config with several seeds; a seed decides parameters, texts and language at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.skills import languages, measures
from llm_dynamics.skills.measures import Along
from llm_dynamics.skills.training import HELD_OUT, Trained
from llm_dynamics.skills.weakest import Weakest, weakest

Arm = Mapping[int, Trained]  # by seed
Arms = Mapping[str, Arm]

TEXT = "nats per text"
SLINGSHOT_RANGE = (0.9, 1.25)
_SHARE = "share"
_LN2 = math.log(2)
_ROUNDING = 1e-5  # of a float32 sum
_THETAS = (0.4, 0.2, 0.1, 0.05)  # at which the weakest skills are shown


def arm_rows(name: str, arm: Arm, alphas: Sequence[float], taus: Sequence[float]) -> list[Row]:
    """What every arm has: how good it is in the end, its slingshot ratios, its weakest skills."""
    config = next(iter(arm.values())).config
    rows = []

    def add(key: str, unit: str, words: str, value: Callable, contrast=False) -> None:
        rows.extend(row(f"trained/{name}/{key}", unit, words, arm, value, contrast))

    add("parameters", "1", "parameters of the model", lambda run: run.num_params)
    for which in config.sets():
        held = "with a pair that training has not" if which.endswith(HELD_OUT) else "as trained on"
        texts = f"texts of {which.split('/')[0][1:]} skills, {held}"

        def last(run, which=which):
            return run.outcomes(which, -1)

        add(f"{which}/excess", TEXT, f"excess cross-entropy of {texts}, at the end",
            lambda run, last=last: last(run).delta)  # fmt: skip
        add(f"{which}/theta", _SHARE, f"failed {texts}, at the end",
            lambda run, last=last: last(run).theta)  # fmt: skip
        if which.endswith(HELD_OUT):
            size = config.sets()[which][0]
            add(f"{which}/gap", _SHARE, f"success on seen less on held-out texts of {size} skills, "
                "at the end", lambda run, size=size: measures.held_out_gap(run, size)[0],
                True)  # fmt: skip
            add(f"{which}/matched_gap", _SHARE, "the same, each less the product of the accuracies "
                "of its skills, so that rarer skills do not count",
                lambda run, size=size: measures.held_out_gap(run, size)[1], True)  # fmt: skip
            continue
        answers = arm[min(arm)].seen[which].right_NxTxA.shape[2]
        for j in range(1, answers + 1):
            add(f"{which}/c_{j}", _SHARE, f"competence on {j}-tuples of answers of {texts}, at "
                "the end", lambda run, last=last, j=j: last(run).joint(j))  # fmt: skip
            if j > 1:
                add(f"{which}/residual_{j}", _SHARE, f"c_{j} less the product of the accuracies of "
                    "its skills on other texts, largest in size along the run",
                    lambda run, which=which, j=j: _largest(
                        measures.product_residual(o, j) for o in measures.looks(run, which)),
                    True)  # fmt: skip
        if answers > 1:
            for tau in taus:
                for j in range(2, answers + 1):
                    add(f"{which}/slingshot_{j}/tau={tau:g}", "1", f"{j} times the excess at which "
                        f"c_{j} reaches {tau:g}, over that at which c_1 does",
                        lambda run, which=which, tau=tau, j=j: measures.slingshot(
                            run, which, tau)[j])  # fmt: skip
        if _independent(config):
            for alpha in alphas:
                for theta in _THETAS:
                    words = (
                        f"(error - theta) / (largest possible - theta) of the weakest skills of "
                        f"measure {alpha:g}, at the look whose theta is nearest to {theta:g}"
                    )
                    add(f"{which}/adversariality/alpha={alpha:g}/theta={theta:g}", "1", words,
                        lambda run, which=which, alpha=alpha, theta=theta: _at_theta(
                            run, which, alpha, theta).adversariality)  # fmt: skip
    if config.language.kind == "serial" and 1 in config.language.sizes:
        for tau in taus:
            for k in config.language.sizes:
                if k > 1:
                    words = (
                        f"{k} times the excess of the mixture at which texts of {k} skills reach "
                        f"{tau:g}, over that for single skills"
                    )
                    add(f"slingshot_{k}/tau={tau:g}", "1", words,
                        lambda run, tau=tau, k=k: measures.slingshot_by_size(run, tau)[k],
                    )  # fmt: skip
    return rows


def row(name, unit, words, arm: Arm, value: Callable, contrast=False) -> list[Row]:
    """One row of a number per seed; none where no seed has it, a note where some have not."""
    values = {seed: float(value(run)) for seed, run in arm.items()}
    known = {seed: v for seed, v in values.items() if math.isfinite(v)}
    if not known:
        return []
    missing = len(values) - len(known)
    note = f"{missing} of {len(values)} seeds have no such number" if missing else ""
    return [seed_row(name, PerSeed(known), unit, words, note, contrast)]


# ---- the hypotheses ------------------------------------------------------------------------------


def bounds_rows(arms: Arms, alphas: Sequence[float]) -> list[Row]:
    """H1: no measured point is above what the theory allows, at any look of any run.

    Raises:
      UserError: one is, beyond its interval: the measurement or the bound is wrong.
    """
    weakest_points, failed_points, margin = 0, 0, -math.inf
    for name, arm in arms.items():
        for seed, run in arm.items():
            for which, (_, held) in run.config.sets().items():
                for i, outcomes in enumerate(measures.looks(run, which)):
                    where = f"{name}, seed {seed}, {which}, step {run.steps_N[i]}"
                    _check_failed(outcomes, run, where)
                    failed_points += 1
                    if held or not _independent(run.config):
                        continue
                    for alpha in alphas:
                        found = weakest(outcomes, alpha, languages.measure(run.config.language))
                        _check_weakest(found, where)
                        weakest_points += 1
                        if 0.01 < found.theta < 0.99:
                            margin = max(margin, found.error - found.exact)
    words = "measured points that lie above their bound beyond a 99.9 % interval"
    rows = [
        interval_row(
            "h1/violations", exact(0), "1", weakest_points + failed_points, words,
            f"{weakest_points} errors of the weakest skills against the exact worst case, and "
            f"{failed_points} shares of failed texts against the excess; a violation stops the run",
        )
    ]  # fmt: skip
    if math.isfinite(margin):
        words = (
            "largest error of weakest skills less the exact bound, of points with theta .01 to .99"
        )
        note = "an extreme of many points: no interval"
        rows.append(interval_row("h1/closest", exact(margin), _SHARE, weakest_points, words, note))
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
            flat = {w: {s: v for s, v in by.items() if math.isfinite(v)} for w, by in found.items()}
            for width, by in flat.items():
                if by:
                    made = seed_row(
                        f"h2/width={width:g}/slingshot_{j}/tau={tau:g}", PerSeed(by), "1",
                        f"{j} times the excess at which c_{j} reaches {tau:g}, over that of c_1",
                        contrast=False,
                    )  # fmt: skip
                    rows.append(_within(made, *SLINGSHOT_RANGE))
            slope = _slopes({width: by for width, by in flat.items() if by})
            if slope:
                rows.append(
                    seed_row(
                        f"h2/drift_{j}/tau={tau:g}", PerSeed(slope), "per factor e of width",
                        f"slope of slingshot_{j} on the logarithm of the width, seed by seed",
                    )
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
            if len(points) >= 2:
                values[seed] = float(np.polyfit(*zip(*points, strict=True), 1)[0])
        if values:
            made = seed_row(
                f"h3/slope/tau={tau:g}", PerSeed(values), "1",
                f"slope of ln k* on ln(1 / excess) over widths, k* the size of tuples on which "
                f"competence is {tau:g}, between 1 and the answers of a text",
                contrast=False,
            )  # fmt: skip
            rows.append(_against(made, 1.0, "doubling for half the excess"))
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
            f"h4/residual_{k}", _SHARE,
            f"success on texts of {k} skills less the product of the single skills' accuracies, "
            "where it is lowest along the run",
            arm, lambda run, k=k: min(
                measures.product_residual(o, k, of=one)
                for o, one in zip(
                    measures.looks(run, f"k{k}"), measures.looks(run, "k1"), strict=True)),
            True,
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
                f"h5/held_out={share:g}/gap", PerSeed(found), _SHARE,
                f"success on seen less on held-out texts of {size} skills at the end; training "
                f"shows {pairs:.3g} distinct pairs a skill",
            )
        )  # fmt: skip
        rows.append(
            seed_row(
                f"h5/held_out={share:g}/success", PerSeed(
                    {s: 1 - run.outcomes(f"k{size}/{HELD_OUT}", -1).theta for s, run in arm.items()}
                ), _SHARE, f"success on held-out texts of {size} skills at the end", contrast=False,
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
        found = row(
            f"h6/zipf={zipf:g}/slope", "1",
            "slope of ln(updates until a skill's accuracy is one half) on ln rank",
            arm, lambda run: measures.rank_slope(measures.emergence_steps(run, name)),
        )  # fmt: skip
        rows += [_against(r, zipf, "the time goes as one over the measure") for r in found]
    return rows


def jump_rows(name: str, arm: Arm, which: str) -> list[Row]:
    """Whether failing is seen to fall faster than the excess: what a thresholded metric can invent.

    Schaeffer et al. 2023: the largest share of the whole change that falls between two looks.
    """
    rows = []
    for key, words, value in (
        ("excess", "excess", lambda a: a.delta_N),
        ("failed", "share of failed texts", lambda a: a.theta_N),
        ("wrong", "share of wrong answers", lambda a: 1 - a.joint_NxA[:, 0]),
    ):
        rows += row(
            f"trained/{name}/{which}/jump_{key}", _SHARE,
            f"largest part of the whole change of the {words} between two looks",
            arm, lambda run, value=value: _jump(value(measures.along(run, which))),
        )  # fmt: skip
    return rows


# ---- parts ---------------------------------------------------------------------------------------


def _independent(config) -> bool:
    """Whether the skills of a text are independent, as the bounds need."""
    return not config.language.held_out


def _check_failed(outcomes, run: Trained, where: str) -> None:
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


def _at_theta(run: Trained, which: str, alpha: float, theta: float) -> Weakest:
    outcomes = measures.looks(run, which)
    near = min(outcomes, key=lambda o: abs(o.theta - theta))
    found = weakest(near, alpha, languages.measure(run.config.language))
    if abs(near.theta - theta) > theta / 2:
        return _unknown(found)
    return found


def _unknown(found: Weakest) -> Weakest:
    return Weakest(**{**vars(found), "error": math.nan})


def _largest(values) -> float:
    values = [v for v in values if math.isfinite(v)]
    return max(values, key=abs) if values else math.nan


def _jump(values_N: np.ndarray) -> float:
    whole = values_N[0] - values_N[-1]
    return float(-np.diff(values_N).min() / whole) if whole > 0 else math.nan


def _half_step(run: Trained, k: int) -> float:
    seen: Along = measures.along(run, f"k{k}")
    reached = np.flatnonzero(seen.theta_N <= 0.5)
    if not len(reached):
        return math.nan
    i = reached[0]
    if not i:
        return 0.0
    share = (seen.theta_N[i - 1] - 0.5) / (seen.theta_N[i - 1] - seen.theta_N[i])
    return float(seen.steps_N[i - 1] + share * (seen.steps_N[i] - seen.steps_N[i - 1]))


def _slopes(found: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """Per seed, the slope on ln(width) where at least two widths have a number."""
    slopes = {}
    for seed in sorted({s for by in found.values() for s in by}):
        points = [(math.log(width), by[seed]) for width, by in found.items() if seed in by]
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
