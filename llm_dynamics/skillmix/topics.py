"""Topics of low frequency: titles of encyclopedia leads that the leads themselves rarely name.

Published topics occur about once in a million words (Yu et al. 2023). Here a topic is a title of
one word of letters that makes up between 1e-6 and 1e-5 of all the words of the leads: known, and
not what most texts are about. The corpus has under a million words, so that is a few mentions.
"""

import collections
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llm_dynamics.data.sources import open_source
from llm_dynamics.errors import UserError

LOWEST, HIGHEST = 1e-6, 1e-5  # of a topic's share of all words
_WORD = re.compile(r"[^\W\d_]+")


def rare_titles(
    documents: Iterable[tuple[str, str]],
    count: int,
    seed: int,
    low: float = LOWEST,
    high: float = HIGHEST,
) -> tuple[str, ...]:
    """A random choice of the titles whose share of all words lies in [low, high].

    Args:
      documents: (title, text).
      count: of topics.
      seed: of the choice.
      low: lowest share.
      high: highest share.

    Raises:
      UserError: fewer such titles than asked for.
    """
    titles, counts = [], collections.Counter()
    for title, text in documents:
        titles.append(title.strip())
        counts.update(word.casefold() for word in _WORD.findall(text))
    total = sum(counts.values())
    fitting = {
        title.casefold(): title
        for title in titles
        if _WORD.fullmatch(title)
        and len(title) > 3
        and low <= counts[title.casefold()] / total <= high
    }
    if len(fitting) < count:
        raise UserError(
            f"expected {count} titles that are rare in the text, got {len(fitting)}; ask for fewer "
            "topics or give a file of topics"
        )
    chosen = np.random.default_rng(seed).choice(len(fitting), count, replace=False)
    names = list(fitting.values())
    return tuple(names[i] for i in sorted(chosen))


def of_leads(count: int, seed: int, cache_dir: Path) -> tuple[str, ...]:
    """Topics out of the English leads of Wikipedia, which are fetched on first use.

    Raises:
      UserError: they cannot be fetched.
    """
    source = open_source("wiki_leads", cache_dir)
    return rare_titles(((doc_id, text) for doc_id, text in source), count, seed)
