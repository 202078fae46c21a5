"""Our own decoders as models that reply: the checkpoint of a run, or parameters at hand.

They are base models: the contents of a dialogue's user turns, joined by empty lines, are the text
that they go on from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.generate import Sampling, generate
from llm_dynamics.skillmix.chat import Reply, Request
from llm_dynamics.spec import fingerprint
from llm_dynamics.train.finished import finished_run

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


def from_run(run: str | Path, step: int = -1, tokenizer: str = "", batch: int = 32) -> OwnModel:
    """The model of a run folder, with the tokenizer that the run was trained with.

    Args:
      run: the run folder.
      step: of the checkpoint; -1 = the last one.
      tokenizer: "gpt2", "bytes" or a tokenizer.json in place of the one that the run's data
        configuration names.
      batch: rows that are continued together.

    Raises:
      UserError: no run of a decoder, no such checkpoint, or no tokenizer of the run's.
    """
    found = finished_run(run, tokenizer)
    step = found.steps[-1] if step == -1 and found.steps else step
    params = found.params(step)
    name = f"{found.name} step {step} {fingerprint(found.record)}"
    return OwnModel(name, found.config, params, found.tokenizer, batch)
