"""What the builders of all corpora share: features, metadata, and generation in a fixed order."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from llm_dynamics.data.corpora import registry
from llm_dynamics.data.digest import update_digest
from llm_dynamics.data.fetch import check, instructions


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A corpus of (id, text) documents, stored in the order in which `documents` yields them.

    A subclass gives `documents`; everything else comes from the table in `registry`. The archive
    is expected in the manual folder of the download configuration.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See docs/data.md: the archive is downloaded with pip."

    @property
    def corpus(self) -> registry.Corpus:
        name = self.builder_config.name if self.BUILDER_CONFIGS else ""
        return registry.corpus(f"{self.name}/{name}" if name else self.name)

    def documents(self, archive: Path | None) -> Iterable[tuple[str, str]]:
        """Yields (id, text); ids are unique."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        corpus = self.corpus
        package = corpus.package
        origin = {
            "corpus": corpus.full_name,
            "package": package.name if package else "",
            "package_version": package.version if package else "",
            "package_sha256": package.sha256 if package else "",
            "extraction": corpus.extraction,
            "language": corpus.language,
            "licence": corpus.licence,
            "attribution": corpus.attribution,
        }
        if corpus.python:
            origin["python"] = corpus.python
        return self.dataset_info_from_configs(
            description=corpus.description,
            features=tfds.features.FeaturesDict(
                {"id": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            license=corpus.licence,
            metadata=tfds.core.MetadataDict(origin),
            disable_shuffling=True,  # keeps the order of `documents`
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        package, archive = self.corpus.package, None
        if package:
            archive = Path(dl_manager.manual_dir) / package.filename
            if not archive.exists():
                raise FileNotFoundError(instructions(package, archive.parent))
            check(archive, package)
        documents = list(self.documents(archive))
        digest, size = hashlib.sha256(), 0
        for doc_id, text in documents:
            content = text.encode()
            update_digest(digest, doc_id, content)
            size += len(content)
        self.info.metadata.update(
            documents=len(documents),
            bytes=size,
            words=sum(len(text.split()) for _, text in documents),
            text_sha256=digest.hexdigest(),
        )
        return {"train": self._generate_examples(documents)}

    def _generate_examples(
        self, documents: list[tuple[str, str]]
    ) -> Iterator[tuple[int, dict[str, str]]]:
        for position, (doc_id, text) in enumerate(documents):
            yield position, {"id": doc_id, "text": text}

    def prepare(self, manual_dir: Path) -> None:
        """Writes the data set, from the archive in `manual_dir` if the corpus has one."""
        manual_dir.mkdir(parents=True, exist_ok=True)
        self.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=str(manual_dir))
        )
