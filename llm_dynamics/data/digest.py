"""The hash that names a sequence of documents."""

from typing import Any


def update_digest(digest: Any, doc_id: str, content: bytes) -> None:
    """Adds one document to a hashlib object; lengths go in too, so that boundaries count."""
    key = doc_id.encode()
    digest.update(f"{len(key)} {len(content)} ".encode())
    digest.update(key)
    digest.update(content)
