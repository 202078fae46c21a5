"""Work that one process does for all, without leaving the others waiting when it fails."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from llm_dynamics.errors import UserError

T = TypeVar("T")


def on_first(work: Callable[[], T]) -> T | None:
    """Runs `work` on process 0 alone and tells every process whether it succeeded.

    Returns:
      Its value on process 0, None elsewhere.

    Raises:
      Whatever `work` raised on process 0; UserError on the others.
    """
    if jax.process_count() == 1:
        return work()
    value, failure = None, None
    if jax.process_index() == 0:
        try:
            value = work()
        except BaseException as error:
            failure = error
    if not multihost_utils.broadcast_one_to_all(np.int32(failure is None)):
        raise failure or UserError("process 0 stopped; its message says why")
    return value
