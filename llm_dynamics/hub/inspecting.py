"""What a checkpoint is, in lines, and all that would be refused of it; no weights are read."""

from collections import Counter
from collections.abc import Iterable

from llm_dynamics.errors import UserError
from llm_dynamics.hub.families import read_config
from llm_dynamics.hub.reading import open_source, problems
from llm_dynamics.hub.tokenizer_files import found_words
from llm_dynamics.model import size


def describe(source: str, tokenizer: str = "", ignore: Iterable[str] = ()) -> list[str]:
    """Family, sizes, parameters, types, tokenizer, and what would be refused.

    Args:
      source: the folder of a checkpoint.
      tokenizer: in place of the one beside it.
      ignore: fields of config.json that are harmless though they are not known to be.

    Raises:
      UserError: no checkpoint, or a damaged one.
    """
    opened = open_source(source)
    types = Counter(t.dtype for t in opened.tensors.values())
    total = sum(t.bytes for t in opened.tensors.values())
    lines = [
        f"family      {opened.fields.get('model_type')}",
        f"tensors     {len(opened.tensors):,} in {len({t.file for t in opened.tensors.values()})} "
        f"file(s), {total / 1e6:,.1f} MB; {', '.join(f'{n} of {t}' for t, n in types.items())}",
    ]
    refused: list[str] = []
    try:
        family, config = read_config(opened.fields, opened.where, ignore)
    except UserError as error:
        return [*lines, f"refused     {error}"]
    lines += [
        f"sizes       {config.num_layers} layers of width {config.width}, {config.num_heads} heads "
        f"of {config.head_size} ({config.kv_heads} of keys), MLP {config.mlp_width}, vocabulary "
        f"{config.vocab_size:,}, context {config.max_length:,}",
        f"made of     {config.norm} (eps {config.norm_eps:g}), {config.mlp}, {config.position}, "
        f"{'with' if config.use_bias else 'without'} biases, "
        f"{'tied' if config.tie_embeddings else 'untied'} head",
        f"parameters  {size.num_params(config):,} (float32: {size.num_params(config) * 4e-6:,.1f} "
        "MB)",
    ]
    refused += problems(opened, family, config)
    try:
        if tokenizer not in ("gpt2", "bytes"):
            with found_words(opened, tokenizer, config.vocab_size) as words:
                ids, eos = words.tokenizer.vocab_size, words.tokenizer.eos_id
            lines.append(f"tokenizer   {ids:,} ids, end of document {eos}")
    except UserError as error:
        refused.append(str(error))
    return lines + [f"refused     {line}" for line in refused or ["nothing (weights not read yet)"]]
