"""What a run keeps of the optimizer's state of the run that it starts from."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from llm_dynamics.errors import UserError

POLICIES = ("keep", "reset", "keep_first", "keep_second", "reset_count", "scale:FACTOR")


def parse(policy: str) -> tuple[str, float]:
    """A policy's name and its factor, 1 where it has none.

    Raises:
      UserError: no policy, or a factor that is not above 0.
    """
    name, colon, text = policy.partition(":")
    if name == "scale" and colon:
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if 0 < factor < math.inf:
            return name, factor
        raise UserError(
            "expected train.start.optimizer scale:FACTOR with a FACTOR above 0, got "
            f"{policy!r}; moments of zero that count as old make long updates, for those take reset"
        )
    if policy not in POLICIES or name == "scale":
        raise UserError(f"expected train.start.optimizer {' or '.join(POLICIES)}, got {policy!r}")
    return policy, 1.0


def carry(policy: str, kept: Any, fresh: Any, b1: float) -> Any:
    """The optimizer's state that a run begins with.

    Adam has moments m and v, and a count t of updates by which it corrects for moments that began
    at zero: after t updates it divides m by 1 - b1^t and v by 1 - b2^t. The count stays with the
    second moments, as updates with fresh ones would be up to 1 / sqrt(1 - b2) times too long
    without the correction. So, of moments m, v and count n:

    - "keep": m, v, n.
    - "reset": 0, 0, 0.
    - "keep_second": 0, v, n. The first updates are shorter, by 1 - b1^t after t of them.
    - "keep_first": (1 - b1) m, 0, 0. The correction divides by 1 - b1^t, which is for moments that
      began at zero too; so scaled, the kept ones enter update 1 with the weight b1 that they have
      in any update.
    - "reset_count": m, v, 0, as where only the counter of steps begins again. Moments are as under
      "keep" from then on and updates longer or shorter: update t is that of "keep", for the same
      gradients, times (1 - b1^(n + t)) / (1 - b1^t) * sqrt((1 - b2^t) / (1 - b2^(n + t))). With
      b1 = 0.9 that is 2.2 for the first one at b2 = 0.95 and 0.3 at b2 = 0.999.
    - "scale:FACTOR": F m, F^2 v, n: the state as if all gradients so far had been F times what they
      were (before clipping's part). Below 1 what comes weighs more against what was; the first
      update after moments that vanish against it is (1 - b1) / sqrt(1 - b2) long, 0.4 at
      b2 = 0.95, and 3.2 at b2 = 0.999.

    Args:
      policy: one of POLICIES.
      kept: the state that was saved.
      fresh: a new one of the same shapes.
      b1: decay of the first moments.
    """
    name, factor = parse(policy)
    get, set_, adam = optax.tree_utils.tree_get, optax.tree_utils.tree_set, of("ScaleByAdamState")
    if name == "keep":
        return kept
    if name == "reset":
        return fresh
    if name == "keep_second":
        return set_(kept, mu=get(fresh, "mu"))
    if name == "scale":
        return set_(kept, mu=_times(get(kept, "mu"), factor), nu=_times(get(kept, "nu"), factor**2))
    kept = set_(kept, adam, count=get(fresh, "count", filtering=adam))
    if name == "reset_count":
        return kept
    return set_(kept, mu=_times(get(kept, "mu"), 1 - b1), nu=get(fresh, "nu"))


def of(name: str) -> Callable[[Any, Any], bool]:
    """Picks the fields of the part of an optimizer's state that has this name."""
    return lambda path, _: getattr(path[-1], "tuple_name", "") == name


def _times(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda x: x * factor, tree)
