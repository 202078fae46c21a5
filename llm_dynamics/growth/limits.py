"""What a model does that no pattern makes up for: why the growth of some axes is not exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth import depth as depth_lib
from llm_dynamics.growth.axes import STREAM
from llm_dynamics.growth.maps import Gather, Map
from llm_dynamics.growth.operator import Lift

if TYPE_CHECKING:
    from llm_dynamics.growth.presets import Pair, Width


def broken(pair: Pair, width: Width, lifts: Mapping[str, Lift], depth: str) -> tuple[str, ...]:
    """Reasons why the target computes something else, whatever the pattern.

    Args:
      pair: source and target.
      width: what a width pattern makes of them.
      lifts: of all roles that grow.
      depth: the depth pattern.
    """
    traits, found = pair.traits, []
    if pair.grows("query_dim") and traits.ramped:
        found.append("yarn places its passage by pairs, which are others in larger heads")
    if pair.grows("query_dim") and traits.qk_norm != "none":
        found.append("norms of queries and keys see another mean square in larger heads")
    if traits.qk_norm == "whole" and not _evenly(lifts):
        found.append("norms of queries and keys over all heads do not see every head equally often")
    if traits.qk_norm != "none" and width.eps is not None:
        found.append("norms of queries and keys share norm_eps, which the wider stream must change")
    if pair.grows(STREAM) and traits.scaled:
        found.append("embeddings are multiplied by the root of the width, which is another")
    if traits.local and pair.source.layers != pair.target.layers:
        kept = ~depth_lib.added(depth, pair.source.layers, pair.target.layers)
        if tuple(np.array(pair.target_traits.local)[kept]) != traits.local:
            found.append("layers move to places where a window is read instead of all, or all")
    return tuple(found)


def check_masked(pair: Pair) -> None:
    """Refuses to fade in what a norm of the branch would scale up again.

    Raises:
      UserError: says what to keep.
    """
    if pair.traits.after and (pair.grows(STREAM) or pair.source.layers != pair.target.layers):
        raise UserError(
            "width 'masked' fades in what is added to the stream, which the norms behind attention "
            "and MLP (norm_order) would undo; keep width and layers, or use 'zero_pad'"
        )
    if pair.traits.qk_norm != "none" and pair.grows("query_dim"):
        raise UserError(
            "width 'masked' fades in dimensions of queries, which their norm (qk_norm) would undo; "
            "keep head_dim, or use 'copy'"
        )


def _evenly(lifts: Mapping[str, Lift]) -> bool:
    """Whether every query and key head is copied, and as often as the others."""

    def even(along: Map) -> bool:
        if not isinstance(along, Gather) or along.new.any():
            return False
        return len(set(np.bincount(along.index).tolist())) == 1

    return all(even(lifts[role].write) for role in ("query_heads", "key_heads") if role in lifts)
