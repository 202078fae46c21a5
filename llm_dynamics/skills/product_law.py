"""Do questions of k skills go as the product of their skills, or as the k-th power of one?

Success on single-skill questions gives a competence X_s for every skill. If skills fail
independently, a question of several succeeds with the product of its X_s; Shah et al. 2024
(arXiv:2407.21009) find about the square X^2 for pairs, X the success on single-skill questions.

Axes: T questions, K skills, S skills in all, R resamples.
"""

import dataclasses

import numpy as np
from scipy import optimize

from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.resampling import mean

EXPONENTS = (0.01, 50.0)  # among which one is sought
_AT_AN_END = 1e-3  # of these, relative: the search stops just before it


@dataclasses.dataclass(frozen=True)
class ProductLaw:
    """Questions of one size against single-skill questions, in every resample.

    Attributes:
      size: k.
      questions: whose skills all have single-skill questions.
      left_out: other questions of k skills.
      single_R: X, success on single-skill questions.
      success_R: Y, success on questions of k skills, all of them.
      compared_R: the same on `questions` alone.
      product_R: mean of the product of their skills' single-skill success.
    """

    size: int
    questions: np.ndarray
    left_out: int
    single_R: np.ndarray
    success_R: np.ndarray
    compared_R: np.ndarray
    product_R: np.ndarray

    @property
    def residual_R(self) -> np.ndarray:
        """Success less the product: below 0 where skills that are had alone fail together."""
        return self.compared_R - self.product_R

    @property
    def power_residual_R(self) -> np.ndarray:
        """Y - X^k."""
        return self.success_R - self.single_R**self.size

    @property
    def exponent_R(self) -> np.ndarray:
        """ln Y / ln X, which is k by the power law; NaN where X or Y is 0 or 1."""
        inside = (self.single_R > 0) & (self.single_R < 1)
        inside &= (self.success_R > 0) & (self.success_R < 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(inside, np.log(self.success_R) / np.log(self.single_R), np.nan)


def product_law(
    outcomes: Outcomes, sizes_T: np.ndarray, size: int, weights_RxT: np.ndarray
) -> ProductLaw:
    """Compares questions of `size` skills with single-skill ones, which are other questions."""
    right_T = ~outcomes.failed_T
    one, many = np.flatnonzero(sizes_T == 1), np.flatnonzero(sizes_T == size)
    skill_T, skills_TxK = outcomes.skills_TxK[one, 0], outcomes.skills_TxK[many, :size]
    known = np.isin(skills_TxK, skill_T).all(axis=1)
    questions = many[known]
    of_TxS = np.zeros((len(one), outcomes.num_skills), np.float32)
    of_TxS[np.arange(len(one)), skill_T] = 1
    weights_RxO = weights_RxT[:, one]
    asked_RxS = (weights_RxO @ of_TxS).astype(float)
    right_RxS = ((weights_RxO * right_T[one]) @ of_TxS).astype(float)
    single_RxS = np.divide(
        right_RxS, asked_RxS, out=np.full(asked_RxS.shape, np.nan), where=asked_RxS > 0
    )
    product_RxT = np.ones((len(weights_RxT), len(questions)))
    for column in skills_TxK[known].T:
        product_RxT *= single_RxS[:, column]
    # A skill that a resample lacks leaves its questions out there, on both sides.
    there_RxT = weights_RxT[:, questions] * ~np.isnan(product_RxT)
    return ProductLaw(
        size=size,
        questions=questions,
        left_out=len(many) - len(questions),
        single_R=mean(weights_RxO, right_T[one]),
        success_R=mean(weights_RxT[:, many], right_T[many]),
        compared_R=mean(there_RxT, right_T[questions]),
        product_R=_mean_of(there_RxT, np.nan_to_num(product_RxT)),
    )


def fitted_exponent(single_RxN: np.ndarray, success_RxN: np.ndarray) -> np.ndarray:
    """The a of Y = X^a over N checkpoints by least squares, R.

    NaN where X is 0 or 1 everywhere, and where no a within `EXPONENTS` is best.
    """
    least, most = EXPONENTS[0] * (1 + _AT_AN_END), EXPONENTS[1] * (1 - _AT_AN_END)

    def fit(x_N, y_N):
        if not ((x_N > 0) & (x_N < 1)).any() or np.isnan(y_N).any():
            return np.nan
        found = optimize.minimize_scalar(
            lambda a: ((y_N - x_N**a) ** 2).sum(), bounds=EXPONENTS, method="bounded"
        ).x
        return found if least < found < most else np.nan

    return np.array([fit(x_N, y_N) for x_N, y_N in zip(single_RxN, success_RxN, strict=True)])


def _mean_of(weights_RxT: np.ndarray, value_RxT: np.ndarray) -> np.ndarray:
    above_R = (weights_RxT * value_RxT).sum(axis=1)
    below_R = weights_RxT.sum(axis=1, dtype=float)
    return np.divide(above_R, below_R, out=np.full(len(below_R), np.nan), where=below_R > 0)
