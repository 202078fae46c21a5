"""Models on this machine: a tiny one of Hugging Face, and a decoder of ours."""

import dataclasses
import json

import flax.linen as nn
import jax
import pytest

from llm_dynamics.data.tokenizers import load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.skillmix import models, own
from llm_dynamics.skillmix.chat import Request, Settings
from llm_dynamics.skillmix.endpoint import EndpointConfig
from llm_dynamics.skillmix.hf import HfConfig, HfModel
from llm_dynamics.skillmix.models import ModelSpec, open_model
from llm_dynamics.skillmix.prompts import Message


def request(text, draw=0, **settings):
    return Request((Message("user", text),), Settings(max_tokens=6, **settings), draw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama of random weights over 20 words, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    import tokenizers
    import torch

    path = tmp_path_factory.mktemp("hf")
    vocabulary = {word: i for i, word in enumerate(["</s>", "?", *(f"w{i}" for i in range(18))])}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, eos_token="</s>", unk_token="?"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, eos_token_id=0, bos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_a_model_of_hugging_face_replies_as_its_own_logits_say(folder):
    import torch

    model = HfModel(HfConfig(str(folder)))
    reply = model.complete([request("w1 w2 w3", temperature=0.0)])[0]
    ids = model._tokenizer("w1 w2 w3")["input_ids"]
    with torch.inference_mode():
        for _ in range(6):
            token = int(model._model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
            if token == 0:
                break
    assert reply.text == model._tokenizer.decode(ids[3:], skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, len(ids) - 3)
    assert reply.finish == ("stop" if ids[-1] == 0 else "length")
    drawn = [model.complete([request("w1", draw, temperature=1.5)])[0] for draw in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3] and len(set(drawn)) > 1
    with pytest.raises(UserError, match="reads 32 tokens, the prompt has 30"):
        model.complete([request("w1 " * 30)])


def test_models_that_are_not_there_are_refused(folder, tmp_path):
    for path, words in (("", "got none"), (str(tmp_path / "no"), "no model at")):
        with pytest.raises(UserError, match=words):
            HfModel(HfConfig(path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="cannot load"):
        HfModel(HfConfig(str(tmp_path)))
    with pytest.raises(UserError, match="did you mean 'endpoint'"):
        ModelSpec(kind="endpiont")
    with pytest.raises(UserError, match="path of a run folder"):
        open_model(ModelSpec(kind="run"))
    with pytest.raises(UserError, match="is not a run's spec"):
        open_model(ModelSpec(kind="run", run=models.RunConfig(path=str(tmp_path))))
    local = EndpointConfig("http://127.0.0.1:1", "m", key_variable="")
    assert open_model(ModelSpec(endpoint=local)).name == "http://127.0.0.1:1 m"
    assert open_model(ModelSpec(kind="hf", hf=HfConfig(str(folder)))).concurrency == 1


def test_a_decoder_of_ours_replies_alike_in_any_batch(tmp_path):
    config = ModelConfig(
        vocab_size=257, width=8, num_layers=1, num_heads=1, mlp_width=8, max_length=32,
        tie_embeddings=True,
    )  # fmt: skip
    params = nn.unbox(jax.jit(Decoder(config).new_params)(jax.random.key(0)))
    tokenizer = dataclasses.replace(
        load_tokenizer("bytes", None, tmp_path), _decode=lambda ids: " ".join(map(str, ids))
    )
    model = own.OwnModel("m", config, params, tokenizer, batch=3)
    asked = [request("ab"), request("ab", 1), request("xyz"), request("q", temperature=0.0)]
    found = model.complete(asked[:3]) + model.complete(asked[3:])
    assert model.complete([asked[1], asked[0]]) == [found[1], found[0]]
    assert found[0].prompt_tokens == 2 and found[0].text != found[1].text
    both = dataclasses.replace(Settings(), max_tokens=6)
    dialogue = Request(
        (Message("user", "a"), Message("assistant", "b"), Message("user", "c")), both
    )
    assert own.prompt_of(dialogue) == "a\n\nc"
