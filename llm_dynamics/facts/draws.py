"""Random choices as pure functions of a key, the same on every platform and version."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(bound: int, *key: int | str) -> int:
    """A whole number in [0, bound), determined by `key` alone (SHA-256 of its parts)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % bound


def shuffled(items: Sequence[T], *key: int | str) -> list[T]:
    """The items in an order determined by `key` and each item's position."""
    order = sorted(range(len(items)), key=lambda i: draw(1 << 63, *key, i))
    return [items[i] for i in order]
