"""How long a checkpoint of a billion parameters takes to import, and how much memory.

    python -m benchmarks.hub [--layers=22] [--folder=NEW_FOLDER]

Writes a Llama of TinyLlama's shape with random float32 weights (4.4 GB at 22 layers) and makes a
run folder of it (as much again), each in a process of its own, whose peak resident memory counts.
Both are deleted at the end.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from safetensors.numpy import save_file

from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.hub.llama import tensors, write
from llm_dynamics.hub.runs import import_run
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig

_LAYERS = flags.DEFINE_integer("layers", 22, "of the model; 22 = 1.1 billion parameters")
_FOLDER = flags.DEFINE_string("folder", "", "new one for what is written; default: a temporary one")
_PART = flags.DEFINE_enum("part", "all", ["all", "write", "import"], "what this process does")


def config() -> ModelConfig:
    """TinyLlama 1.1B, Zhang et al. (2024)."""
    return ModelConfig(
        vocab_size=32000, width=2048, num_layers=_LAYERS.value, num_heads=32, num_kv_heads=4,
        mlp_width=5632, max_length=2048, norm="rmsnorm", mlp="swiglu",
    )  # fmt: skip


def write_checkpoint(folder: Path) -> None:
    """Random weights, a layer a file."""
    folder.mkdir(parents=True)
    said = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(write(config()) | said))
    (folder / "tokenizer.json").write_text(train_bpe(["a lamp by the river"] * 9, 270))
    generator, layout, where = np.random.default_rng(0), tensors(config()), {}
    groups: dict[str, list] = {}
    for tensor in layout:
        words = tensor.name.split(".")
        groups.setdefault(words[2] if words[1] == "layers" else "rest", []).append(tensor)
    for group, members in groups.items():
        name = f"model-{group}.safetensors"
        arrays = {t.name: generator.standard_normal(t.shape, np.float32) * 0.02 for t in members}
        save_file(arrays, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(arrays, name)
    index = {"metadata": {"total_size": size.num_params(config()) * 4}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main(argv: list[str]) -> None:
    """Starts the two parts, or is one of them."""
    folder = Path(_FOLDER.value or tempfile.mkdtemp(prefix="hub-benchmark-"))
    if _PART.value == "write":
        write_checkpoint(folder / "theirs")
        return
    if _PART.value == "import":
        before = _peak()
        start = time.perf_counter()
        import_run(folder / "theirs", folder / "run")
        seconds, peak = time.perf_counter() - start, _peak()
        stored = size.num_params(config()) * 4e-9
        print(
            f"{size.num_params(config()):,} parameters, {stored:.2f} GB in float32: imported in "
            f"{seconds:.1f} s, peak resident memory {peak:.2f} GB = {peak / stored:.2f} of its "
            f"bytes ({before:.2f} GB before it began)"
        )
        return
    if _FOLDER.value and folder.exists():
        raise app.UsageError(f"{folder} exists; name a new one, as it is deleted at the end")
    try:
        for part in ("write", "import"):
            command = [sys.executable, "-m", "benchmarks.hub", f"--part={part}", *argv[1:]]
            flags_given = [f"--layers={_LAYERS.value}", f"--folder={folder}"]
            subprocess.run([*command, *flags_given], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _peak() -> float:
    """Gigabytes that were resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9


if __name__ == "__main__":
    app.run(main)
