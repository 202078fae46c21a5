"""Small random decoders of several families, exported, and task files that ask all there is."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from llm_dynamics import hub
from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.harness import tasks
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.suites import Item, Suite

TEXTS = (
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Ice is cold, and the sun is hot. What is hot? The sun.",
)
NEOX = ModelConfig(vocab_size=304, width=32, num_layers=2, num_heads=4, mlp_width=64, max_length=32)
CONFIGS = {
    "gpt_neox": NEOX,
    "llama": dataclasses.replace(NEOX, norm="rmsnorm", mlp="swiglu", num_kv_heads=2),
    "gpt2": dataclasses.replace(
        NEOX, position="learned", mlp="gelu_tanh", use_bias=True, tie_embeddings=True
    ),
}
SUITES = (
    Suite(
        "cloze", "cloze",
        tuple(
            Item(name, f"The capital of {name} is", (), city, {"side": side})
            for name, city, side in (
                ("France", "Paris", "west"), ("Italy", "Rome", "west"), ("Japan", "Tokyo", "east"),
            )
        ),
        "made up", "none", "nobody",
    ),
    Suite(
        "choice", "choice",
        (
            Item("short", "What is hot?\nAnswer:", ("ice", "the sun", "a café"), "the sun"),
            Item("long", f"{TEXTS[1] * 4}\nWhat is cold?\nAnswer:", ("ice", "sun"), "ice"),
            Item("one token", "Is it?", ("a", "b"), "a"),
        ),
        "made up", "none", "nobody",
    ),
)  # fmt: skip


def params(config, seed=0):
    """Random parameters, large enough to prefer some tokens, that nothing is compiled for."""
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))
    return jax.tree.map(lambda x: rng.normal(0.1, 0.25, x.shape).astype(np.float32), shapes)


def tokenizer(folder, begins=False):
    """Writes the files of a small BPE; `begins` = one that begins every text with a token."""
    engine = Tokenizer.from_str(train_bpe(TEXTS, 290))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    if begins:
        engine.add_special_tokens(["<s>"])
        begin = ("<s>", engine.token_to_id("<s>"))
        engine.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[begin])
        said["bos_token"] = "<s>"
    folder.mkdir(parents=True)
    engine.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def exported(config, root, begins=False, seed=0):
    """A folder of transformers with a random model."""
    hub.export(config, params(config, seed), root / "model", tokenizer(root / "words", begins))
    return root / "model"


def write_task(folder, name, rows, **task):
    """A task file as a user writes it."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "metadata": {"version": 3},
        **task,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(said))


def write_tasks(folder, greedy=()):
    """Every kind of request; `greedy`: (context, continuation) besides. Returns the names."""
    folder.mkdir()
    for suite in SUITES:
        tasks.write(suite, folder)
    pairs = [
        ("", "The sun"),  # what stands before a text without context
        ("The sun is ", "hot"),  # a blank that belongs to what follows
        ("<|endoftext|>Ice", " is<|endoftext|>"),  # special tokens in text
        ("<s>Ice", " is cold"),  # begins already
        *greedy,
    ]
    write_task(
        folder, "tricky", [{"context": a, "continuation": b} for a, b in pairs],
        output_type="loglikelihood", doc_to_text="context", doc_to_target="continuation",
        metric_list=[{"metric": m} for m in ("acc", "perplexity")],
    )  # fmt: skip
    write_task(
        folder, "rolling", [{"text": text} for text in (*TEXTS, TEXTS[0] * 5, "a")],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text",
        metric_list=[{"metric": m} for m in ("word_perplexity", "bits_per_byte")],
    )  # fmt: skip
    asked = ("What is", "The capital", f"{TEXTS[1] * 4} The")
    write_task(
        folder, "written", [{"text": text, "answer": "x"} for text in asked],
        output_type="generate_until", doc_to_text="text", doc_to_target="answer",
        generation_kwargs={"until": ["e", "\n"], "max_gen_toks": 12, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )  # fmt: skip
    return ["cloze", "choice", "tricky", "rolling", "written"]
