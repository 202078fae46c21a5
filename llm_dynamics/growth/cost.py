"""What a growth costs in floating-point operations, by our own counter; see also `published_cost`.

A multiply-add is two operations. Copies, sums of two terms and the optimizer's arithmetic do not
count, as is usual.
"""

import math

from llm_dynamics.growth.axes import Graph, Param
from llm_dynamics.growth.maps import Mix
from llm_dynamics.growth.operator import Operator


def growth_flops(operator: Operator, source: Graph, target: Graph) -> float:
    """Operations of one application of an operator, in the order in which it is applied."""
    return float(
        sum(
            _param_flops(operator, source.params[path], param)
            for path, param in target.params.items()
        )
    )


def update_flops(model_flops: float, growth: float) -> float:
    """Operations of one update of a learned operator.

    The large model's training step, the growth, and its transposed maps: once for the gradient of
    its matrices and once for that of what lies before them.

    Args:
      model_flops: of a training step of the large model.
      growth: of one application, from `growth_flops`.
    """
    return model_flops + 3 * growth


def _param_flops(operator: Operator, source: Param, target: Param) -> int:
    total = 0
    for term in operator.terms_of(source):
        maps, blend = term.maps(source, target), term.blend(source)
        mixes = [along for _, along in maps if isinstance(along, Mix)]
        width_first = bool(mixes) and not any(along.along == "target" for along in mixes)
        shape = list(source.shape)
        if blend is not None and not width_first:
            total += _blend_flops(shape, target.layers, blend)
            shape[0] = target.layers
        for axes, along in maps:
            if isinstance(along, Mix):
                old = math.prod(shape[axis] for axis in axes)
                total += 2 * along.size * old * (math.prod(shape) // old)
            for axis in axes:
                shape[axis] = target.shape[axis]
        if blend is not None and width_first:
            total += _blend_flops(shape, target.layers, blend)
    return total


def _blend_flops(shape: list[int], layers: int, blend) -> int:
    """Blending every layer of the source into every one of the target; copies are free."""
    counts = (blend != 0).sum(axis=1) if hasattr(blend, "sum") else None
    if counts is not None and not hasattr(blend, "aval") and counts.max() <= 1:
        return 0
    return 2 * layers * math.prod(shape)
