"""Log-likelihoods of continuations: each is a probe, and all of a call are scored as probes are."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe.probes import EncodedProbe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.train.asking import scorers

Request = tuple[tuple[int, ...], tuple[int, ...]]
_SHORTEST = 32


class Scorer:
    """Scores continuations with one set of parameters, in float32 throughout.

    Args:
      config: of the decoder.
      params: its parameters.
    """

    def __init__(self, config: ModelConfig, params: Any):
        self.config = in_float32(config)
        self.params = params

    def score(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Summed ln p of each continuation in nats, and whether no token is likelier than its own.

        Args:
          requests: (inputs, continuation) token ids. The last inputs predict the continuation, so
            that both end together: the last token of the continuation is not among the inputs.
        """
        if not requests:
            return []
        distinct = list(dict.fromkeys(requests))
        encoded = [
            EncodedProbe(str(number), (*inputs, continuation[-1]), len(continuation))
            for number, (inputs, continuation) in enumerate(distinct)
        ]
        programs = tqdm(scorers(self.config, encoded), desc="continuations", disable=None)
        values_PxM = np.concatenate([np.asarray(ask(self.params)) for ask in programs])
        sum_P, greedy_P = (
            values_PxM[:, MEASURES.index(name)].tolist() for name in ("logprob_sum", "greedy_match")
        )
        answers = ((value, greedy == 1) for value, greedy in zip(sum_P, greedy_P, strict=True))
        found = dict(zip(distinct, answers, strict=True))
        return [found[request] for request in requests]


def in_float32(config: ModelConfig) -> ModelConfig:
    """The model as it is evaluated, whatever it was trained in; exported folders are float32."""
    return dataclasses.replace(config, compute_dtype="float32", remat="none", scan_unroll=1)


def bucket(count: int) -> int:
    """The least of 32, 48, 64, 96, 128, ... that is at least `count`."""
    size = _SHORTEST
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
