"""Languages whose skills are known: each text needs k of them; the best loss is exact.

Skill s is a random permutation pi_s of q symbols. Four languages ask for skills in four ways:

  parallel  BOS s1 x1 .. sk xk SEP -> y1 .. yk with yi = pi_si(xi): the skill graph of Arora & Goyal
  serial    BOS s1 .. sk x -> y = pi_sk(.. pi_s1(x)): composition, nothing written down between
  latent    skills are not named: each slot shows m pairs x, y of its skill, then asks for one more
  sum       as parallel, but the answer is the sum of all yi modulo q

An answer may be replaced by a uniform symbol (`noise`). `texts` writes them. Axes: T texts, K
skills of a text, A answers of a text, L positions, S skills, Q symbols, M demonstrations.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest

KINDS = ("parallel", "serial", "latent", "sum")
BOS, SEP, FIRST_SKILL = 0, 1, 2
LEAST_ACCEPTED = 1e-3  # of drawn texts; below, drawing again until one fits takes too long


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A language and the distribution of its texts."""

    kind: str = "parallel"  # one of KINDS
    skills: int = 64  # S
    symbols: int = 16  # Q
    sizes: tuple[int, ...] = (4,)  # skills in a text, k; several sizes are mixed
    shares: tuple[float, ...] = ()  # of the texts of each size; empty = equal
    zipf: float = 0.0  # skill of rank r has measure proportional to r^-zipf
    noise: float = 0.0  # share of answers that are replaced by a uniform symbol
    demos: int = 3  # M, latent alone
    # Share of the pairs that no training text has: of any two skills of a text (parallel, sum), or
    # of a skill and the next one (serial).
    held_out: float = 0.0
    seed: int = 0  # of the permutations and of what is held out

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"unknown language {self.kind!r}; {nearest(self.kind, KINDS)}")
        if self.skills < 2 or self.symbols < 2:
            raise UserError(
                f"expected at least 2 skills and 2 symbols, got {self.skills} and {self.symbols}"
            )
        if not self.sizes or min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise UserError(f"expected sizes of at least 1, each once, got {self.sizes}")
        if max(self.sizes) > self.skills:
            raise UserError(
                f"expected texts of at most {self.skills} skills, as many as there are, got sizes "
                f"{self.sizes}; add skills or make the texts smaller"
            )
        if self.shares and (len(self.shares) != len(self.sizes) or min(self.shares) <= 0):
            raise UserError(
                f"expected a positive share for each of {len(self.sizes)} sizes, got {self.shares}"
            )
        if not 0 <= self.zipf <= 4 or not 0 <= self.noise < 1 or not 0 <= self.held_out < 1:
            raise UserError(
                "expected 0 <= zipf <= 4 and 0 <= noise, held_out < 1, got "
                f"{self.zipf}, {self.noise} and {self.held_out}"
            )
        if self.demos < 1:
            raise UserError(f"expected at least 1 demonstration, got {self.demos}")
        if self.held_out and self.kind == "latent":
            raise UserError(
                "expected held_out=0 in the latent language, whose Bayes loss takes the slots of a "
                f"text to be independent, got {self.held_out}; hold pairs out of another language"
            )
        if self.held_out:
            self._check_acceptance()

    def _check_acceptance(self) -> None:
        for size in self.sizes:
            pairs = size - 1 if self.kind == "serial" else math.comb(size, 2)
            if (1 - self.held_out) ** pairs < LEAST_ACCEPTED:
                raise UserError(
                    f"expected held_out to leave at least one text in {1 / LEAST_ACCEPTED:.0f}, "
                    f"got {self.held_out} of the pairs, of which a text of {size} skills has "
                    f"{pairs}; hold out fewer"
                )

    @property
    def vocab_size(self) -> int:
        """BOS, SEP, a token for each skill, the symbols."""
        return FIRST_SKILL + self.skills + self.symbols

    @property
    def length(self) -> int:
        """L, of the longest text."""
        return max(map(self.text_length, self.sizes))

    def text_length(self, size: int) -> int:
        """Tokens that are read of a text of so many skills; its last answer is only predicted."""
        if self.kind == "latent":
            return size * (2 * self.demos + 2)
        return {"parallel": 3 * size + 1, "sum": 2 * size + 2, "serial": size + 2}[self.kind]

    def answers(self, size: int) -> int:
        """A, of a text of so many skills."""
        return size if self.kind in ("parallel", "latent") else 1

    def rows(self, count: int) -> tuple[int, ...]:
        """How many of `count` texts have each size; the largest share takes the rest."""
        shares = np.array(self.shares or (1.0,) * len(self.sizes))
        rows = np.floor(count * shares / shares.sum() + 1e-9).astype(int)
        rows[np.argmax(shares)] += count - rows.sum()
        return tuple(int(n) for n in rows)


class Tables(NamedTuple):
    """What the seed of a language decides; arguments of compiled functions, not constants.

    Attributes:
      pi_SxQ: int32, what each skill makes of each symbol.
      held_out_SxS: bool, whether a pair is held out; symmetric but in the serial language, where
        it is that of a skill and the next one.
    """

    pi_SxQ: np.ndarray
    held_out_SxS: np.ndarray


@functools.cache
def measure(config: LanguageConfig) -> np.ndarray:
    """mu_1 of every skill, S, float64."""
    weight_S = np.arange(1, config.skills + 1, dtype=float) ** -config.zipf
    return weight_S / weight_S.sum()


@functools.cache
def tables(config: LanguageConfig) -> Tables:
    """The permutations of a language and the pairs that it holds out."""
    rng = np.random.default_rng([config.seed, 1])
    pi_SxQ = np.tile(np.arange(config.symbols, dtype=np.int32), (config.skills, 1))
    return Tables(rng.permuted(pi_SxQ, axis=1), _held_out(config))


def _held_out(config: LanguageConfig) -> np.ndarray:
    rng = np.random.default_rng([config.seed, 2])
    ordered = config.kind == "serial"
    mask_SxS = np.zeros((config.skills, config.skills), bool)
    where = np.argwhere(~np.eye(config.skills, dtype=bool))
    if not ordered:
        where = where[where[:, 0] < where[:, 1]]
    count = round(config.held_out * len(where))
    chosen = where[rng.permutation(len(where))[:count]]
    mask_SxS[chosen[:, 0], chosen[:, 1]] = True
    return mask_SxS if ordered else mask_SxS | mask_SxS.T


def words(config: LanguageConfig, tokens: np.ndarray) -> str:
    """Tokens for people: BOS, SEP, skills as s3, symbols as x5."""
    symbol = FIRST_SKILL + config.skills

    def word(token: int) -> str:
        if token < FIRST_SKILL:
            return ("BOS", "SEP")[token]
        return f"s{token - FIRST_SKILL}" if token < symbol else f"x{token - symbol}"

    return " ".join(word(int(token)) for token in tokens)


def entropy(noise: float, symbols: int) -> float:
    """Entropy of an answer whose skill and input are known, nats: the Bayes loss but in latent.

    -(1 - n + n/q) ln(1 - n + n/q) - (q - 1) (n/q) ln(n/q) with noise n and q symbols.
    """
    right, wrong = 1 - noise + noise / symbols, noise / symbols
    rest = (symbols - 1) * wrong * math.log(wrong) if wrong else 0.0
    return -right * math.log(right) - rest
