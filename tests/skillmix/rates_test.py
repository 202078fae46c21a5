"""Intervals against their oracles, saturation points, the parrot bound and the published table."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval
from llm_dynamics.skillmix import parrot, published, rates
from llm_dynamics.skillmix.parrot import Corpus


def ends(found):
    return [float(np.ravel(end)[0]) for end in found]


def test_shares_get_wilsons_interval_and_missing_items_none():
    values = np.array([1.0] * 12 + [0.0] * 88)
    wanted = [0.12, *proportion_confint(12, 100, method="wilson")]
    np.testing.assert_allclose(ends(rates.interval(values)), wanted)
    with_missing = np.concatenate([values, [np.nan] * 5])
    np.testing.assert_allclose(ends(rates.interval(with_missing)), wanted)
    assert rates.standard_error(with_missing) == pytest.approx(0.0325, abs=1e-4)
    assert ends(rates.interval(np.zeros(10)))[2] > 0.2  # none of ten proves little
    assert all(map(math.isnan, ends(rates.interval(np.array([np.nan])))))


def test_fractions_get_student_or_the_bootstrap():
    values = np.random.default_rng(0).choice([0, 1 / 3, 2 / 3, 1], 60)
    test = stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(ends(rates.interval(values, "student"))[1:], [test.low, test.high])
    _, low, high = ends(rates.interval(values))
    assert low == pytest.approx(test.low, abs=0.02) and high == pytest.approx(test.high, abs=0.02)
    assert math.isnan(ends(rates.interval(np.full(5, 0.5)))[1])
    with pytest.raises(UserError, match="for shares"):
        rates.interval(values, "wilson")
    with pytest.raises(UserError, match="unknown interval"):
        rates.interval(values, "wald")


def test_rows_say_what_missing_items_change():
    rows = {r["name"]: r for r in rates.score_rows("s", np.array([1, 1, 0, np.nan]), "a share")}
    assert rows["s"]["value"] == pytest.approx(2 / 3) and rows["s"]["n"] == 3
    assert rows["s/missing_as_0"]["value"] == 0.5 and rows["s/missing_as_0"]["n"] == 4
    assert "1 items missing" in rows["s"]["note"]
    none = rates.score_rows("s", np.array([np.nan]), "a share")[0]
    assert none["value"] is None and "no item" in none["note"]


def intervals(**by_k):
    return {int(k[1:]): Interval(*(np.array([x]) for x in v)) for k, v in by_k.items()}


def test_the_saturation_point_and_what_its_intervals_allow():
    found = intervals(k2=(0.4, 0.3, 0.5), k3=(0.06, 0.02, 0.14), k4=(0.0, 0.0, 0.04))
    assert rates.saturation(found) == {"k": 4, "earliest": 3, "latest": 4}
    row = rates.saturation_row("s", found)
    assert (row["value"], row["low"], row["high"]) == (4, 3, 4)
    open_end = rates.saturation_row("s", intervals(k2=(0.03, 0.01, 0.1)))
    assert open_end["value"] == 2 and open_end["low"] is None and "no upper end" in open_end["note"]
    assert rates.saturation_row("s", intervals(k2=(0.5, 0.4, 0.6)))["value"] is None
    unknown = rates.saturation_row("s", intervals(k2=(math.nan,) * 3))
    assert unknown["n"] == 0 and unknown["note"] == "no k has a score"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("LLaMA-2-7B-Chat", 2), ("LLaMA-2-13B-Chat", 3), ("LLaMA-2-70B-Chat", 3), ("GPT-4", None)],
)
def test_published_models_saturate_where_the_paper_says(model, wanted):
    table = published.leaderboard().scores[model]
    found = {k: Interval(*np.full((3, 1), cell["full_marks"])) for k, cell in table.items()}
    assert rates.saturation(found)["k"] == wanted


def test_the_published_table_is_consistent():
    table = published.leaderboard()
    assert len(table.scores) == 10 and table.scores["GPT-4"][5]["skill_fraction"] == 0.79
    for by_k in table.scores.values():
        for cell in by_k.values():
            assert cell["full_marks"] <= cell["all_skills"] and cell["full_marks"] <= 1
            assert cell["full_marks"] <= cell["skill_fraction"]


@pytest.mark.parametrize(("k", "wanted"), [(4, 4.73), (5, 0.0681), (6, 0.00098)])
def test_combinations_a_corpus_can_hold(k, wanted):
    assert parrot.seen(k, Corpus()) == pytest.approx(wanted, rel=2e-3)


def test_gpt4_clears_the_third_weakly_at_5_and_well_at_6():
    assert parrot.margin(5, 0.12, 100, Corpus()) == pytest.approx(0.55, abs=0.01)
    assert parrot.margin(5, 0.12, 100, Corpus(), share=0) == pytest.approx(1.6, abs=0.01)
    assert parrot.margin(6, 0.08, 100, Corpus()) == pytest.approx(2.9, abs=0.05)
    alpha = rates.share(12, 100)
    value, low, high = ends(parrot.unseen(5, alpha, Corpus()))
    assert value == pytest.approx(1 - 0.0681 / 0.12, abs=1e-3) and low < 1 / 3 < value < high
    longer = Corpus(sentences=5e11)
    assert ends(parrot.unseen(5, alpha, longer))[0] == 0
    assert parrot.seen(5, longer) == pytest.approx(0.68, abs=0.005)
    assert ends(parrot.unseen(6, rates.share(8, 100), longer))[1] > 1 / 3


def test_correlated_skills_go_together_as_drawn_ones_do():
    assert parrot.inflation(4, 0.0144, 0) == 1
    rate, rho = 0.2, 0.3
    assert parrot.inflation(2, rate, rho) == pytest.approx(1 + rho * (1 - rate) / rate)
    generator = np.random.default_rng(0)
    size = 1 / rho - 1  # a + b of the beta distribution whose draws correlate by rho
    rate_S = generator.beta(rate * size, (1 - rate) * size, 400_000)
    assert (rate_S**3).mean() / rate**3 == pytest.approx(parrot.inflation(3, rate, rho), rel=0.02)


def test_rows_of_the_bound():
    rows = {
        r["name"]: r
        for r in parrot.parrot_rows("k5", 5, rates.share(12, 100), 100, Corpus(), (1, 10))
    }
    assert rows["k5/unseen_at_least"]["low"] is not None
    assert rows["k5/unseen_at_least/corpus_x10"]["value"] == 0
    assert rows["k5/margin"]["value"] == pytest.approx(0.55, abs=0.01)
    assert rows["k5/margin"]["unit"] == "standard errors"
    _, none, margin = parrot.parrot_rows("k5", 5, rates.share(0, 100), 100, Corpus())
    assert none["value"] is None and "no success" in none["note"]
    assert margin["value"] is None and "no standard error" in margin["note"]
    nothing = rates.interval(np.array([np.nan]))
    assert parrot.parrot_rows("k5", 5, nothing, 0, Corpus())[-1]["value"] is None
    for key in ("skill_rate", "topic_rate", "correlation", "sentences"):
        with pytest.raises(UserError, match="expected"):
            Corpus(**{key: -1.0})
