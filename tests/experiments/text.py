"""Small made-up text for runs that must not need the network."""

import random
from pathlib import Path

_TEXT = (
    "river stone lamp window harbour engine paper winter garden letter bridge market silver "
    "tower morning teacher village music forest island captain story colour number question"
)
_WORDS = tuple(_TEXT.split())


def write_corpus(path: Path, documents: int = 300, seed: int = 0) -> Path:
    """Writes one document a line as JSONL."""
    rng = random.Random(seed)
    lines = []
    for _ in range(documents):
        words = [rng.choice(_WORDS) for _ in range(rng.randrange(20, 120))]
        lines.append('{"text": "' + " ".join(words).capitalize() + '."}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_run(workdir: Path, corpus: Path, cache: Path) -> list[str]:
    """Flags of a facts study that takes seconds."""
    return [
        "--preset=smoke",
        f"--workdir={workdir}",
        f"--config.data.sources={corpus}",
        f"--config.data.cache_dir={cache}",
        "--config.data.tokenizer=bpe:512",
        "--config.model.vocab_size=512",
        "--config.data.length=160",
        "--config.data.batch_size=8",
        "--config.model.num_layers=1",
        "--config.train.steps=20",
        "--config.train.tensorboard=false",
        "--config.train.checkpoint.every=6",
        "--config.train.validate_every=10",
        "--config.facts.num_facts=8",
        "--config.facts.start=3",
        "--config.facts.interval=4",
        "--config.facts.encounters=3",
        "--config.facts.window=4",
    ]
