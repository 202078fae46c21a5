"""Text from a real model: with remembered keys and values, without them, and by transformers.

    EXTRAS=hf launch/local --help                  # torch and transformers into .venv
    python -m benchmarks.generation [--rows=4] [--new=48] [--rounds=3]

SmolLM2-135M in float32, greedy, all prompts in one batch. Rounds alternate; a ratio is a median of
ratios within rounds. The three texts have to be the same.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

from benchmarks.real_model import open_model
from llm_dynamics.model.build import build_model
from llm_dynamics.model.decoder import hidden_at
from llm_dynamics.model.generate import Sampling, generate

_ROWS = flags.DEFINE_integer("rows", 4, "texts")
_NEW = flags.DEFINE_integer("new", 48, "tokens of each")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "rounds of all contestants")
_PROMPT = "The most important thing to know about the history of the printing press is that"


def again(config, params, prompt_BxL: np.ndarray, new: int) -> Callable[[], np.ndarray]:
    """The same text, everything computed again for every token."""
    decoder, start = build_model(config), prompt_BxL.shape[1]

    @jax.jit
    def text(params, tokens_BxL):
        def step(t, tokens_BxL):
            column_Bx1 = jnp.full((len(tokens_BxL), 1), start + t - 1)
            h_Bx1xD = hidden_at(decoder, params, (tokens_BxL,), column_Bx1)
            logits_BxV = decoder.apply({"params": params}, h_Bx1xD[:, 0], method="unembed")
            return tokens_BxL.at[:, start + t].set(logits_BxV.argmax(-1).astype(jnp.int32))

        return jax.lax.fori_loop(0, new, step, tokens_BxL)

    tokens_BxL = np.pad(prompt_BxL, ((0, 0), (0, new)))
    return lambda: np.asarray(text(params, tokens_BxL))[:, start:]


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(Path(folder))
        config, params = model.run.config, model.run.params(0)
        ids = list(model.run.tokenizer.encode(_PROMPT))
    rows, new = _ROWS.value, _NEW.value
    prompt_BxL = np.array([ids[: len(ids) - row % 4] + ids[: row % 4] for row in range(rows)])

    def ours() -> np.ndarray:
        sampling = Sampling(temperature=0, max_new=new)
        prompts = prompt_BxL.tolist()
        return np.array(generate(config, params, prompts, sampling, [0] * rows, eos_id=-1))

    def theirs() -> np.ndarray:
        with torch.no_grad():
            found = model.theirs.generate(
                torch.tensor(prompt_BxL), attention_mask=torch.ones(prompt_BxL.shape).long(),
                max_new_tokens=new, min_new_tokens=new, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        return found[:, prompt_BxL.shape[1] :].numpy()

    contestants = {
        "ours": ours,
        "ours, computed again": again(config, params, prompt_BxL.astype(np.int32), new),
        "transformers": theirs,
    }
    texts = [call() for call in contestants.values()]
    same = [f"{(text == texts[0]).mean():.1%}" for text in texts[1:]]
    times = {name: [] for name in contestants}
    for _ in range(_ROUNDS.value):
        for name, call in contestants.items():
            times[name].append(_seconds(call))
    print(f"{rows} texts of {prompt_BxL.shape[1]} + {new} tokens, greedy; the same tokens: {same}")
    for name, seconds in times.items():
        ratio = statistics.median(s / o for s, o in zip(seconds, times["ours"], strict=True))
        middle = statistics.median(seconds)
        print(f"  {name:<22}{rows * new / middle:8.1f} tokens/s, {ratio:.2f}x the time of ours")


def _seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)
