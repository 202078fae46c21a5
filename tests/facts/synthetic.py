"""Many synthetic probe logs at once whose forgetting law is known, for tests of coverage.

Axes: N simulated runs, K facts of an arm, P probes of a fact, S steps, U encounters.
"""

from dataclasses import dataclass

import numpy as np
from scipy import signal


@dataclass(frozen=True)
class Law:
    """What the logs are made of; nats per token, except where said.

    An encounter lifts the score at the next step; u encounters lift it to gain * u / U. Then it
    falls as a straight line on log10 of the time since that step, which holds its maximum: after
    the last one R(t) = 1 - a log10 t, so the intercept is 1 and the zero crossing 1 / a.

    Attributes:
      gain: mean over facts of the gain at the last maximum.
      a: mean over facts of the share lost per decade.
      spread: standard deviation over facts of the gain's and of a's factor, independent.
      run_spread: the same over runs, common to all facts of a run.
      rho: autocorrelation of all noise from one step to the next.
      fact_noise: stationary standard deviation of the noise that the probes of a fact share.
      probe_noise: of the noise of each probe.
      shared_noise: of the noise that all probes of a run share, control included.
      template: what never-injected facts gain as well, relative to the gain.
      encounters, window, end: steps of the schedule and of the last row.
    """

    gain: float = 1.0
    a: float = 0.25
    spread: float = 0.3
    run_spread: float = 0.0
    rho: float = 0.95
    fact_noise: float = 0.1
    probe_noise: float = 0.05
    shared_noise: float = 0.2
    template: float = 0.6
    encounters: tuple[int, ...] = (0, 30, 60, 90)
    window: int = 20
    end: int = 710

    @property
    def gains_U(self) -> np.ndarray:
        """Gain of each encounter without noise: effectivity is their mean."""
        level_U = np.arange(1, len(self.encounters) + 1) / len(self.encounters)
        gaps = np.diff(self.encounters) - 1  # from a maximum to just before the next encounter
        left_U = np.concatenate([[0.0], level_U[:-1] * (1 - self.a * np.log10(gaps))])
        return self.gain * (level_U - left_U)


def simulate(
    law: Law, runs: int, facts: int, probes: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Scores of an injected arm and of a control, each S x N x K x P."""
    steps = law.end + 1
    run_factor_2xNx1 = 1 + law.run_spread * rng.standard_normal((2, runs, 1))
    shared_SxN11 = _noise(rng, law, (runs, 1, 1), law.shared_noise)
    template_S = law.template * law.gain * _path(law, np.array(0.4))
    logs = {}
    for arm in ("arm", "control"):
        scores = _noise(rng, law, (runs, facts, probes), law.probe_noise)
        scores += _noise(rng, law, (runs, facts, 1), law.fact_noise)
        scores += shared_SxN11 - 6 + template_S.reshape(steps, 1, 1, 1)
        if arm == "arm":
            factor_2xNxK = run_factor_2xNx1 + law.spread * rng.standard_normal((2, runs, facts))
            own_SxNxK = law.gain * factor_2xNxK[0] * _path(law, law.a * factor_2xNxK[1])
            scores += own_SxNxK[..., None]
        logs[arm] = scores
    return logs


def _path(law: Law, a) -> np.ndarray:
    """Gain at every step as a share of the last maximum, S x the shape of a."""
    path = np.zeros((law.end + 1, *a.shape))
    for u, start in enumerate(law.encounters):
        stop = law.encounters[u + 1] if u + 1 < len(law.encounters) else law.end
        since = np.arange(stop - start)
        lost = np.log10(np.maximum(since, 1)).reshape(-1, *[1] * a.ndim) * a
        path[start + 1 : stop + 1] = (u + 1) / len(law.encounters) * (1 - lost)
    return path


def _noise(rng: np.random.Generator, law: Law, shape: tuple[int, ...], sd: float) -> np.ndarray:
    """Stationary AR(1) noise along the first axis."""
    white = rng.standard_normal((law.end + 1, *shape))
    white[1:] *= np.sqrt(1 - law.rho**2)
    return sd * signal.lfilter([1.0], [1.0, -law.rho], white, axis=0)
