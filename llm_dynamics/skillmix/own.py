"""Our own decoders as models that reply: the checkpoint of a run, or parameters at hand.

They are base models: the contents of a dialogue's user turns, joined by empty lines, are the text
that they go on from.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.opened import build_tokenizer
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary
from llm_dynamics.errors import UserError
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.generate import Sampling, generate
from llm_dynamics.skillmix.chat import Reply, Request
from llm_dynamics.spec import fingerprint, from_json
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.run_folder import RunFolder, read_spec

_log = logging.getLogger(__name__)
_STEP = 32  # buffers are multiples of it, so that few programs are compiled


class OwnModel:
    """A `chat.Model` around a decoder of ours. Batches share their sampling settings."""

    concurrency = 1

    def __init__(
        self, name: str, config: ModelConfig, params: Any, tokenizer: Tokenizer, batch: int = 32
    ):
        """A model that is at hand.

        Args:
          name: for the record; must tell it from others.
          config: of the decoder.
          params: its parameters.
          tokenizer: of its text; its end of document ends a reply.
          batch: rows that are continued together.

        Raises:
          UserError: a tokenizer of more ids than the model has.
        """
        check_vocabulary(tokenizer, config.vocab_size)
        self.name, self.batch = name, batch
        self._config, self._params, self._tokenizer = config, params, tokenizer

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """See `chat.Model`; the draws depend on the request alone."""
        groups: dict[Any, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(request.settings, []).append(i)
        replies: dict[int, Reply] = {}
        for settings, members in groups.items():
            asked = [prompt_of(requests[i]) for i in members]
            prompts = self._tokenizer.encode_batch(asked)
            sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
            seeds = [
                int(fingerprint([text, requests[i].draw])[:8], 16)
                for text, i in zip(asked, members, strict=True)
            ]
            # Always a whole batch: another number of rows would be compiled anew.
            filler = self.batch - len(members)
            longest = max(map(len, prompts)) + sampling.max_new
            length = min(-(-longest // _STEP) * _STEP, self._config.max_length)
            found = generate(
                self._config,
                self._params,
                prompts + [prompts[0]] * filler,
                sampling,
                seeds + [0] * filler,
                self._tokenizer.eos_id,
                max(length, longest),
            )
            for i, prompt, new in zip(members, prompts, found, strict=False):
                finish = "stop" if len(new) < sampling.max_new else "length"
                text = self._tokenizer.decode(new).strip()
                replies[i] = Reply(text, finish, len(prompt), len(new))
        return [replies[i] for i in range(len(requests))]


def prompt_of(request: Request) -> str:
    """What a base model goes on from."""
    turns = [message.content for message in request.messages if message.role == "user"]
    return "\n\n".join(turns)


def load_params(run: str | Path, step: int = -1) -> tuple[ModelConfig, Any, int]:
    """The decoder of a run's checkpoint: configuration, parameters on this device, its step.

    Args:
      run: the run folder.
      step: of the checkpoint; -1 = the last one.

    Raises:
      UserError: no such run or checkpoint, a damaged one, or an encoder.
    """
    folder = RunFolder(Path(run))
    record = read_spec(folder.spec)
    if "model" not in record["spec"]:
        raise UserError(f"{folder.path} is no run of one model; name the run folder of a model")
    config = from_json(ModelConfig, record["spec"]["model"])
    if not config.causal:
        raise UserError(f"{folder.path} trained an encoder, which writes no text; choose a decoder")
    steps = reader.steps(folder.path, reader.NOTHING)
    step = (steps[-1] if steps else -1) if step == -1 else step
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{folder.path} has no checkpoint of step {step}; it has {known}")
    shapes = nn.unbox(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    return config, reader.restore(folder.path, step, {"params": wanted})["params"], step


def from_run(run: str | Path, step: int = -1, tokenizer: str = "", batch: int = 32) -> OwnModel:
    """The model of a run folder, with the tokenizer that the run was trained with.

    Args:
      run: the run folder.
      step: of the checkpoint; -1 = the last one.
      tokenizer: "gpt2", "bytes" or a tokenizer.json in place of the one that the run's data
        configuration names, for runs whose data cannot be opened by name.
      batch: rows that are continued together.

    Raises:
      UserError: see `load_params`, or the tokenizer cannot be made.
    """
    config, params, step = load_params(run, step)
    record = read_spec(RunFolder(Path(run)).spec)
    data = from_json(DataConfig, record["spec"]["data"])
    if tokenizer:
        data = DataConfig(tokenizer=tokenizer, cache_dir=data.cache_dir)
    found = build_tokenizer(data)
    trained = reader.meta(RunFolder(Path(run)).path, step, reader.NOTHING).get("tokenizer", "")
    if trained and trained != found.fingerprint:
        raise UserError(
            f"the tokenizer {found.name!r} is not the one that {run} was trained with; give the "
            "tokenizer.json of that run"
        )
    name = f"{RunFolder(Path(run)).path.name} step {step} {fingerprint(record['spec'])}"
    return OwnModel(name, config, params, found, batch)
