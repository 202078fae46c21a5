"""Which model writes or grades, as a user says it."""

import dataclasses

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.chat import Model
from llm_dynamics.skillmix.endpoint import Endpoint, EndpointConfig
from llm_dynamics.skillmix.evaluate import Prices
from llm_dynamics.skillmix.hf import HfConfig, HfModel
from llm_dynamics.spec import nearest

KINDS = ("endpoint", "hf", "run")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A checkpoint of a run of ours."""

    path: str = ""  # run folder
    step: int = -1  # of the checkpoint; -1 = the last one
    tokenizer: str = ""  # "" = what its data configuration names
    batch: int = 8  # texts that are written together


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One model; only the part that `kind` names is read."""

    kind: str = "endpoint"  # one of KINDS
    endpoint: EndpointConfig = dataclasses.field(default_factory=EndpointConfig)
    hf: HfConfig = dataclasses.field(default_factory=HfConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    prices: Prices = dataclasses.field(default_factory=Prices)  # for the estimate

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"unknown kind of model {self.kind!r}; {nearest(self.kind, KINDS)}")


def open_model(spec: ModelSpec) -> Model:
    """Loads or connects; nothing is asked.

    Raises:
      UserError: it cannot be had.
    """
    if spec.kind == "endpoint":
        return Endpoint(spec.endpoint)
    if spec.kind == "hf":
        return HfModel(spec.hf)
    if not spec.run.path:
        raise UserError("a model of kind run expects the path of a run folder, got none")
    from llm_dynamics.skillmix import own  # endpoints need none of its weight

    return own.from_run(spec.run.path, spec.run.step, spec.run.tokenizer, spec.run.batch)
