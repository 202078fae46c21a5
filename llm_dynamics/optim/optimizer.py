"""AdamW with clipping and a decay mask by parameter name."""

import dataclasses
import re
from typing import Any

import jax
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import ScheduleConfig

# The first pattern found in a parameter's path decides. Names, not ranks: a scanned layer's bias
# is a matrix (layers x width), so counting axes would decay it.
DECAY_RULES = ((r"(^|/)(bias|scale)$", False), (r"(^|/)(kernel|embedding)$", True))


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019) and its schedule."""

    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.95  # decay of the second moment
    eps: float = 1e-8
    weight_decay: float = 0.1  # decoupled, multiplied by the learning rate
    clip_norm: float = 1.0  # global gradient norm; 0 = no clipping

    def __post_init__(self):
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"expected 0 <= b1, b2 < 1, got b1 {self.b1} and b2 {self.b2}")
        if self.eps <= 0 or self.weight_decay < 0 or self.clip_norm < 0:
            raise UserError(
                "expected eps > 0, weight_decay >= 0 and clip_norm >= 0, got "
                f"{self.eps}, {self.weight_decay} and {self.clip_norm}"
            )


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: kernels and embeddings, not biases or norm scales.

    Raises:
      ValueError: a parameter that no rule in DECAY_RULES matches.
    """

    def decide(path, _):
        name = "/".join(str(getattr(k, "key", k)) for k in path)
        for pattern, decays in DECAY_RULES:
            if re.search(pattern, name):
                return decays
        raise ValueError(f"no weight-decay rule matches parameter {name!r}")

    return jax.tree_util.tree_map_with_path(decide, params)


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip by global norm, AdamW, then `schedule` at the count kept in the optimizer's state."""
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(schedule),
    )
