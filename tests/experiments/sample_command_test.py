"""Texts of a checkpoint are those of generation, kept with their prompts; bad input is refused."""

import json

import flax.linen as nn
import jax
import pytest

from experiments import sample
from llm_dynamics import hub
from llm_dynamics.data.tokenizers import load_tokenizer, train_bpe
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.model.build import build_model
from llm_dynamics.model.generate import Sampling, generate

PROMPTS = ("the lamp", "a river by the")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A random model of theirs, with its folder and tokenizer."""
    root = tmp_path_factory.mktemp("sample")
    words = root / "words.json"
    words.write_text(train_bpe(["a lamp by the river"] * 9, 270))
    config = presets.named("pocket-0.1m", vocab_size=288, max_length=64, num_layers=1)
    params = jax.jit(lambda k: nn.unbox(build_model(config).new_params(k)))(jax.random.key(0))
    params = jax.tree.map(lambda x: 3 * x, params)
    hub.export(config, params, root / "step7", tokenizer=words)
    return root / "step7", *hub.load(root / "step7"), load_tokenizer(str(words), None, root)


def test_texts_are_kept_with_their_prompts(made, tmp_path):
    folder, config, params, words = made
    asked = sample.Asked((str(folder),), PROMPTS, Sampling(0, max_new=5))
    page = sample.run(asked, tmp_path / "out", "the command")
    kept = [json.loads(s) for s in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    prompts = words.encode_batch(list(PROMPTS))
    ids = generate(config, params, prompts, asked.sampling, [0, 0], words.eos_id, 32)
    assert [s["text"] for s in kept] == [words.decode(text) for text in ids]
    assert [(s["prompt"], s["tokens"]) for s in kept] == [
        (prompt, len(text)) for prompt, text in zip(PROMPTS, ids, strict=True)
    ]
    assert "step 7" in kept[0]["checkpoint"] and any(s["text"] for s in kept)
    assert "the command" in page.read_text()
    with pytest.raises(UserError, match="max_new"):
        sample.run(
            sample.Asked((str(folder),), PROMPTS, Sampling(0, max_new=6)), tmp_path / "out", ""
        )


def test_draws_differ_and_do_not_depend_on_each_other(made, tmp_path):
    folder = str(made[0])
    sampling = Sampling(1.5, max_new=6)
    sample.run(sample.Asked((folder,), PROMPTS, sampling, draws=3), tmp_path / "three", "")
    sample.run(sample.Asked((folder,), PROMPTS[1:], sampling, draws=2), tmp_path / "two", "")
    three, two = (
        [json.loads(s)["text"] for s in (tmp_path / n / "samples.jsonl").read_text().splitlines()]
        for n in ("three", "two")
    )
    assert two == three[3:5] and len(set(three)) > 3


def test_what_cannot_be_continued_is_refused(made, tmp_path):
    folder = str(made[0])
    for wrong, words in (
        ({"prompts": ()}, "at least one word"),
        ({"draws": 0}, "at least 1"),
        ({"prompts": ("a b", "a b")}, "every prompt once"),
        ({"draws": 2}, "give --temperature"),
    ):
        with pytest.raises(UserError, match=words):
            sample.Asked(
                **{"checkpoints": (folder,), "prompts": PROMPTS, "sampling": Sampling(0)} | wrong
            )
    long = sample.Asked((folder,), ("the lamp " * 40,), Sampling(0, max_new=30))
    with pytest.raises(UserError, match="1 to 34 tokens"):
        sample.run(long, tmp_path / "out", "")
    with pytest.raises(UserError, match="--max_new below the model's max_length 64, got 64"):
        sample.run(sample.Asked((folder,), PROMPTS, Sampling(0, max_new=64)), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()
