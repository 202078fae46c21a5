"""What a model does that no pattern makes up for: why a growth of some axes is not exact."""

from collections.abc import Collection

from llm_dynamics.growth.traits import Traits


def broken(grown: Collection[str], traits: Traits) -> tuple[str, ...]:
    """Reasons why the target computes something else, whatever the pattern.

    Args:
      grown: roles that are larger in the target.
      traits: of the source.
    """
    found = []
    if traits.ramped and "query_dim" in grown:
        found.append("yarn places its passage by pairs, which are others in larger heads")
    return tuple(found)
