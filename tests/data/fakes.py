"""Small stand-ins for a source and a tokenizer."""

import dataclasses
import hashlib


@dataclasses.dataclass
class FakeSource:
    """Documents given as a list of (id, content)."""

    documents: list

    def __len__(self):
        return len(self.documents)

    def __iter__(self):
        return iter(self.documents)

    @property
    def fingerprint(self):
        return hashlib.sha256(repr(self.documents).encode()).hexdigest()[:16]


@dataclasses.dataclass
class FakeTokenizer:
    """A token for every character, its code point; counts what it was asked."""

    vocab_size: int = 300
    eos_id: int = 299
    fingerprint: str = "fake"
    texts_seen: int = 0

    def encode(self, text):
        return [ord(c) for c in text]

    def encode_batch(self, texts):
        self.texts_seen += len(texts)
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return "".join("$" if i == self.eos_id else chr(i) for i in ids)


@dataclasses.dataclass(frozen=True)
class EndlessStream:
    """A token stream of any length that is computed where it is read: one document."""

    num_tokens: int
    num_documents: int = 1

    @property
    def tokens(self):
        return self

    def __getitem__(self, places):
        return places * 7919 % 251

    def documents_at(self, places):
        return places * 0

    def num_rows(self, length):
        return (self.num_tokens - 1) // length

    num_padded_rows = num_rows
