"""Rows of a series: intervals against other libraries, and invented models whose law is known."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from absl.testing import parameterized
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from llm_dynamics.errors import UserError
from llm_dynamics.skills import measures, resampling, series_rows
from llm_dynamics.skills.asked import Asked, Settings
from llm_dynamics.skills.labelled import Labelled, Question
from llm_dynamics.skills.line_rows import crossing, lines
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.product_law import ProductLaw, fitted_exponent, product_law
from llm_dynamics.skills.series import Point

SKILLS = ("add", "carry", "double", "even", "first")


def asked_of(single=300, pairs=600, groups=0, seed=0) -> Labelled:
    """Questions of one skill and of two, each group of several if asked for."""
    rng = np.random.default_rng(seed)
    chosen = [
        rng.choice(len(SKILLS), 1 + (t >= single), replace=False) for t in range(single + pairs)
    ]
    return Labelled(
        tuple(
            Question(f"q{t}", "c", ("t",), 0, tuple(SKILLS[s] for s in some),
                f"g{t % groups}" if groups else f"q{t}")
            for t, some in enumerate(chosen)
        ),
        "invented",
    )  # fmt: skip


def answered(labelled: Labelled, right_S, seed=0, power=1.0, loss=None) -> Outcomes:
    """A model that has each skill with its probability, independently, pairs to a power."""
    rng = np.random.default_rng([seed, 1])
    p_TxK = np.where(labelled.skills_TxK < 0, 1.0, np.asarray(right_S)[labelled.skills_TxK])
    p_T = p_TxK.prod(axis=1) ** np.where(labelled.sizes_T > 1, power, 1.0)
    right_T = rng.random(len(p_T)) < p_T
    loss_T = np.where(right_T, 0.1, 1.0) if loss is None else np.full(len(p_T), loss)
    return Outcomes(labelled.skills_TxK, right_T[:, None], loss_T, len(SKILLS))


class IntervalsTest(parameterized.TestCase):
    def test_shares_of_independent_questions_are_wilsons(self):
        right_T = np.arange(40) < 13
        found, n = resampling.share(right_T, np.arange(40))
        ends = proportion_confint(13, 40, method="wilson")
        np.testing.assert_allclose([found.low[0], found.high[0]], ends)
        assert (found.value[0], n) == (13 / 40, 40)

    @parameterized.parameters(0.0, 1.5)
    def test_shares_of_groups_are_worth_their_variance(self, alike):
        rng = np.random.default_rng(3)
        group_T = np.repeat(np.arange(60), 5)
        level_T = alike * rng.standard_normal(60)[group_T]
        right_T = rng.random(300) < 1 / (1 + np.exp(-level_T))
        fit = sm.OLS(right_T.astype(float), np.ones(300)).fit(
            cov_type="cluster", cov_kwds={"groups": group_T}
        )
        p = right_T.mean()
        effective = min(p * (1 - p) / fit.bse[0] ** 2, 300)
        ends = proportion_confint(p * effective, effective, method="wilson")
        found, n = resampling.share(right_T, group_T)
        np.testing.assert_allclose([found.low[0], found.high[0]], ends)
        assert n == 60 and (effective < 200) == (alike > 0)

    def test_shares_at_the_ends_count_groups(self):
        found, n = resampling.share(np.ones(50, bool), np.repeat(np.arange(10), 5))
        np.testing.assert_allclose(found.low[0], proportion_confint(10, 10, method="wilson")[0])
        assert n == 10
        none, n = resampling.share(np.ones(0, bool), np.ones(0, int))
        assert np.isnan(none.value[0]) and n == 0

    def test_resampled_means_are_the_bootstraps(self):
        rng = np.random.default_rng(4)
        value_T = rng.exponential(size=200)
        weights = resampling.weights(np.arange(200), 4000, 0)
        found, why = resampling.interval(resampling.mean(weights, value_T))
        ends = stats.bootstrap(
            (value_T,), np.mean, method="percentile", n_resamples=4000, rng=rng
        ).confidence_interval
        assert found.value[0] == pytest.approx(value_T.mean()) and not why
        np.testing.assert_allclose([found.low[0], found.high[0]], ends, rtol=0.02)
        # Questions that are copies of each other are worth no more than one.
        copies = resampling.weights(np.repeat(np.arange(200), 3), 4000, 0)
        again, _ = resampling.interval(resampling.mean(copies, np.repeat(value_T, 3)))
        np.testing.assert_allclose(again.low, found.low, rtol=0.02)

    def test_no_interval_is_said(self):
        _, why = resampling.interval(np.array([1.0] + [np.nan] * 60 + [1.0, 2.0] * 20))
        assert why == "no interval: only 40 of 100 resamples have a number"
        found, why = resampling.interval(np.ones(101))
        assert why == "no interval: all resamples agree" and np.isnan(found.low[0])
        found, _ = resampling.interval(np.array([1.0, 0.5] + [1.0] * 90 + [np.inf] * 9))
        assert (found.low[0], found.high[0]) == (1.0, np.inf)


class ProductLawTest(parameterized.TestCase):
    def test_the_residual_is_that_of_synthetic_texts(self):
        asked = asked_of()
        outcomes = answered(asked, [0.9, 0.8, 0.7, 0.6, 0.5])
        weights = resampling.weights(asked.group_T, 50, 0)
        law = product_law(outcomes, asked.sizes_T, 2, weights)
        one, two = (outcomes.take(asked.sizes_T == k) for k in (1, 2))
        one = Outcomes(one.skills_TxK[:, :1], one.right_TxA, one.excess_T, len(SKILLS))
        expected = measures.product_residual(two, 2, of=one)
        np.testing.assert_allclose(law.residual_R[0], expected, atol=1e-7)
        np.testing.assert_allclose(law.success_R[0], 1 - two.theta)
        np.testing.assert_allclose(law.single_R[0], 1 - one.theta)
        assert law.left_out == 0 and len(law.questions) == 600

    @parameterized.parameters(([0.9, 0.8, 0.7, 0.6, 0.5],), ([0.98] * 5,), ([0.1] * 5,))
    def test_intervals_cover_what_is_true(self, right_S):
        """Independent skills: 0 lies within the interval in about 95 of 100 cases."""
        outside = 0
        for seed in range(60):
            labelled = asked_of(150, 150, seed=seed)
            outcomes = answered(labelled, right_S, seed)
            asked = Asked(labelled, Settings(resamples=100, seed=seed))
            rows = series_rows._law_rows("x", asked.law(outcomes, 2), ~outcomes.failed_T, asked)
            residual = next(row for row in rows if row["name"] == "x/residual")
            outside += not residual["low"] <= 0 <= residual["high"]
            few = min(right_S) > 0.95 or max(right_S) < 0.2
            assert not few or series_rows.FEW_WORDS in residual["note"]
        assert outside <= 7

    @parameterized.parameters((56, 70, 48, 80), (9, 10, 3, 10), (10, 10, 0, 20))
    def test_differences_of_shares_are_newcombes(self, a, n, b, m):
        above, below = (
            resampling.share(np.arange(t) < k, np.arange(t))[0] for k, t in ((a, n), (b, m))
        )
        found = resampling.difference(above, below)
        ends = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
        np.testing.assert_allclose([found.low[0], found.high[0]], ends)

    def test_a_skill_without_single_questions_is_left_out(self):
        asked = asked_of()
        kept = [q for q in asked.questions if q.skills != ("add",)]
        fewer = Labelled(tuple(kept), "invented")
        outcomes = answered(fewer, [0.5] * 5)
        weights = resampling.weights(fewer.group_T, 50, 0)
        law = product_law(outcomes, fewer.sizes_T, 2, weights)
        assert law.left_out == sum("add" in q.skills for q in kept) > 100
        names = {skill for t in law.questions for skill in fewer.questions[t].skills}
        assert names == set(SKILLS[1:])

    def test_exponents(self):
        x_N = np.array([0.2, 0.5, 0.8])
        found = fitted_exponent(np.stack([x_N, x_N, [0.0, 1.0, 1.0], x_N, x_N]),
            np.stack([x_N**2, x_N**3.3, [0, 1, 1], 0 * x_N, x_N**0]))  # fmt: skip
        np.testing.assert_allclose(found[:2], [2, 3.3], rtol=1e-3)
        assert np.isnan(found[2:]).all()  # nothing to fit, and ends of the search

    def test_no_exponent_where_success_is_0_or_1(self):
        x_R, y_R = np.array([0.5, 0.5, 0.5, 1.0, 0.0]), np.array([0.25, 1.0, 0.0, 0.5, 0.5])
        law = ProductLaw(2, np.arange(1), 0, x_R, y_R, y_R, x_R**2)
        np.testing.assert_array_equal(law.exponent_R, [2] + [np.nan] * 4)


def test_where_a_line_crosses():
    y_NxS = np.array([[0.0, 0.6, 0.0, 0.2], [0.4, 0.7, 0.1, 0.6], [0.6, 0.4, 0.2, 0.1]])
    found = crossing(np.array([0.0, 10.0, 30.0]), y_NxS[None], 0.5)
    np.testing.assert_allclose(found, [[20.0, -np.inf, np.inf, 7.5]])


def series(asked: Labelled, rights, run="run", params=10, losses=None, power=1.0) -> list[Point]:
    return [
        Point(run, 10 * i, 100 * i, params,
            answered(asked, right_S, i, power, None if losses is None else losses[i]))
        for i, right_S in enumerate(rights)
    ]  # fmt: skip


def test_lines_are_runs_and_sizes():
    asked = asked_of(20, 20)
    points = [
        *series(asked, [[0.5] * 5] * 2, "b", 20),
        *series(asked, [[0.5] * 5] * 2, "a", 10),
        *series(asked, [[0.5] * 5], "c", 30),
    ]
    found = {line.name: line for line in lines(points[::-1])}
    assert list(found) == ["a", "b", "sizes"] or set(found) == {"a", "b", "sizes"}
    assert found["a"].x_N.tolist() == [0, 10]
    assert found["sizes"].x_N.tolist() == [10, 20, 30]
    assert [p.name for p in found["sizes"].points] == ["a/step=10", "b/step=10", "c/step=0"]
    same = [*series(asked, [[0.5] * 5], "a"), *series(asked, [[0.5] * 5], "b")]
    assert lines(same) == []


class RowsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.asked = asked_of(400, 800)
        # Skills come one after another, the first named first.
        time = np.linspace(0, 1, 9)[:, None]
        cls.rights = np.clip(4 * time - 0.55 * np.arange(5) - 0.1, 0.02, 0.98)
        cls.losses = np.geomspace(2, 0.2, 9)
        cls.points = series(cls.asked, cls.rights, losses=cls.losses)
        # Frequencies fall along the names.
        cls.settings = Settings(
            taus=(0.5, 0.7), frequency={skill: 1 / (s + 1) for s, skill in enumerate(SKILLS)}
        )
        found = series_rows.rows(cls.points, cls.asked, cls.settings)
        cls.rows, cls.count = {r["name"]: r for r in found}, len(found)

    def test_every_row_says_what_it_is(self):
        for name, row in self.rows.items():
            assert row["definition"] and row["unit"] and row["n"] > 0, name
            if row["low"] is None:
                assert row["note"], name
            else:
                assert row["low"] <= row["value"] + 1e-9 and row["value"] <= row["high"] + 1e-9
        assert len(self.rows) == self.count  # no name twice

    def test_theta_competence_and_single_skills(self):
        outcomes = self.points[4].outcomes
        row = self.rows["run/step=40/theta"]
        assert row["value"] == pytest.approx(outcomes.theta) and row["n"] == 1200
        assert "at most loss / ln 2 = 0.9124" in row["note"]
        for s, skill in enumerate(SKILLS):
            at = f"run/step=40/skill/{skill}"
            error = outcomes.error_S[self.asked.skills.index(skill)]
            assert self.rows[f"{at}/competence"]["value"] == pytest.approx(1 - error)
            alone = self.rows[f"{at}/alone"]
            assert alone["low"] - 0.05 <= self.rights[4, s] <= alone["high"] + 0.05

    def test_independent_skills_follow_the_product_and_not_the_power(self):
        shown = [self.rows[f"run/step={10 * i}/k=2/residual"]["note"] for i in range(9)]
        assert sum("not shown" in note or "no interval" in note for note in shown) >= 8
        # Skills differ, so success on pairs is not the square of the mean.
        assert self.rows["run/step=40/k=2/power_residual"]["value"] < 0

    def test_skills_that_fail_together_are_below_the_product(self):
        points = series(self.asked, [[0.8] * 5], power=2.0)
        rows = {r["name"]: r for r in series_rows.rows(points, self.asked, self.settings)}
        assert rows["run/step=0/k=2/residual"]["high"] < 0
        assert rows["run/step=0/k=2/exponent"]["low"] > 2
        assert "not shown" not in rows["run/step=0/k=2/exponent"]["note"]

    def test_the_slingshot_ratio_is_over_losses(self):
        names = [f"run/step={10 * i}" for i in range(9)]
        had = {
            k: np.array([self.rows[f"{name}/k={k}/success"]["value"] for name in names])
            for k in (1, 2)
        }
        at = {k: measures.excess_at(self.losses, had[k], 0.7) for k in (1, 2)}
        row = self.rows["run/slingshot_2/tau=0.7"]
        assert row["value"] == pytest.approx(2 * at[2] / at[1])
        assert row["low"] < row["value"] < row["high"]

    def test_the_order_of_emergence(self):
        found = [self.rows[f"run/emergence/{skill}"]["value"] for skill in SKILLS]
        assert found == sorted(found)
        assert self.rows["run/emergence/frequency"]["value"] == pytest.approx(-1)
        orders = [name for name in self.rows if name.startswith("run/order/")]
        assert orders == [f"run/order/{a}<{b}" for a, b in itertools.pairwise(SKILLS)]
        assert self.rows["run/emergence/orders_shown"]["value"] > 0.5
        same = series(self.asked, [[p] * 5 for p in (0.1, 0.5, 0.9)])
        rows = {r["name"]: r for r in series_rows.rows(same, self.asked, self.settings)}
        assert rows["run/emergence/orders_shown"]["value"] < 0.3
        notes = [row["note"] for name, row in rows.items() if "/order/" in name]
        assert any("order not shown" in note for note in notes)

    def test_a_skill_that_does_not_emerge_has_no_number(self):
        points = series(self.asked, [[0.9, 0.1, 0.5, 0.5, 0.5], [0.9, 0.1, 0.9, 0.9, 0.9]])
        rows = {r["name"]: r for r in series_rows.rows(points, self.asked, self.settings)}
        row = rows["run/emergence/carry"]
        assert row["value"] is None and "not within the series" in row["note"]

    def test_a_broken_bound_is_reported_and_stops_nothing(self):
        """Pairs always of the same two skills: they are no independent draws."""
        pairs = [("add", "carry"), ("double", "even")]
        asked = Labelled(
            tuple(
                Question(f"q{t}", "c", ("t",), 0, pairs[t % 20 > 0], f"q{t}") for t in range(2000)
            ),
            "invented",
        )
        right_T = np.arange(2000) % 20 > 0
        outcomes = Outcomes(asked.skills_TxK, right_T[:, None], 1.0 - right_T, 4)
        found = series_rows.rows([Point("run", 0, 0, 0, outcomes)], asked, Settings(alphas=(0.05,)))
        rows = {row["name"]: row for row in found}
        assert rows["weakest/above"]["value"] == 1
        assert "not independent" in rows["run/step=0/k=2/weakest/alpha=0.05/error"]["note"]
        assert "run/step=0/k=2/product" not in rows  # no single-skill questions

    def test_weakest_skills_rest_on_groups(self):
        asked = asked_of(400, 0, groups=40)
        failed_T = np.arange(40)[asked.group_T] % 3 == 0  # a group as one
        outcomes = Outcomes(asked.skills_TxK, ~failed_T[:, None], failed_T * 1.0, len(SKILLS))
        found = series_rows.rows([Point("run", 0, 0, 0, outcomes)], asked, Settings(alphas=(0.5,)))
        row = {r["name"]: r for r in found}["run/step=0/k=1/weakest/alpha=0.5/error"]
        assert 15 < row["n"] < 25 and row["high"] - row["low"] > 0.3

    def test_halves_have_no_group_in_common(self):
        group_T = np.random.default_rng(0).integers(12, size=200)
        order = series_rows._halved(np.arange(50, 200), group_T)
        assert not set(group_T[order[::2]]) & set(group_T[order[1::2]])
        assert len(set(order)) == len(order) > 80 and order.min() >= 50

    def test_what_cannot_be_asked(self):
        with pytest.raises(UserError, match="frequency above 0 of skill 'even', got none"):
            Asked(self.asked, Settings(frequency={s: 1 for s in SKILLS if s != "even"}))
        with pytest.raises(UserError, match="at least one checkpoint"):
            series_rows.rows([], self.asked, self.settings)
        for wrong in ({"taus": (1.0,)}, {"alphas": (0.0,)}, {"level": 2}, {"resamples": 3}):
            with pytest.raises(UserError, match="expected"):
                Settings(**wrong)
