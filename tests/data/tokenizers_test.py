"""Tokenizers: round trips, no special tokens out of text, determinism, and clear refusals."""

import random
import subprocess
import sys
import threading
import time

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from llm_dynamics.data import cache, tokenizers
from llm_dynamics.errors import UserError

PIECES = (
    "The first law of motion. ",
    "Größe und Übermaß, straßenweise ",
    "def f(x):\n    return x ** 2\n\n",
    "\ttabs\r\n",
    "  two  spaces ",
    "漢字 and 🙂 ",
    "e\u0301 combined, \u00a0, \x00",
    "<|endoftext|>",
    "</s>",
    "12345.678e-9 ",
)


def random_texts(number=50, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(number)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def bpe(folder):
    return tokenizers.load_tokenizer("bpe:400", lambda: PIECES, folder, "pieces")


@pytest.fixture(scope="module")
def gpt2():
    """Downloads 0.6 MB on the first run of a machine; needs network only then."""
    try:
        return tokenizers.load_tokenizer("gpt2", None, cache.cache_folder())
    except UserError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(f"no network: {error}")


@pytest.mark.parametrize("name", ["bpe", "gpt2", "bytes"])
def test_round_trip_on_mixed_text(name, request, folder):
    if name == "bytes":
        tokenizer = tokenizers.load_tokenizer("bytes", None, folder)
    else:
        tokenizer = request.getfixturevalue(name)
    texts = random_texts()
    batch = tokenizer.encode_batch(texts)
    for text, ids in zip(texts, batch, strict=True):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_id not in ids  # though the text spells it
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode([*batch[0], tokenizer.eos_id]).endswith(tokenizers.END_OF_TEXT)
    assert tokenizer.encode("") == []


def test_known_ids_of_gpt2(gpt2):
    """Ids as published with GPT-2, from its vocabulary."""
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(" <|endoftext|>") == [1279, 91, 437, 1659, 5239, 91, 29]
    assert (gpt2.vocab_size, gpt2.eos_id) == (50257, 50256)


def test_two_at_once_train_once(tmp_path):
    passes = []

    def texts():
        passes.append(1)
        time.sleep(0.3)
        return PIECES

    def load():
        tokenizers.load_tokenizer("bpe:300", texts, tmp_path, "pieces")

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passes) == 1


def test_bytes(folder):
    tokenizer = tokenizers.load_tokenizer("bytes", None, folder)
    assert tokenizer.encode("aß") == [97, 195, 159]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (257, 256)


def test_training_is_deterministic_across_processes():
    code = (
        "import sys; sys.path.insert(0, 'tests/data'); import tokenizers_test as t\n"
        "from llm_dynamics.data.tokenizers import train_bpe\n"
        "sys.stdout.write(train_bpe(t.random_texts(200), 600))"
    )
    here = __file__.rpartition("/tests/")[0]
    run = [sys.executable, "-c", code]
    made = [subprocess.run(run, cwd=here, capture_output=True, check=True) for _ in range(2)]
    assert made[0].stdout == made[1].stdout
    assert made[0].stdout.decode() == tokenizers.train_bpe(random_texts(200), 600)
    assert made[0].stdout.decode() != tokenizers.train_bpe(random_texts(200, seed=1), 600)


def test_training_once_per_size_and_text(tmp_path):
    calls = []

    def texts():
        calls.append(1)
        return PIECES

    first = tokenizers.load_tokenizer("bpe:300", texts, tmp_path, "a")
    again = tokenizers.load_tokenizer("bpe:300", texts, tmp_path, "a")
    assert (len(calls), first) == (1, again)
    tokenizers.load_tokenizer("bpe:301", texts, tmp_path, "a")
    tokenizers.load_tokenizer("bpe:300", texts, tmp_path, "b")
    assert len(calls) == 3
    assert (first.vocab_size, first.eos_id, first.name) == (300, 0, "bpe:300")


def test_every_byte_has_an_id(folder):
    tokenizer = tokenizers.load_tokenizer("bpe:257", lambda: ["a"], folder, "one letter")
    assert tokenizer.vocab_size == 257
    assert tokenizer.decode(tokenizer.encode("漢🙂\x00")) == "漢🙂\x00"


def save_file(path, eos="</s>"):
    """A tokenizer.json with settings that must not leak: truncation, padding, template."""
    engine = Engine(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.add_special_tokens(["[PAD]", eos])
    engine.enable_truncation(2)
    engine.enable_padding(length=6, pad_id=3)
    engine.save(str(path))
    return str(path)


def test_tokenizer_file(tmp_path):
    tokenizer = tokenizers.load_tokenizer(save_file(tmp_path / "t.json"), None, tmp_path)
    assert tokenizer.encode("ababab") == [2, 2, 2]  # neither cut nor padded
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (4, 5)
    other = tokenizers.load_tokenizer(f"{tmp_path}/t.json#ab", None, tmp_path)
    assert other.eos_id == 2
    assert other.fingerprint != tokenizer.fingerprint


def test_end_of_document_token_must_be_known(tmp_path):
    path = save_file(tmp_path / "t.json", eos="<STOP>")
    with pytest.raises(UserError, match="none of the usual end-of-document tokens"):
        tokenizers.load_tokenizer(path, None, tmp_path)
    assert tokenizers.load_tokenizer(f"{path}#<STOP>", None, tmp_path).eos_id == 4
    with pytest.raises(UserError, match="has no token '<GO>'"):
        tokenizers.load_tokenizer(f"{path}#<GO>", None, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"version": "1.0", "mod', "not a complete tokenizer.json"),
        (b"\xff\xfe", "not a complete tokenizer.json"),
        (b'{"a": 1}', "cannot be loaded"),
        (None, "no tokenizer file"),
    ],
)
def test_bad_tokenizer_file(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        tokenizers.load_tokenizer(str(tmp_path / "t.json"), None, tmp_path)


def test_bpe_needs_text(tmp_path):
    with pytest.raises(UserError, match="all sources are token arrays"):
        tokenizers.load_tokenizer("bpe:300", None, tmp_path, "x")


def test_interrupted_training_leaves_nothing(tmp_path):
    def texts():
        yield "abc"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenizers.load_tokenizer("bpe:300", texts, tmp_path, "x")
    assert not list(tmp_path.rglob("*.json"))


def test_vocabulary_must_fit_the_model(bpe):
    tokenizers.check_vocabulary(bpe, bpe.vocab_size)
    with pytest.raises(
        UserError, match=f"has {bpe.vocab_size} ids, the model only {bpe.vocab_size - 1}"
    ):
        tokenizers.check_vocabulary(bpe, bpe.vocab_size - 1)
