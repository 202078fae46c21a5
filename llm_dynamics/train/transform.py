"""The seam for runs whose model is made out of another one, like growth between stages."""

from typing import Any, Protocol

import optax

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.train.config import RunSpec


class Transform(Protocol):
    """Turns the state of an origin into one of another model; both methods are pure.

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
