"""The same probes asked of one checkpoint after another, the parameters of one in memory at a time.

Axes: P probes, M measures.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe import packing
from llm_dynamics.probe.probes import EncodedProbe, Probe, encode_all
from llm_dynamics.probe.scoring import make_scorer
from llm_dynamics.train.series import Checkpoint

_log = logging.getLogger(__name__)
_ACTIVATIONS = 2**26  # of the widest part that exist at once, 256 MiB in float32
_SHOWN = 5  # probes quoted in one message


class Asker:
    """Asks checkpoints a set of probes; its programs are compiled once for models of one shape."""

    def __init__(self, probes: Sequence[Probe]):
        self._probes = probes
        self._encoded: dict[str, tuple[list[EncodedProbe], str]] = {}  # by tokenizer
        self._programs: dict[Any, list] = {}  # by model and tokenizer

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuses what cannot be asked, before anything is scored.

        Raises:
          UserError: probes that the tokenizer cuts wrongly or that are too long for the model.
        """
        encoded = self.encoded(checkpoint.tokenizer)
        most = checkpoint.config.max_length
        long = [p for p in encoded if len(p.ids) - 1 > most]
        if long:
            names = ", ".join(f"{p.name!r} ({len(p.ids) - 1})" for p in long[:_SHOWN])
            raise UserError(
                f"{checkpoint.run}: expected probes of at most {most} tokens before the last, the "
                f"context of the model, got {len(long)} longer ones: {names}; shorten them"
            )

    def encoded(self, tokenizer: Tokenizer) -> list[EncodedProbe]:
        """The probes as a tokenizer cuts them.

        Raises:
          UserError: see `probes.encode_all`.
        """
        return self._encode(tokenizer)[0]

    def digest(self, tokenizer: Tokenizer) -> str:
        """Tells what a model is asked from all else it could be."""
        return self._encode(tokenizer)[1]

    def tokens(self, checkpoint: Checkpoint) -> int:
        """Tokens that the model reads to answer."""
        return sum(len(p.ids) - 1 for p in self.encoded(checkpoint.tokenizer))

    def scores(self, checkpoint: Checkpoint) -> np.ndarray:
        """Scores P x M of a checkpoint, in the order of `scoring.MEASURES`.

        Raises:
          UserError: see `check`, or parameters that cannot be read.
        """
        self.check(checkpoint)
        _log.info("asking %s, step %d", checkpoint.run, checkpoint.step)
        params = checkpoint.params()
        return np.concatenate([np.asarray(ask(params)) for ask in self._program(checkpoint)])

    def _encode(self, tokenizer: Tokenizer) -> tuple[list[EncodedProbe], str]:
        key = tokenizer.fingerprint
        if key not in self._encoded:
            encoded = encode_all(self._probes, tokenizer)
            digest = hashlib.sha256()
            for probe in encoded:
                digest.update(np.array([probe.num_target, *probe.ids, -1], np.int64).tobytes())
            self._encoded[key] = encoded, digest.hexdigest()[:16]
        return self._encoded[key]

    def _program(self, checkpoint: Checkpoint) -> list:
        encoded, digest = self._encode(checkpoint.tokenizer)
        key = (checkpoint.config, digest)
        if key not in self._programs:
            self._programs[key] = scorers(checkpoint.config, encoded)
        return self._programs[key]


def scorers(
    config: ModelConfig, encoded: Sequence[EncodedProbe]
) -> list[Callable[[Any], jax.Array]]:
    """Programs that score all probes, each a part of them: parameters to values p x M, in order."""
    decoder = build_model(config)
    longest = max(len(probe.ids) for probe in encoded)
    widest = max(config.mlp_width, config.num_heads * longest)  # of attention: a row of its scores
    return [
        make_scorer(decoder, packing.pack(block, packing.best_length(block, config.max_length)))
        for block in blocks(encoded, max(_ACTIVATIONS // widest, longest))
    ]


def blocks(encoded: Sequence[EncodedProbe], most: int) -> list[list[EncodedProbe]]:
    """Probes in order, parted so that a block has about `most` tokens: what memory allows."""
    ends = np.cumsum([len(probe.ids) for probe in encoded])
    block_P = (ends - 1) // most
    return [[encoded[p] for p in np.flatnonzero(block_P == b)] for b in np.unique(block_P)]
