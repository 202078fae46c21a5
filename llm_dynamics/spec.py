"""Frozen dataclasses as specifications: overrides by key, JSON, differences, fingerprints."""

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from llm_dynamics.errors import UserError

T = TypeVar("T")

_TRUE = {"true": True, "1": True, "yes": True}
_FALSE = {"false": False, "0": False, "no": False}


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """The hint that ends an unknown-name message: the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def to_json(spec: Any) -> Any:
    """Turns nested dataclasses into dictionaries, lists and scalars that `json` writes."""
    if dataclasses.is_dataclass(spec):
        return {f.name: to_json(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping):
        return {str(k): to_json(v) for k, v in spec.items()}
    if isinstance(spec, tuple | list):
        return [to_json(v) for v in spec]
    return spec


def from_json(cls: type[T], obj: Mapping[str, Any], path: str = "") -> T:
    """Rebuilds the dataclass `cls` from `to_json` output.

    Raises:
      UserError: an unknown key, or a value of another type than the field's.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in obj.items():
        if key not in names:
            raise UserError(f"unknown key {_join(path, key)!r}; {nearest(key, names)}")
        values[key] = _convert(hints[key], value, _join(path, key))
    return cls(**values)


def override(spec: T, changes: Mapping[str, Any]) -> T:
    """Returns `spec` with dotted keys replaced, e.g. `{"data.length": "128"}`.

    Values may be text (as on a command line) or already of the field's type; a tuple is written
    with commas. All changes of one level are applied together, so that checks in
    `__post_init__` see the final combination.

    Raises:
      UserError: an unknown key (the nearest known one is named) or a value of another type.
    """
    return _override(spec, dict(changes), "")


def _override(spec: T, changes: Mapping[str, Any], path: str) -> T:
    hints = typing.get_type_hints(type(spec))
    values: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in hints:
            raise UserError(f"unknown key {_join(path, key)!r}; {nearest(head, hints)}")
        if rest:
            below.setdefault(head, {})[rest] = value
        else:
            values[head] = _convert(hints[head], value, _join(path, head))
    for head, inner in below.items():
        child = values.get(head, getattr(spec, head))
        if not dataclasses.is_dataclass(child):
            raise UserError(f"key {_join(path, head)!r} is a single value and has no parts")
        values[head] = _override(child, inner, _join(path, head))
    return dataclasses.replace(spec, **values)


def flatten(spec: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf; a tuple is one leaf."""
    if dataclasses.is_dataclass(spec):
        spec = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping) and spec:
        for key, value in spec.items():
            yield from flatten(value, _join(path, key))
    else:
        yield path, to_json(spec)


def difference(old: Any, new: Any) -> list[str]:
    """Lines `key: old -> new` for every leaf that differs between two specs or dictionaries."""
    old, new = dict(flatten(old)), dict(flatten(new))
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, absent) != new.get(key, absent)
    ]


def fingerprint(obj: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of `obj`."""
    text = json.dumps(to_json(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Converts text or JSON to the type `hint`, or raises a UserError naming `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise _mismatch(path, "a comma-separated list", value)
        item = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        if item is None and len(args) != len(value):
            raise _mismatch(path, f"{len(args)} values", value)
        items = [item] * len(value) if item is not None else args
        return tuple(_convert(a, v, path) for a, v in zip(items, value, strict=True))
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return from_json(hint, value, path)
        raise _mismatch(path, f"the parts of {hint.__name__} (set {path}.KEY)", value)
    if hint is bool:
        word = str(value).lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise _mismatch(path, "true or false", value)
    if hint in (int, float):
        if isinstance(value, bool):
            raise _mismatch(path, hint.__name__, value)
        try:
            number = float(value)
            if hint is int:
                whole = int(value) if isinstance(value, str) and value.isdigit() else int(number)
                if whole != number:
                    raise ValueError
                return whole
            if not math.isfinite(number):
                raise ValueError
            return number
        except (TypeError, ValueError, OverflowError):
            kind = "a whole number" if hint is int else "a finite number"
            raise _mismatch(path, kind, value) from None
    if hint is str and isinstance(value, str):
        return value
    raise _mismatch(path, getattr(hint, "__name__", str(hint)), value)


def _mismatch(path: str, expected: str, value: Any) -> UserError:
    return UserError(f"key {path!r} expects {expected}, got {value!r}")
