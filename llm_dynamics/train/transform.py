"""The seam for runs whose model is made out of another one, like growth between stages."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import optax

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.train.config import RunSpec

# (parameters, update) -> parameters of the same shapes; pure, and differentiable in the first.
View = Callable[[Any, int | jax.Array], Any]


class Transform(Protocol):
    """Turns the state of an origin into one of another model; all methods are pure.

    `parts.build` takes one. It belongs to the run as its spec does: a run that is killed before its
    first checkpoint has to be built with the same one again, so what decides it should be part of
    the study's spec.
    """

    def check(self, source: ModelConfig, spec: RunSpec) -> None:
        """Refuses an origin that cannot become the run's model, before any computation.

        Takes the place of the comparison of models.

        Args:
          source: the model of the origin.
          spec: the run that starts from it.

        Raises:
          UserError: it cannot.
        """
        ...

    def apply(
        self, params: Any, opt_state: Any, source: ModelConfig, spec: RunSpec
    ) -> tuple[Any, Any]:
        """Parameters and optimizer state of the run's shapes and types, on any devices.

        Args:
          params: of the origin.
          opt_state: as saved, before anything of it is reset; None where
            `train.start.optimizer` is "reset", and the result's is then not looked at.
          source: the model of the origin.
          spec: the run that starts from it.
        """
        ...

    def optimizer(self, spec: RunSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
        """The run's optimizer, with the same state as that of `optim.optimizer.make_optimizer`.

        Args:
          spec: the run.
          schedule: its learning rate by the count of updates.
        """
        ...

    def view(self, spec: RunSpec) -> View | None:
        """What the model is given in place of the parameters, by the count of updates.

        Losses, their gradients, validation and probes go through it; optimizer and checkpoints
        hold the parameters themselves, so a checkpoint is the model only where the view is the
        identity, as it has to be after the last update.

        Args:
          spec: the run.

        Returns:
          The view, or None where the model is given the parameters as they are.
        """
        ...
