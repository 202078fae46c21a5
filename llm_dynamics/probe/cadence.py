"""At which steps the probes are scored."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """When to probe: one of a regular grid, a list of steps, or dense around events.

    Whatever is chosen, the row before the first update and the row after the last are scored.
    """

    every: int = 1  # score before every k-th update
    steps: tuple[int, ...] = ()  # exactly these steps
    around_events: int = 0  # every step for this many steps from each event, else log-spaced
    per_decade: int = 16  # rows in each factor of ten of the log-spaced part

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"expected probe.every of at least 1 step, got {self.every}")
        if self.around_events < 0:
            raise UserError(f"expected probe.around_events of 0 or more, got {self.around_events}")
        if self.per_decade < 1:
            raise UserError(f"expected probe.per_decade of at least 1, got {self.per_decade}")
        if any(step < 0 for step in self.steps):
            raise UserError(f"expected probe.steps of 0 or more, got {min(self.steps)}")
        chosen = {
            "probe.every": self.every != 1,
            "probe.steps": bool(self.steps),
            "probe.around_events": self.around_events > 0,
        }
        if sum(chosen.values()) > 1:
            names = " and ".join(name for name, given in chosen.items() if given)
            raise UserError(f"expected one cadence, got {names}; keep one of them")


def probe_steps(
    config: ProbeConfig, total_steps: int, event_steps: Sequence[int] = ()
) -> np.ndarray:
    """The steps to score at, ascending int64, always with 0 and `total_steps`.

    Row t is scored with the parameters before update t, so row `total_steps` is the final model.
    With `around_events` = w, the rows t..t+w of an event at update t are all scored (row t is its
    baseline), then offsets grow by a factor 10^(1/per_decade) until the next event.

    Raises:
      UserError: a listed step beyond the run, an event outside it, or events that are needed and
        missing.
    """
    if total_steps < 1:
        raise UserError(f"expected a run of at least 1 step, got {total_steps}")
    events = sorted({int(step) for step in event_steps})
    if events and not 0 <= events[0] <= events[-1] < total_steps:
        beyond = events[0] if events[0] < 0 else events[-1]
        raise UserError(
            f"expected events at updates 0 to {total_steps - 1}, got {beyond}; lengthen the run "
            "or move the events"
        )
    if config.steps:
        if max(config.steps) > total_steps:
            raise UserError(
                f"expected probe.steps up to {total_steps}, the end of the run, got "
                f"{max(config.steps)}; lengthen the run or drop the step"
            )
        steps = np.array(config.steps)
    elif config.around_events:
        if not events:
            raise UserError(
                "expected events for probe.around_events, got a run without any; use probe.every"
            )
        steps = _around(events, config.around_events, config.per_decade, total_steps)
    else:
        steps = np.arange(0, total_steps, config.every)
    return np.unique(np.concatenate([[0], steps, [total_steps]]).astype(np.int64))


def _around(events: list[int], window: int, per_decade: int, total_steps: int) -> np.ndarray:
    exponents = np.arange(int(per_decade * np.log10(total_steps)) + 2) / per_decade
    sparse = np.unique(np.rint(10**exponents).astype(np.int64))
    dense = np.arange(window + 1)
    parts = []
    starts = [0, *events]
    for start, end in zip(starts, [*events, total_steps], strict=True):
        parts.append(start + sparse[start + sparse < end])
    parts += [event + dense for event in events]
    steps = np.concatenate(parts)
    return steps[steps <= total_steps]
