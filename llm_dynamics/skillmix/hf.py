"""Models of Hugging Face's transformers, from a folder on this machine; nothing is downloaded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.skillmix.chat import Reply, Request
from llm_dynamics.spec import fingerprint


@dataclasses.dataclass(frozen=True)
class HfConfig:
    """Which model."""

    path: str = ""  # a folder as `save_pretrained` writes it, or a .gguf file
    device: str = "auto"  # "cpu", "cuda", "auto" = cuda where there is one


class HfModel:
    """A `chat.Model` that runs here, one request after the other.

    The dialogue goes through the tokenizer's chat template; without one, the contents of the
    turns are joined by empty lines, as a base model reads them.
    """

    concurrency = batch = 1

    def __init__(self, config: HfConfig):
        """Loads the model.

        Raises:
          UserError: no such folder or file, a missing package, or a model that does not load.
        """
        if not config.path:
            raise UserError("expected the path of a model folder or .gguf file, got none")
        path = expanded(config.path)
        if not path.exists():
            raise UserError(f"no model at {path}; expected a folder or a .gguf file")
        self._torch, transformers = _libraries()
        where = {"local_files_only": True}
        folder = path
        if path.is_file():
            folder, where = path.parent, where | {"gguf_file": path.name}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
            self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, **where)
        except Exception as error:  # the library raises whatever its parts raise
            said = str(error).strip().partition("\n")[0]
            raise UserError(
                f"transformers cannot load {path} ({type(error).__name__}: {said}); .gguf files "
                "also need the packages accelerate and gguf (EXTRAS=hf)"
            ) from error
        device = config.device
        if device == "auto":
            device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model = self._model.to(device).eval()
        self.name = f"transformers {path.name} {_identity(path)}"

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """See `chat.Model`; the draws depend on the request alone."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply:
        settings = request.settings
        text = self._text(request)
        chat = self._tokenizer.chat_template is not None
        inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
        ids_1xL = inputs["input_ids"].to(self._model.device)
        asked = ids_1xL.shape[1]
        most = getattr(self._model.config, "max_position_embeddings", None)
        if most and asked + settings.max_tokens > most:
            raise UserError(
                f"{self.name} reads {most} tokens, the prompt has {asked} and the reply may have "
                f"{settings.max_tokens}; lower max_tokens or ask for fewer skills"
            )
        how = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if settings.temperature:
            how = {
                "do_sample": True,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": 0,
            }
        self._torch.manual_seed(int(fingerprint([text, request.draw])[:8], 16))
        with self._torch.inference_mode():
            out_1xM = self._model.generate(
                ids_1xL,
                attention_mask=self._torch.ones_like(ids_1xL),
                max_new_tokens=settings.max_tokens,
                pad_token_id=self._tokenizer.eos_token_id,
                **how,
            )
        new = out_1xM[0, asked:].tolist()
        stops = self._model.generation_config.eos_token_id
        stops = {*stops} if isinstance(stops, list) else {stops, self._tokenizer.eos_token_id}
        finish = "stop" if new and new[-1] in stops else "length"
        return Reply(
            self._tokenizer.decode(new, skip_special_tokens=True).strip(), finish, asked, len(new)
        )

    def _text(self, request: Request) -> str:
        if self._tokenizer.chat_template is None:
            return "\n\n".join(message.content for message in request.messages)
        turns = [message._asdict() for message in request.messages]
        return self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )


def _identity(path: Path) -> str:
    """Tells models at one path apart: sizes and times of its files."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return fingerprint([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files])


def _libraries():
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"models of Hugging Face need the package {error.name}; run with EXTRAS=hf"
        ) from None
    return torch, transformers
