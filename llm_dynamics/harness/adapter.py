"""A model of ours as a model of lm-evaluation-harness, with the conventions of its `hf` model.

How text is cut into context and continuation, what is put before it and what is left out of it
when it is too long are those of `HFLM`, so that a model scores the same here and, exported, there.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models import utils as model_utils

from llm_dynamics import hub
from llm_dynamics.errors import UserError
from llm_dynamics.harness import words as words_lib
from llm_dynamics.harness.scorer import Scorer, bucket
from llm_dynamics.harness.words import Words
from llm_dynamics.hub.reading import Source, open_source
from llm_dynamics.hub.tokenizer_files import found_words
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.generate import Sampling, generate
from llm_dynamics.train.finished import FinishedRun
from llm_dynamics.train.series import Checkpoint, OwnCheckpoint, are_finite

_log = logging.getLogger(__name__)
_MAX_NEW = 256  # tokens where a task names no other number
_PIECE = 32  # tokens after which it is seen whether a text has ended
_KNOWN = {"do_sample", "temperature", "top_p", "until", "max_gen_toks"}
_SEEDS = 1_000_003


class CheckpointLM(TemplateLM):
    """A decoder of ours, its parameters and its tokenizer, asked by the harness.

    Args:
      config: of the decoder.
      params: its parameters.
      words: its tokenizer, see `words`.
      max_length: tokens that the model reads at once; 0 = its max_length.
      eos_ids: tokens that end a generated text besides the tokenizer's.
      tokens: positions of a batch of texts that are written.
      name: of the checkpoint, in what is refused.

    Raises:
      UserError: an encoder, or parameters that are not finite.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        words: Words,
        max_length: int = 0,
        eos_ids: Sequence[int] = (),
        tokens: int = 4096,
        name: str = "the model",
    ):
        super().__init__()
        if not config.causal:
            raise UserError("the harness asks decoders, got an encoder; choose another model")
        if max_length < 0 or max_length > config.max_length:
            raise UserError(
                f"expected a max_length of at most the model's {config.max_length}, got "
                f"{max_length}"
            )
        if not are_finite(params):
            raise _diverged(name, "parameters")
        self._name = name
        self.words = words
        self.max_length = max_length or config.max_length
        self.eos_ids = frozenset((words.eos_token_id, *eos_ids))
        self._scorer = Scorer(config, params)
        self._tokens = tokens

    @classmethod
    def of_run(cls, run: FinishedRun, step: int, **options: Any) -> "CheckpointLM":
        """A checkpoint of a run folder.

        Raises:
          UserError: no such checkpoint, no tokenizer, or see above.
        """
        words = words_lib.of_run(run, step)
        options = {"name": f"{run.folder.path}, step {step}"} | options
        return cls(run.config, run.params(step), words, **options)

    @classmethod
    def of_folder(cls, folder: str | Path, **options: Any) -> "CheckpointLM":
        """A folder as `save_pretrained` writes it, with its tokenizer.

        Raises:
          UserError: see `hub.load` and `words.of_folder`.
        """
        words = words_lib.of_folder(folder)
        config, params = hub.load(folder)
        options = {"name": str(folder), "eos_ids": _ends(open_source(folder))} | options
        return cls(config, params, words, **options)

    @classmethod
    def of_checkpoint(cls, of: Checkpoint, tokenizer: str = "", **options: Any) -> "CheckpointLM":
        """A checkpoint of a series, of either kind.

        Args:
          of: an `OwnCheckpoint` or a `HubCheckpoint`.
          tokenizer: that the series was opened with, in place of what lies beside them.
          options: of the constructor.

        Raises:
          UserError: no parameters or no tokenizer.
        """
        if isinstance(of, OwnCheckpoint):
            return cls.of_run(of.of, of.step, **options)
        if not tokenizer and of.source.path.is_dir():
            words = words_lib.of_folder(of.source.path)
        elif tokenizer in ("gpt2", "bytes"):
            words = words_lib.PlainWords(of.tokenizer)
        else:
            with found_words(of.source, tokenizer, of.config.vocab_size) as found:
                words = words_lib.of_files(of.config, found.spec(found.main), of.tokenizer)
        options = {"name": of.run, "eos_ids": _ends(of.source)} | options
        return cls(of.config, of.params(), words, **options)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.words.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, else the end of another text."""
        bos = self.words.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; special ones as the tokenizer's files say, unless told otherwise."""
        special = {}
        if add_special_tokens is not None:
            special["add_special_tokens"] = add_special_tokens
        elif model_utils.has_bos_prefix(
            string, self.words.decode([self.prefix_token_id], skip_special_tokens=False)
        ):
            special["add_special_tokens"] = False
        return list(self.words.encode(string, **special))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """ln p of whole texts in nats, each token with as much context as fits its window."""
        texts = [request.args[0] for request in requests]
        windows, owner = [], []
        for number, text in enumerate(texts):
            for pair in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(pair)))
                owner.append(number)
        sums = [0.0] * len(texts)
        for number, (value, _) in zip(owner, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += value
        for text, value in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        cut, rows = 0, []
        for said, context, continuation in requests:
            if not continuation or len(continuation) > self.max_length:
                raise UserError(
                    f"expected a continuation of 1 to {self.max_length} tokens, got "
                    f"{len(continuation)}: {said}"
                )
            whole = [*context, *continuation]
            cut += len(whole) > self.max_length + 1
            rows.append((tuple(whole[-(self.max_length + 1) :][:-1]), tuple(continuation)))
        if cut:
            _log.warning(
                "%d of %d texts are longer than the model's %d tokens; their beginnings are left "
                "out", cut, len(rows), self.max_length,
            )  # fmt: skip
        with jax.default_matmul_precision("highest"):
            found = self._scorer.score(rows)
        if not all(math.isfinite(value) for value, _ in found):
            raise _diverged(self._name, "log-likelihoods")
        for (said, *_rest), answer in zip(requests, found, strict=True):
            if said is not None:
                self.cache_hook.add_partial("loglikelihood", said, answer)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string, the end of text or the largest number of tokens.

        Raises:
          UserError: settings of generation that are not known here, or no room for a prompt.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        found = [""] * len(requests)
        for members in groups.values():
            texts = [requests[number].args[0] for number in members]
            continued = self._continued(texts, requests[members[0]].args[1])
            for number, text in zip(members, continued, strict=True):
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return found

    def _continued(self, texts: Sequence[str], asked: dict[str, Any]) -> list[str]:
        settings = model_utils.normalize_gen_kwargs(asked, _MAX_NEW)
        if unknown := sorted(set(settings) - _KNOWN):
            raise UserError(
                f"expected generation_kwargs of {', '.join(sorted(_KNOWN))}, got "
                f"{', '.join(unknown)}"
            )
        eos = self.words.decode([self.eot_token_id], skip_special_tokens=False)
        stops = model_utils.handle_stop_sequences(list(settings["until"]), eos)
        new, room = settings["max_gen_toks"], self.max_length - settings["max_gen_toks"]
        if new < 1 or room < 1:
            raise UserError(
                f"expected max_gen_toks of at least 1 and below the model's {self.max_length} "
                f"tokens, got {new}; lower it"
            )
        warm = settings["temperature"] if settings["do_sample"] else 0.0
        sampling = Sampling(warm, settings.get("top_p", 1.0), new)
        prompts = [self.tok_encode(text)[-room:] or [self.prefix_token_id] for text in texts]
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        found = [""] * len(prompts)
        while order:
            length = min(bucket(len(prompts[order[0]])) + new, self.max_length)
            rows = max(1, self._tokens // length)
            batch, order = order[:rows], order[rows:]
            ids = self._batch([prompts[n] for n in batch], batch, sampling, stops, length)
            for n, continuation in zip(batch, ids, strict=True):
                text = self.words.decode(continuation, skip_special_tokens=True)
                found[n] = model_utils.postprocess_generated_text(text, stops, None)
        return found

    def _batch(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        stops: Sequence[str],
        length: int,
    ) -> list[list[int]]:
        """Token ids of the continuations; they may go on for a while behind a stop string."""
        made: list[list[int]] = [[] for _ in prompts]
        open_rows = set(range(len(prompts)))
        for start in range(0, sampling.max_new, _PIECE):
            size = min(_PIECE, sampling.max_new - start)
            piece = Sampling(sampling.temperature, sampling.top_p, size)
            with jax.default_matmul_precision("highest"):
                added = generate(
                    self._scorer.config,
                    self._scorer.params,
                    [[*prompt, *done] for prompt, done in zip(prompts, made, strict=True)],
                    piece,
                    [(seed * _SEEDS + start) % 2**32 for seed in seeds],
                    self.eot_token_id,
                    length,
                )
            for row in sorted(open_rows):
                ends = [i for i, token in enumerate(added[row]) if token in self.eos_ids]
                made[row] += added[row][: ends[0]] if ends else added[row]
                text = self.words.decode(made[row], skip_special_tokens=False)
                if ends or len(added[row]) < size or any(stop and stop in text for stop in stops):
                    open_rows.discard(row)
            if not open_rows:
                break
        return made


def _diverged(name: str, what: str) -> UserError:
    return UserError(
        f"{name}: expected finite {what}, got others: the model diverged; leave this checkpoint out"
    )


def _ends(source: Source) -> list[int]:
    """The tokens that config.json names as ends of a text."""
    said = source.fields.get("eos_token_id")
    return said if isinstance(said, list) else [] if said is None else [said]
