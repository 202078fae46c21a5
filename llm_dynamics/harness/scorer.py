"""Log-likelihoods of continuations in few compiled programs: rows of like length go together.

Axes: B rows, L positions, T continuation tokens of the longest row, D width, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder, hidden_at

Request = tuple[tuple[int, ...], tuple[int, ...]]
_LOGITS = 2**24  # that exist at once, 64 MiB in float32
_SHORTEST = 32


class Scorer:
    """Scores continuations with one set of parameters, in float32 throughout.

    Args:
      config: of the decoder.
      params: its parameters.
      tokens: positions of a batch, at most; a single row may have more.
    """

    def __init__(self, config: ModelConfig, params: Any, tokens: int = 4096):
        self.config = in_float32(config)
        self.params = params
        self._tokens = tokens

    def score(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Summed ln p of each continuation in nats, and whether each token is the likeliest.

        Args:
          requests: (inputs, continuation) token ids. The last inputs predict the continuation, so
            that both end together: the last token of the continuation is not among the inputs.
        """
        groups: dict[tuple[int, int], list[Request]] = {}
        for request in dict.fromkeys(requests):
            groups.setdefault(self._shape(request), []).append(request)
        found: dict[Request, tuple[float, bool]] = {}
        bar = tqdm(total=sum(map(len, groups.values())), desc="continuations", disable=None)
        for (length, targets), members in sorted(groups.items(), reverse=True):
            most = 1 << max(0, (self._tokens // length).bit_length() - 1)
            rows = min(most, 1 << (len(members) - 1).bit_length())
            for start in range(0, len(members), rows):
                part = members[start : start + rows]
                found |= zip(part, self._batch(part, rows, length, targets), strict=True)
                bar.update(len(part))
        bar.close()
        return [found[request] for request in requests]

    def _shape(self, request: Request) -> tuple[int, int]:
        """L and T of the program that scores a request."""
        inputs, continuation = map(len, request)
        length = min(bucket(inputs), max(self.config.max_length, inputs))
        targets = 8
        while targets < continuation:
            targets *= 4
        return length, min(targets, length)

    def _batch(
        self, part: Sequence[Request], rows: int, length: int, targets: int
    ) -> list[tuple[float, bool]]:
        tokens_BxL = np.zeros((rows, length), np.int32)
        columns_BxT = np.zeros((rows, targets), np.int32)
        token_BxT = np.zeros((rows, targets), np.int32)
        for row, (inputs, continuation) in enumerate(part):
            count = len(continuation)
            tokens_BxL[row, : len(inputs)] = inputs
            columns_BxT[row, :count] = np.arange(len(inputs) - count, len(inputs))
            token_BxT[row, :count] = continuation
        logprob_BxT, first_BxT = _program(self.config)(
            self.params, tokens_BxL, columns_BxT, token_BxT
        )
        logprob_BxT, first_BxT = np.asarray(logprob_BxT, np.float64), np.asarray(first_BxT)
        counts = [len(continuation) for _, continuation in part]
        return [
            (float(logprob_BxT[row, :n].sum()), bool(first_BxT[row, :n].all()))
            for row, n in enumerate(counts)
        ]


def in_float32(config: ModelConfig) -> ModelConfig:
    """The model as it is evaluated, whatever it was trained in; exported folders are float32."""
    return dataclasses.replace(config, compute_dtype="float32", remat="none", scan_unroll=1)


def bucket(count: int) -> int:
    """The least of 32, 48, 64, 96, 128, ... that is at least `count`."""
    size = _SHORTEST
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


@functools.cache
def _program(config: ModelConfig):
    decoder = Decoder(config)

    @jax.jit
    def scored(params, tokens_BxL, columns_BxT, token_BxT):
        h_BxTxD = hidden_at(decoder, params, (tokens_BxL,), columns_BxT)

        def one(inputs):
            h_D, token = inputs
            logits_V = decoder.apply({"params": params}, h_D, method="unembed")
            logprob = logits_V[token] - jax.nn.logsumexp(logits_V)
            return logprob, jnp.argmax(logits_V) == token

        at_once = max(16, _LOGITS // config.vocab_size)
        flat = h_BxTxD.reshape(-1, h_BxTxD.shape[-1]), token_BxT.reshape(-1)
        found = jax.lax.map(one, flat, batch_size=min(at_once, token_BxT.size))
        return jax.tree.map(lambda x: x.reshape(token_BxT.shape), found)

    return scored
