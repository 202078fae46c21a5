"""Reads the published JSON schema of fictional knowledge as it is (Chang et al. 2024, App. B)."""

import json
from pathlib import Path
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.facts.facts import DEPTHS, Fact
from llm_dynamics.files import expanded
from llm_dynamics.probe.probes import Probe

PREFIXES = dict(zip(DEPTHS, ("mem", "gen", "hard_gen"), strict=True))
_PROBE_FIELDS = tuple(f"{p}_{part}" for p in PREFIXES.values() for part in ("input", "target"))
_REQUIRED = ("train_context", *_PROBE_FIELDS)


def load_published(path: str | Path) -> tuple[Fact, ...]:
    """Reads a JSON list of records into facts named `passage-000` and so on, in file order.

    Every record has `train_context` (text) and, for each prefix mem (memorization), gen
    (semantic) and hard_gen (compositional), lists of texts `PREFIX_input` and `PREFIX_target` of
    one length (5 as published); `paraphrases` may be absent or empty. Probes keep the order of
    the file and the label `attribute` is the position in its list.

    Raises:
      UserError: an unreadable file, or the record number and field that is malformed.
    """
    path = expanded(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"expected a JSON file of facts at {path}, got nothing there") from None
    except OSError as error:
        raise UserError(f"expected a readable file at {path}, got: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"expected UTF-8 text in {path}, got byte {error.start} that is not"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"expected a JSON list in {path}, got a fault at line {error.lineno}: {error.msg}; "
            "is the file truncated?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"expected JSON with numbers and nesting of ordinary size in {path}, got "
            f"{type(error).__name__}: {error}"
        ) from None
    if not isinstance(records, list) or not records:
        raise UserError(f"expected a non-empty JSON list of records in {path}")
    facts = tuple(_fact(record, index, path) for index, record in enumerate(records))
    first: dict[str, int] = {}
    for index, fact in enumerate(facts):
        if fact.passage in first:
            raise UserError(
                f"{path}: expected every train_context once, got the text of record "
                f"{first[fact.passage]} again in record {index}; remove one"
            )
        first[fact.passage] = index
    return facts


def _fact(record: Any, index: int, path: Path) -> Fact:
    where = f"{path}, record {index}"
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, got {type(record).__name__}")
    for field in _REQUIRED:
        if field not in record:
            raise UserError(f"{where}: expected field {field!r}, got none")
    for field in record:
        if field not in (*_REQUIRED, "paraphrases"):
            raise UserError(
                f"{where}: unexpected field {field!r}; known: {', '.join(_REQUIRED)}, paraphrases"
            )
    _check_text(record["train_context"], where, "train_context")
    paraphrases = _texts(record.get("paraphrases", []), where, "paraphrases")
    name = f"passage-{index:03d}"
    probes = []
    for depth, prefix in PREFIXES.items():
        inputs = _texts(record[f"{prefix}_input"], where, f"{prefix}_input")
        targets = _texts(record[f"{prefix}_target"], where, f"{prefix}_target")
        if not inputs or len(inputs) != len(targets):
            raise UserError(
                f"{where}: expected as many {prefix}_target as {prefix}_input and at least one, "
                f"got {len(targets)} and {len(inputs)}"
            )
        for i, (context, target) in enumerate(zip(inputs, targets, strict=True)):
            labels = {
                "fact": name,
                "kind": "passage",
                "depth": depth,
                "attribute": str(i),
                "candidates": "",
                "log_chance": "",
            }
            probes.append(Probe(f"{name}/{depth}/{i}", context, target, labels))
    return Fact(name, record["train_context"], paraphrases, tuple(probes), "passage")


def _texts(value: Any, where: str, field: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list in {field!r}, got {type(value).__name__}")
    for i, text in enumerate(value):
        _check_text(text, where, f"{field}[{i}]")
    return tuple(value)


def _check_text(value: Any, where: str, field: str) -> None:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text in {field!r}, got {type(value).__name__}")
    if not value or value != value.strip():
        raise UserError(
            f"{where}: expected text without outer white space in {field!r}, got {value[:40]!r}"
        )
