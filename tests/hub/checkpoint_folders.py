"""Three tiny checkpoints: of a run folder, as folders of theirs, and in a cache like the hub's."""

import functools
import hashlib
import shutil
from pathlib import Path

import flax.linen as nn
import jax

from llm_dynamics import files, hub, spec
from llm_dynamics.data import tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.finished import finished_run

MODEL = ModelConfig(
    vocab_size=290, width=16, num_layers=1, num_heads=2, mlp_width=32, max_length=48,
    norm="rmsnorm", mlp="swiglu",
)  # fmt: skip
STEPS = (0, 4, 9)
TEXT = ["the red fox has a tail", "one and one is two", "a fox is red and fast"] * 9
REPO = "them/tiny"


@functools.cache
def _fresh(model: ModelConfig):
    return jax.jit(build_model(model).new_params)


def own_run(path: Path, steps=STEPS, model=MODEL, texts=TEXT) -> Path:
    """A run folder of parameters from other seeds; its tokenizer lies beside it."""
    words = path.parent / f"{path.name}-words.json"
    files.write_text(words, tokenizers.train_bpe(texts, 290))
    data = DataConfig(("text.jsonl",), str(words), length=32, batch_size=2)
    run_spec = RunSpec(model, data, OptimConfig(), TrainConfig(max(steps)), ProbeConfig())
    record = {"spec": spec.to_json(run_spec), "data": {}, "parent": None, "versions": {}}
    files.write_json(path / "spec.json", record)
    trained = tokenizers.load_tokenizer(str(words), None, path).fingerprint
    meta = {"spec": record["spec"], "data": "d", "tokenizer": trained}
    kept = Checkpoints(path / "checkpoints", CheckpointConfig(steps=steps), max(steps))
    for step in steps:
        params = nn.unbox(_fresh(model)(jax.random.key(step)))
        kept.save({"params": params}, step, meta)
    kept.close()
    return path


def exported(run: Path, folder: Path) -> Path:
    """FOLDER/stepN of every checkpoint of a run."""
    of = finished_run(run)
    for step in of.steps:
        target = folder / f"step{step}"
        hub.export(of.config, of.params(step), target, tokenizer=of.data.tokenizer)
    return folder


def cached(folder: Path, home: Path, repo: str = REPO) -> Path:
    """Folders of `exported` as revisions in a cache: refs, snapshots of links, and blobs."""
    model = home / "hub" / f"models--{repo.replace('/', '--')}"
    for source in sorted(folder.iterdir()):
        commit = hashlib.sha1(source.name.encode()).hexdigest()
        files.write_text(model / "refs" / source.name, commit)
        snapshot = model / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (model / "blobs").mkdir(exist_ok=True)
        for file in source.iterdir():
            blob = model / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copyfile(file, blob)
            (snapshot / file.name).symlink_to(Path("../../blobs", blob.name))
    return home
