"""The time at which the line of forgetting reaches 0, and whether the data say anything about it.

It exists under the log-linear form alone (Chang et al. 2024, Sec. 4.3, "learnability threshold");
the published ones lie 0.6 to 2.2 decades beyond their data.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from llm_dynamics.facts.estimates import crossing
from llm_dynamics.facts.statistics import Estimate

Status = Literal["inside", "extrapolated", "unbounded"]


@dataclass(frozen=True)
class Threshold:
    """log10 of a time in steps, with its interval.

    Attributes:
      value, low, high: infinite where the line does not fall; ends of NaN where there is none.
      last: log10 of the last time of the data.
      status: "unbounded" when the interval includes "never reaches 0", else "extrapolated" when
        its upper end lies beyond the data, else "inside".
      beyond: decades from the end of the data to the value; negative inside.
    """

    value: float
    low: float
    high: float
    last: float
    status: Status

    @property
    def beyond(self) -> float:
        return self.value - self.last

    @property
    def note(self) -> str:
        """For the note of a result; its first word is the status."""
        end = f"the data end at log10 t = {self.last:.2f}"
        if self.status == "inside":
            return "inside the data"
        if math.isinf(self.value):
            return f"unbounded: the line does not fall and never reaches 0; {end}"
        if self.beyond > 0:
            where = f"extrapolated by {self.beyond:.1f} decades beyond the data"
        else:
            where = "extrapolated: the interval reaches beyond the data"
        if self.status == "unbounded":
            where = f"unbounded: the interval includes never reaching 0; {where}"
        return f"{where}; {end}"

    def shifted(self, by: float) -> "Threshold":
        """The same time in another unit, `by` = log10 of its number in a step."""
        moved = {key: getattr(self, key) + by for key in ("value", "low", "high", "last")}
        return dataclasses.replace(self, **moved)


def threshold(line: Estimate, last: float, level: float = 0.95) -> Threshold:
    """The zero crossing of a line, by the bootstrap.

    Args:
      line: slope and intercept, R x 2, from `gls.line_estimate`.
      last: log10 of the last time of the data.
      level: nominal coverage.
    """
    value, low, high = (float(v[0]) for v in crossing(line).interval(level))
    reach = value if math.isnan(high) else max(value, high)
    if math.isinf(reach):
        status = "unbounded"
    elif reach > last:
        status = "extrapolated"
    else:
        status = "inside"
    return Threshold(value, low, high, last, status)
