"""The law of a continual run: published fits by hand, recovery from made curves, prediction."""

import json
import math

import numpy as np
import pytest

from llm_dynamics.continual.areas import Areas
from llm_dynamics.continual.curve_fit import BLOCKS, JACKKNIFE, fit_curves
from llm_dynamics.continual.curve_law import (
    EQ8,
    POWER,
    PUBLISHED,
    REPLAY_NAMES,
    Curve,
    at_steps,
    evaluate,
    gradient,
    mean_relative_error,
)
from llm_dynamics.errors import UserError

DECAY = 0.99
TRUE = {"L0": 2.5, "A": 0.6, "alpha": 0.45, "C1": 0.5, "C2": 0.7, "B": 0.8, "E": 20.0, "beta": 0.3}
REPLAY = {"a1": 0.8, "a2": 1.5}
FIRST, SECOND = 600, 400
SATURATING = {"a1": 0.8, "b": 150.0, "a": 0.6}
# Loss on the old data at the end of a small study by share of replay, and before it.
PILOT = {0.0: 7.407, 0.01: 5.089, 0.05: 4.566, 0.25: 4.074, 0.5: 3.868}
PILOT_BASE = 3.880
STEPS = np.arange(20, FIRST + SECOND + 1, 20)


def _cosine(peak, floor, steps):
    return floor + (peak - floor) / 2 * (1 + np.cos(np.pi * np.arange(steps) / steps))


def _rates(kind):
    first = _cosine(3e-3, 3e-4, FIRST)
    second = {
        "cosine": _cosine(3e-3, 3e-4, SECOND),
        "half": _cosine(1.5e-3, 1.5e-4, SECOND),
        "floor": np.full(SECOND, 3e-4),
        "wsd": np.concatenate([np.full(300, 2e-3), np.linspace(2e-3, 0, 100)]),
    }[kind]
    return np.concatenate([first, second])


def _curve(kind, parameters=TRUE, which="old", replay=0.0, seed=0, noise=0.0):
    at = at_steps(_rates(kind), FIRST, STEPS, DECAY)
    losses = evaluate(parameters, at, replay, which)
    rng = np.random.default_rng([seed, *kind.encode()])
    return Curve(
        seed,
        STEPS,
        losses * np.exp(noise * rng.normal(size=len(STEPS))),
        _rates(kind),
        FIRST,
        replay,
    )


def test_published_fits_by_hand():
    at = Areas(*(np.array([v]) for v in (8.0, 2.0, 0.5, 0.25)))
    found = evaluate(PUBLISHED["FineWeb"], at, 0.0, "old")[0]
    by_hand = 3.057 + 0.490 * 10**-0.497 + 0.366 * (1 - 57**-0.189) - 0.299 * 0.5 - 0.298 * 0.25
    assert found == pytest.approx(by_hand) == pytest.approx(3.1846, abs=1e-4)
    found = evaluate(PUBLISHED["Knowledge-Pile"], at, 0.0, "new")[0]
    by_hand = 3.024 + 0.412 * 10**-0.677 - 0.666 * (1 - 11325**-0.146) - 0.139 - 0.324 * 0.25
    assert found == pytest.approx(by_hand) == pytest.approx(2.3951, abs=1e-4)


def test_replay_by_hand():
    at = Areas(*(np.array([v]) for v in (1.0, 1.0, 0.0, 0.5)))
    p = TRUE | REPLAY
    shift = 0.8 * (1 - 21**-0.3)
    trunk = 2.5 + 0.6 * 2**-0.45
    old = trunk - 0.35 * math.exp(0.8 * 0.25) + shift * (1 - math.exp(-1.5 * 0.75))
    new = trunk - 0.35 * math.exp(0.8 * 0.75) - shift * (math.exp(1.5 * 0.75) - 1)
    assert evaluate(p, at, 0.25, "old")[0] == pytest.approx(old)
    assert evaluate(p | {"B": -0.8}, at, 0.25, "new")[0] == pytest.approx(new)
    for which in ("old", "new"):
        alone = Areas(*(part * flag for part, flag in zip(at, (1, 1, 1, 0), strict=True)))
        assert evaluate(p, alone, 1.0, which)[0] == pytest.approx(trunk)


def test_power_of_the_share_by_hand():
    at = Areas(*(np.array([v]) for v in (1.0, 1.0, 0.0, 0.5)))
    trunk = 2.5 + 0.6 * 2**-0.45
    annealed = 0.35 * math.exp(0.8 * 0.25)
    old = trunk - annealed + 0.8 * (1 - (1 + 20 * 38.5) ** -0.3) * 38.5**-0.6
    new = trunk - annealed - 0.8 * (1 - (1 + 20 * 0.75**2) ** -0.3)
    assert evaluate(TRUE | SATURATING, at, 0.25, "old")[0] == pytest.approx(old)
    p = TRUE | {"B": -0.8, "a1": 0.8, "a": 2.0}
    assert evaluate(p, at, 0.25, "new")[0] == pytest.approx(new)
    # Without replay it is Eq. 4; with nothing else, nothing new is learned.
    assert evaluate(p, at, 0.0, "new") == pytest.approx(evaluate(TRUE | {"B": -0.8}, at, 0, "new"))
    assert evaluate(p, at, 1.0, "new")[0] == pytest.approx(trunk - 0.35 * math.exp(0.8))


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("form", ["", EQ8, POWER])
def test_gradient_is_that_of_differences(form, which):
    rng = np.random.default_rng(0)
    at = Areas(*(rng.uniform(0.1, 2, 7) for _ in range(4)))
    share_S = rng.uniform(0, 0.9, 7)
    names = REPLAY_NAMES[form][which] if form else ()
    p = TRUE | dict(zip(names, (0.3, 1.5, 0.6), strict=False))
    found = gradient(p, at, share_S, which)
    assert set(found) == set(p)
    for name, value in p.items():
        ends = [evaluate(p | {name: value + step}, at, share_S, which) for step in (1e-6, -1e-6)]
        np.testing.assert_allclose(found[name], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-8)


def test_more_of_the_same_is_one_run():
    p = TRUE | {"B": 0.0, "C2": TRUE["C1"]}
    two = evaluate(p, at_steps(_rates("half"), FIRST, STEPS), 0.0, "old")
    one = evaluate(p, at_steps(_rates("half"), FIRST + SECOND, STEPS), 0.0, "old")
    np.testing.assert_allclose(two, one)


@pytest.mark.parametrize(("which", "sign"), [("old", 1), ("new", -1)])
def test_parameters_are_recovered_and_a_third_schedule_predicted(which, sign):
    true = TRUE | {"B": sign * TRUE["B"]}
    curves = [_curve(kind, true, which, noise=5e-4) for kind in ("cosine", "floor")]
    found = fit_curves(curves, which, decays=(0.95, DECAY), resamples=20)
    assert found.decay == DECAY and found.method == BLOCKS
    for name in ("L0", "C1", "C2"):
        assert found.parameters[name] == pytest.approx(true[name], rel=0.1), name
    assert np.sign(found.parameters["B"]) == sign
    assert found.error < 1e-3
    unseen = _curve("wsd", true, which)
    assert found.relative_error(unseen) < 0.01
    assert found.relative_error(_curve("half", true, which)) < 0.003
    band = found.predict(unseen.rates_T, FIRST, [FIRST + SECOND])
    assert 0 < band.high[0] - band.low[0] < 0.02 * band.value[0]
    assert band.low[0] < unseen.losses_S[-1] < band.high[0]
    rows = found.rows("old")
    json.dumps(rows, allow_nan=False)
    assert {row["name"] for row in rows} >= {"old/L0", "old/E", "old/relative_error"}
    assert all(row["note"] in (BLOCKS, "in sample") for row in rows)


def test_exact_curves_give_exact_parameters():
    found = fit_curves(
        [_curve(kind) for kind in ("cosine", "floor", "wsd")], "old", (DECAY,), resamples=0
    )
    for name, value in TRUE.items():
        assert found.parameters[name] == pytest.approx(value, rel=1e-3), name
    assert np.isnan(found.predict(_rates("half"), FIRST, [FIRST]).low[0])


def test_an_unseen_share_is_predicted():
    p = TRUE | REPLAY
    curves = [
        _curve(kind, p, replay=share, noise=5e-4)
        for kind, share in (("cosine", 0.0), ("cosine", 0.05), ("cosine", 0.5), ("half", 0.25))
    ]
    found = fit_curves(curves, "old", (DECAY,), resamples=0)
    assert found.replay is None
    assert found.relative_error(_curve("half", p, replay=0.1)) < 0.01
    one_share = fit_curves(curves[:1], "old", (DECAY,), resamples=0)
    with pytest.raises(UserError, match="several shares"):
        one_share.relative_error(curves[1])


def _sweep(shares, replay, which="old", **settings):
    true = TRUE | replay | ({} if which == "old" else {"B": -TRUE["B"]})
    made = [_curve("cosine", true, which, share, **settings) for share in shares]
    return [*made, _curve("half", true, which, **settings)]


@pytest.mark.parametrize(
    ("which", "replay", "form"),
    [
        ("old", REPLAY, EQ8),
        ("new", REPLAY, EQ8),
        ("old", SATURATING, POWER),
        ("new", {"a1": 0.8, "a": 1.0}, POWER),
    ],
)
def test_form_of_replay_is_chosen_by_held_out_shares(which, replay, form):
    curves = _sweep((0.0, 0.01, 0.05, 0.25, 0.5), replay, which, noise=5e-4)
    found = fit_curves(curves, which, (DECAY,), resamples=0)
    assert found.form == form
    errors = {one: by_seed[0] for one, by_seed in found.form_errors.items()}
    assert errors[form] == min(errors.values()) < 2e-3
    true = TRUE | replay | ({} if which == "old" else {"B": -TRUE["B"]})
    assert found.relative_error(_curve("half", true, which, 0.1)) < 5e-3
    other = fit_curves(curves, which, (DECAY,), resamples=0, form=({EQ8, POWER} - {form}).pop())
    assert other.form != form and other.form_errors == {} and other.cost > found.cost


def test_errors_of_a_form_are_those_of_shares_it_was_not_fitted_to():
    curves = _sweep((0.0, 0.01, 0.05, 0.25, 0.5), SATURATING, noise=5e-4)
    found = fit_curves(curves, "old", (DECAY,), resamples=0)
    errors = []
    for share in (0.01, 0.05, 0.25):
        others = [curve for curve in curves if curve.replay != share]
        law = fit_curves(others, "old", (DECAY,), resamples=0, form=EQ8)
        (held,) = (curve for curve in curves if curve.replay == share)
        late_S = STEPS > FIRST
        predicted_S = law.predict(held.rates_T, FIRST, STEPS[late_S], share).value
        errors.append(mean_relative_error(predicted_S, held.losses_S[late_S]))
    assert found.form_errors[EQ8][0] == pytest.approx(np.mean(errors), rel=0.05)
    assert found.form_errors[EQ8][0] > 2 * found.form_errors[POWER][0]


def test_few_shares_leave_the_form_at_the_power():
    found = fit_curves(_sweep((0.0, 0.05, 0.5), SATURATING), "old", (DECAY,), resamples=0)
    assert found.form == POWER and found.form_errors == {}
    assert "power of its share" in found.rows("x")[0]["definition"]


def test_small_shares_of_a_real_sweep_need_the_power():
    rates_T = _rates("cosine")
    at = at_steps(rates_T, FIRST, STEPS, DECAY)

    def rise_S(share):  # comes to rest sooner with replay, as real ones do
        way_S = 1 - (1 + 20 * (1 + 60 * share) * at.second_T) ** -0.5
        return way_S / way_S[-1]

    first_S = 3.2 + 0.6 * (at.first_T + at.second_T) ** -0.3
    first_S += PILOT_BASE - first_S[STEPS == FIRST]
    curves = [
        Curve(0, STEPS, first_S + (end - first_S[-1]) * rise_S(share), rates_T, FIRST, share)
        for share, end in PILOT.items()
    ]
    fits = {
        form: fit_curves(curves, "old", (DECAY,), resamples=0, form=form) for form in (EQ8, POWER)
    }
    worst = {
        form: max(
            abs(found.predict(rates_T, FIRST, [STEPS[-1]], share).value[0] / end - 1)
            for share, end in PILOT.items()
        )
        for form, found in fits.items()
    }
    assert worst[EQ8] > 0.1 and worst[POWER] < 0.04
    assert fits[EQ8].error > 0.03 and fits[POWER].error < 0.006
    assert fit_curves(curves, "old", (DECAY,), resamples=0).form == POWER


def test_a_fit_nearby_is_where_the_search_begins():
    curves = _sweep((0.0, 0.01, 0.05, 0.25, 0.5), SATURATING, noise=5e-4)
    whole = fit_curves(curves, "old", (0.95, DECAY), resamples=0)
    assert set(whole.tried) == {(form, d) for form in (EQ8, POWER) for d in (0.95, DECAY)}
    near = fit_curves(curves[1:], "old", (0.95, DECAY), resamples=0, near=whole)
    alone = fit_curves(curves[1:], "old", (0.95, DECAY), resamples=0)
    assert near.cost == pytest.approx(alone.cost, rel=0.02) and near.form == alone.form


def test_seeds_are_left_out_one_at_a_time():
    curves = []
    for seed, lift in enumerate((0.99, 1.0, 1.01)):
        for kind in ("cosine", "floor"):
            curves.append(_curve(kind, TRUE | {"L0": 2.5 * lift}, seed=seed, noise=3e-4))
    found = fit_curves(curves, "old", (DECAY,))
    assert found.method == JACKKNIFE and len(found.replicates) == 3 == found.seeds
    band = found.predict(_rates("wsd"), FIRST, [FIRST + SECOND])
    truth = _curve("wsd").losses_S[-1]
    # Three seeds 1 % apart: Student's half-width of their mean is about 4.3 * 1 % * 2.5 / sqrt(3).
    assert band.low[0] < truth < band.high[0]
    assert (band.high[0] - band.low[0]) / 2 == pytest.approx(0.062, rel=0.2)


def test_relative_error():
    assert mean_relative_error([1.1, 1.8], [1.0, 2.0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fit_curves([], "old"), "second stage"),
        (lambda: fit_curves([_curve("half")], "Pile"), "old or the new"),
        (lambda: fit_curves([_curve("half")], "old", form="Eq. 9"), "a form of"),
        (lambda: fit_curves([_curve("half")] * 2, "old"), "names of their own"),
        (lambda: Curve(0, np.array([1, 2]), np.array([1.0, 0.0]), np.ones(2), 1), "above 0"),
        (lambda: Curve(0, np.array([1, 2]), np.ones(2), np.ones(2), 1, 5), "fraction"),
        (lambda: Curve(0, np.array([1, 3]), np.ones(2), np.ones(2), 1), "between 1 and 2"),
        (lambda: Curve(0, np.array([2, 1]), np.ones(2), np.ones(2), 1), "rise"),
        (lambda: fit_curves([Curve(0, np.array([1, 2]), np.ones(2), np.ones(2), 1)], "old"), "24"),
        (lambda: at_steps(np.array([0.0, 1.0]), 1, [1, 2]), "rate above 0"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
