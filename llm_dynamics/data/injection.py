"""Passages put into rows at chosen steps (Chang et al. 2024, section 3 and appendix D)."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_dynamics.data.row_policies import RowPolicy, Slot, prefix
from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True)
class Injection:
    """One passage at one step.

    Attributes:
      step: the update whose batch holds it, from 0.
      text: the passage; the end-of-document token is added to it.
      name: what is injected, e.g. the fact; encounters are counted by it.
      labels: e.g. {"fact": ..., "arm": "duplication", "wording": "3"}.
    """

    step: int
    text: str
    name: str
    labels: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: types.MappingProxyType({})
    )


class Placed(NamedTuple):
    """An injection with its tokens and its place."""

    injection: Injection
    tokens: np.ndarray  # int32, closed by the end-of-document token
    row: int
    offset: int  # of the row's own tokens
    encounter: int  # 1 for the first time this name is injected
    alone: bool = False  # the row holds nothing of the corpus


def place(
    injections: Sequence[Injection],
    tokenizer: Any,
    num_rows: int,
    row_length: int,
    steps: int | None = None,
    policy: RowPolicy = prefix,
    seed: int = 0,
) -> tuple[Placed, ...]:
    """Encodes and places all injections, in the order of their steps (then as given).

    Args:
      injections: what is injected when.
      tokenizer: has encode_batch and eos_id.
      num_rows: rows of the global batch, B.
      row_length: tokens of a row with the last label, L + 1.
      steps: length of the run; None = any.
      policy: where the passages of a step go.
      seed: of the policy's draws.

    Raises:
      UserError: a step outside the run, or passages that do not fit into their row.
    """
    ordered = sorted(injections, key=lambda injection: injection.step)
    for injection in ordered:
        if injection.step < 0 or (steps is not None and injection.step >= steps):
            last = "any step >= 0" if steps is None else f"steps 0 to {steps - 1}"
            raise UserError(
                f"the schedule does not fit the run: {injection.name!r} is injected at step "
                f"{injection.step}, the run has {last}; train longer, or inject earlier, fewer "
                "times or at shorter intervals"
            )
    encoded = {text: () for text in dict.fromkeys(injection.text for injection in ordered)}
    for text, ids in zip(encoded, tokenizer.encode_batch(list(encoded)), strict=True):
        encoded[text] = np.array([*ids, tokenizer.eos_id], np.int32)

    placed: list[Placed] = []
    met: dict[str, int] = {}
    by_step: dict[int, list[Injection]] = {}
    for injection in ordered:
        by_step.setdefault(injection.step, []).append(injection)
    for step, group in by_step.items():
        lengths = [len(encoded[injection.text]) for injection in group]
        slots = [Slot(*slot) for slot in policy(seed, step, lengths, num_rows, row_length)]
        _check_room(step, group, lengths, slots, row_length)
        for injection, (row, offset, alone) in zip(group, slots, strict=True):
            count = met[injection.name] = met.get(injection.name, 0) + 1
            tokens = encoded[injection.text]
            placed.append(Placed(injection, tokens, row, offset, count, alone))
    return tuple(placed)


def _check_room(
    step: int,
    group: Sequence[Injection],
    lengths: Sequence[int],
    slots: Sequence[Slot],
    row_length: int,
) -> None:
    used: dict[int, int] = {}
    for k in sorted(range(len(group)), key=lambda k: slots[k].offset):
        row, offset = slots[k].row, slots[k].offset
        room = row_length - offset - used.get(row, 0)
        if lengths[k] > room:
            raise UserError(
                f"step {step}: the passage of {group[k].name!r} has {lengths[k]} tokens with its "
                f"end-of-document token, row {row} has room for {max(room, 0)} (length + 1 = "
                f"{row_length}); shorten the passage, raise the length or the batch size, or "
                "inject fewer passages a step"
            )
        used[row] = used.get(row, 0) + lengths[k]


def insert(
    row: Sequence[np.ndarray], passages: Sequence[tuple[int, Sequence[np.ndarray]]]
) -> list[np.ndarray]:
    """Puts passages into one row, given as parallel arrays of L + 1 values.

    Args:
      row: arrays [L + 1], e.g. tokens and document numbers.
      passages: (offset in the row as it was, arrays parallel to `row`), in order of offset.

    Returns:
      The arrays after insertion, cut to L + 1 from the right.
    """
    results = []
    for k, values in enumerate(row):
        parts, at = [], 0
        for offset, passage in passages:
            parts += [values[at:offset], passage[k]]
            at = offset
        results.append(np.concatenate([*parts, values[at:]])[: len(values)])
    return results


def dose(placed: Sequence[Placed], label: str = "arm") -> dict[str, dict[str, int]]:
    """What each value of a label was given: passages, encounters, tokens and rows touched.

    Tokens include the end-of-document token. Injections without the label count under "".
    """
    groups: dict[str, list[Placed]] = {}
    for item in placed:
        groups.setdefault(item.injection.labels.get(label, ""), []).append(item)
    return {
        value: {
            "passages": len({item.injection.name for item in items}),
            "encounters": len(items),
            "tokens": sum(len(item.tokens) for item in items),
            "rows": len({(item.injection.step, item.row) for item in items}),
        }
        for value, items in groups.items()
    }
