"""Package metadata.

The suite was run with the newest releases inside these ranges on Python 3.11 (jax 0.10.2); on
Python 3.12 (jax 0.12) a part of it was. The lower ends are the oldest that are meant to work.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "llm_dynamics" / "__init__.py").read_text()
).group(1)

INSTALL = [
    "absl-py>=2.3,<3",
    "array_record>=0.8,<0.9",  # storage of the TFDS builders
    "flax>=0.12.8,<0.13",
    "importlib_resources>=6.5",  # tensorflow-datasets needs it without declaring it
    "jax>=0.10.2,<0.13",
    "jinja2>=3.1,<4",
    "matplotlib>=3.10,<4",
    "markupsafe>=2.1,<4",
    "numcodecs>=0.15,<0.17",
    "numpy>=2.1,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pyarrow>=20",
    "safetensors>=0.5,<1",
    "scipy>=1.15,<2",
    "statsmodels>=0.14.5,<0.16",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.10,<5",
    "tokenizers>=0.22,<0.24",
    "tqdm>=4.66,<5",
    "xarray>=2025.6",
    "zarr>=3.1,<4",
    "zstandard>=0.23,<1",
]

EXTRAS = {
    # torch and transformers are the references that the tests compare with. The exact torch
    # version lets an index or a folder that carries its CPU build provide it.
    "test": [
        "accelerate>=1,<2",  # the harness reads models of transformers with it
        "chex>=0.1.92,<0.2",
        "gguf>=0.17,<1",
        "lm-eval>=0.4.13,<0.5",
        "openai>=2,<4",
        "pytest>=8.4,<10",
        "pytest-xdist>=3.8,<4",
        "ruff==0.17.6",
        "scikit-learn>=1.5,<2",
        "torch==2.13.0",
        "transformers>=5,<6",
    ],
    # transformers for the conventions of its tokenizers, without torch
    "eval": ["lm-eval>=0.4.13,<0.5", "transformers>=5,<6"],
    "gguf": ["gguf>=0.17,<1"],  # checkpoints of llama.cpp
    "skillmix": ["openai>=2,<4"],  # models behind endpoints
    "hf": ["accelerate>=1,<2", "gguf>=0.17,<1", "torch>=2.6,<3", "transformers>=5,<6"],
    "images": ["scikit-learn>=1.5,<2"],  # for the pictures that it ships
    "gpu": ["jax[cuda13]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "wandb": ["wandb>=0.22,<1"],
}

setup(
    name="llm_dynamics",
    version=VERSION,
    description="Pretraining dynamics of language models in JAX: facts, continual training, "
    "growth and skills",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["llm_dynamics*", "experiments*"]),
    package_data={"": ["*.j2", "*.json", "*.bib", "*.txt", "*.md", "*.css", "*.js"]},
    install_requires=INSTALL,
    extras_require=EXTRAS,
)
