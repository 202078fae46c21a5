"""Could a model have seen all the combinations it masters? The bound on stochastic parrots.

A corpus of L sentences, each with any one skill at rate p_s and any one topic at rate p_t, all
independent, holds at most p_s^k p_t C(N, k) T L combinations of k of N skills and one of T topics.
A model that succeeds on a share alpha_k of the C(N, k) T has therefore, among its successes, at
least 1 - p_s^k p_t L / alpha_k that the corpus does not hold (Yu et al. 2023, Sec. 6; the general
form is derived, the paper asks whether it exceeds 1/3).

Independence is an assumption. Skills that go together occur together more often: pairwise
correlation rho between the k indicators multiplies the rate of all k, by the factor of
`inflation`. alpha_k is a best of several generations where scores are.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, exact, interval_row


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rates in a training corpus; the defaults are the paper's estimates for RedPajama.

    They are upper bounds on the skills and topics left after the common ones are dropped.
    """

    skill_rate: float = 0.0144  # p_s: share of the sentences with a given skill
    topic_rate: float = 0.0022  # p_t
    sentences: float = 5e10  # L
    correlation: float = 0.0  # rho: between the indicators of any two skills in a sentence

    def __post_init__(self):
        for key in ("skill_rate", "topic_rate"):
            if not 0 < getattr(self, key) < 1:
                raise UserError(f"expected 0 < {key} < 1, got {getattr(self, key)}")
        if not 0 < self.sentences < math.inf:
            raise UserError(f"expected a number of sentences > 0, got {self.sentences}")
        if not 0 <= self.correlation < 1:
            raise UserError(f"expected 0 <= correlation < 1, got {self.correlation}")


def inflation(k: int, rate: float, correlation: float) -> float:
    """How much more often k skills occur together than independent ones.

    Indicators are exchangeable, each Bernoulli(rate) given one beta-distributed rate a sentence,
    so that any two correlate by rho: P(all k) = prod_{i<k} (rate + i m) / (1 + i m) with m =
    rho / (1 - rho) (beta-binomial). That is one way among several to continue pairs to k; without
    correlation the factor is 1, for k = 2 it is 1 + rho (1 - rate) / rate in any.
    """
    m = correlation / (1 - correlation)
    return math.prod((rate + i * m) / ((1 + i * m) * rate) for i in range(k))


def seen(k: int, corpus: Corpus) -> float:
    """p_s^k p_t L: most combinations that the corpus holds, as a share of all; may exceed 1."""
    together = corpus.skill_rate**k * inflation(k, corpus.skill_rate, corpus.correlation)
    return together * corpus.topic_rate * corpus.sentences


def unseen(k: int, alpha: Interval, corpus: Corpus) -> Interval:
    """Least share of successes on combinations that were not seen; 0 where nothing is shown.

    Args:
      k: skills.
      alpha: success rate, with its interval; the share rises with it, so ends go to ends.
      corpus: rates.
    """
    most = seen(k, corpus)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Interval(*(np.maximum(1 - most / np.asarray(end, float), 0) for end in alpha))


def margin(k: int, alpha: float, n: int, corpus: Corpus, share: float = 1 / 3) -> float:
    """By how many standard errors alpha clears what more than `share` unseen successes need.

    The threshold is seen / (1 - share): 1.5 times seen for the paper's third. The standard error
    is that of a share of n items, sqrt(alpha (1 - alpha) / n); infinite without one, NaN without
    items.
    """
    if not n:
        return math.nan
    error = math.sqrt(alpha * (1 - alpha) / n)
    gap = alpha - seen(k, corpus) / (1 - share)
    return math.copysign(math.inf, gap) if error == 0 else gap / error


def parrot_rows(
    prefix: str, k: int, alpha: Interval, n: int, corpus: Corpus, larger: Sequence[float] = ()
) -> list[Row]:
    """Rows of the bound for one k, and for corpora `larger` times as long.

    Args:
      prefix: of the names.
      k: skills.
      alpha: rate of full marks.
      n: items behind it.
      corpus: rates.
      larger: factors of the number of sentences.
    """
    value = float(np.ravel(alpha.value)[0])
    none = "no item was scored" if math.isnan(value) else "no success, so no share of successes"
    rows = [
        interval_row(
            f"{prefix}/seen_at_most",
            Interval(*(np.array([x]) for x in (seen(k, corpus), np.nan, np.nan))),
            "1",
            n,
            f"p_s^k p_t L at k = {k}: combinations that the corpus can hold, as a share of all",
            "from assumed rates, not from items",
        )
    ]
    for factor in (1.0, *(x for x in larger if x != 1)):
        changed = dataclasses.replace(corpus, sentences=corpus.sentences * factor)
        found = unseen(k, alpha, changed)
        if not value > 0:
            found = Interval(*np.full((3, 1), np.nan))
        name = f"{prefix}/unseen_at_least" + ("" if factor == 1 else f"/corpus_x{factor:g}")
        rows.append(
            interval_row(
                name,
                found,
                "1",
                n,
                "share of the successes on combinations that the corpus does not hold, at least; "
                f"L = {changed.sentences:g} sentences",
                f"correlation {corpus.correlation:g} between skills",
                missing=none,
            )
        )
    rows.append(
        interval_row(
            f"{prefix}/margin",
            exact(margin(k, value, n, corpus)),
            "standard errors",
            n,
            "by how many standard errors of alpha_k it is above 1.5 p_s^k p_t L, beyond which more "
            "than a third of the successes are unseen",
            "below 2 the bound is hardly cleared; alpha_k is a best of several generations",
            missing=none if math.isnan(value) else "all items or none succeed: no standard error",
        )
    )
    return rows
