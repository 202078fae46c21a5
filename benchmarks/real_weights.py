"""One real model measured by our probes and by transformers: do the numbers agree?

    EXTRAS=hf launch/local --help                  # torch and transformers into .venv
    python -m benchmarks.real_weights [--texts=20]

SmolLM2-135M from its package, read from the GGUF file by each library in its own way. Bits per byte
of the opening of texts of three corpora, given their first words, and the capitals of 242
countries. Nothing is trained. Packages and corpora are fetched if need be.
"""

import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from absl import app, flags
from scipy import stats

from benchmarks.real_model import RealModel, open_model
from llm_dynamics import suites
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.sources import open_source
from llm_dynamics.probe.probes import EncodedProbe, Probe, encode_all
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.train.asking import scorers

_TEXTS = flags.DEFINE_integer("texts", 20, "of each corpus")
_CORPORA = ("wiki_leads/en", "wiktionary_de", "stdlib_code")
_CHARACTERS = 600  # of a text at most
_OPENING = re.compile(r"(?s).{20,60}?\S (?=\S)")  # given, not counted


class Scores(NamedTuple):
    """Of each probe."""

    logprob_P: np.ndarray  # of the whole target, nats
    greedy_P: np.ndarray  # whether it is what the model would write


def opening(name: str, text: str) -> Probe | None:
    """The beginning of a text, cut after a word, as a probe of all but its first words."""
    text = text.strip()[:_CHARACTERS].rsplit(None, 1)[0]
    if not (found := _OPENING.match(text)):
        return None
    return Probe(name, text[: found.end() - 1], text[found.end() :])


def openings(corpus: str) -> list[Probe]:
    """Texts spread over a corpus, those that are long enough."""
    source = open_source(corpus, cache_folder())
    return list(_spread(source, len(source), corpus))


def _spread(source: Iterable, size: int, corpus: str) -> Iterable[Probe]:
    stride, left, wait = max(1, size // (2 * _TEXTS.value)), _TEXTS.value, 0
    for index, (_, text) in enumerate(source):
        if left and index >= wait and len(text) > _CHARACTERS / 2:
            words = text.decode() if isinstance(text, bytes) else text
            if probe := opening(f"{corpus}/{index}", words):
                left, wait = left - 1, index + stride
                yield probe


def ours(model: RealModel, encoded: Sequence[EncodedProbe]) -> Scores:
    """By the probes of this package."""
    params = model.run.params(0)
    programs = scorers(model.run.config, encoded)
    found = np.concatenate([np.asarray(ask(params)) for ask in programs])
    at = MEASURES.index
    return Scores(found[:, at("logprob_sum")], found[:, at("greedy_match")] == 1)


def theirs(model: RealModel, encoded: Sequence[EncodedProbe]) -> Scores:
    """By transformers, one text a call."""
    logprob, greedy = [], []
    with torch.no_grad():
        for probe in encoded:
            ids = torch.tensor(probe.ids)
            target = ids[-probe.num_target :]
            logits = model.theirs(ids[None]).logits[0, -probe.num_target - 1 : -1]
            picked = logits.log_softmax(-1).gather(1, target[:, None])
            logprob.append(picked.double().sum().item())
            greedy.append(bool((logits.argmax(-1) == target).all()))
    return Scores(np.array(logprob), np.array(greedy))


def texts(model: RealModel, corpus: str) -> None:
    """Bits per byte of a corpus, a line of a table."""
    probes = openings(corpus)
    encoded = encode_all(probes, model.run.tokenizer)
    bytes_P = np.array([len(f" {probe.target}".encode()) for probe in probes])
    found = [scores(model, encoded).logprob_P for scores in (ours, theirs)]

    def bits(logprob_P, bytes_P, axis=-1):
        return -logprob_P.sum(axis) / bytes_P.sum(axis) / math.log(2)

    mine, other = (bits(logprob_P, bytes_P) for logprob_P in found)
    interval = stats.bootstrap(
        (found[0], bytes_P), bits, paired=True, vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    tokens = sum(probe.num_target for probe in encoded)
    apart = (np.abs(found[0] - found[1]) / [probe.num_target for probe in encoded]).max()
    print(
        f"| {corpus} | {len(probes)} texts, {tokens:,} tokens | {mine:.4f} [{interval.low:.2f}, "
        f"{interval.high:.2f}] | {other:.4f} | {apart:.1e} |",
        flush=True,
    )


def capitals(model: RealModel) -> None:
    """Of how many countries the capital is what the model would write, a line of a table."""
    encoded = encode_all(suites.load("capitals", cache_folder()).probes(), model.run.tokenizer)
    mine, other = ours(model, encoded), theirs(model, encoded)
    count, right = len(encoded), int(mine.greedy_P.sum())
    interval = stats.binomtest(right, count).proportion_ci(method="wilson")
    apart = np.abs(mine.logprob_P - other.logprob_P).max()
    print(
        f"| capitals, greedy | {count} countries | {right} = {right / count:.3f} "
        f"[{interval.low:.3f}, {interval.high:.3f}] | {other.greedy_P.sum()}, the same on "
        f"{(mine.greedy_P == other.greedy_P).sum()} | {apart:.1e} |"
    )


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(Path(folder))
        print("|  | n | ours, 95 % interval | transformers | largest difference, nats |")
        print("|---|---|---|---|---|")
        for corpus in _CORPORA:
            texts(model, corpus)
        capitals(model)
    print(
        "\nBits per byte are those of a text's opening given its first words; intervals by BCa "
        "bootstrap over texts and by Wilson over countries. Differences are of a text's mean "
        "log-probability of a token, and of a capital's log-probability."
    )


if __name__ == "__main__":
    app.run(main)
