"""Which documents and passages a row held, as data and as text to print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_dynamics.data.injection import Placed
from llm_dynamics.data.rows import PADDING, TokenStream


def pieces(
    document_M: np.ndarray, place_M: np.ndarray, stream: TokenStream, placed: Sequence[Placed]
) -> dict[str, Any]:
    """The runs of equal document number in one row, in order.

    Args:
      document_M: document of every token; -1 - k is the k-th of `placed`; PADDING is none.
      place_M: the token's index in the stream, or in the passage.
      stream: where the documents are.
      placed: all injections of the plan.

    Returns:
      {"documents": [{id, start, tokens, at}], "injected": [{name, labels, tokens, at, encounter}]},
      and "padding": tokens at the row's end that are none.
    """
    firsts = np.flatnonzero(np.diff(document_M, prepend=document_M[0] + 1))
    documents, injected = [], []
    for first, end in zip(firsts, [*firsts[1:], len(document_M)], strict=True):
        d, size = int(document_M[first]), int(end - first)
        where = {"tokens": size, "at": int(first)}
        if d == PADDING:
            continue
        if d < 0:
            item = placed[-1 - d]
            named = {"name": item.injection.name, "labels": dict(item.injection.labels)}
            injected.append({**named, **where, "encounter": item.encounter})
        else:
            start = int(place_M[first] - stream.starts[d])
            documents.append({"id": stream.doc_id(d), "start": start, **where})
    padding = int(np.count_nonzero(document_M == PADDING))
    return {"documents": documents, "injected": injected, "padding": padding}


def format_explanation(rows: Sequence[Mapping[str, Any]]) -> str:
    """`Plan.explain` as text: a line for every row, one below it for every piece, in order."""
    lines = []
    for row in rows:
        lines.append(
            f"row {row['row']}  {row['source']}  epoch {row['epoch']}  row {row['index']} of it"
            + (f"  replayed of {row['replayed']}" if "replayed" in row else "")
        )
        parts = [(d["at"], _document(d)) for d in row["documents"]]
        parts += [(i["at"], _injected(i)) for i in row["injected"]]
        if row["padding"]:
            at = sum(piece["tokens"] for piece in [*row["documents"], *row["injected"]])
            parts.append((at, f"padding  {row['padding']} tokens"))
        lines += [f"  {at:>6}  {text}" for at, text in sorted(parts)]
    return "\n".join(lines)


def _document(piece: Mapping[str, Any]) -> str:
    return f"{piece['id']}  tokens {piece['start']} to {piece['start'] + piece['tokens'] - 1}"


def _injected(piece: Mapping[str, Any]) -> str:
    labels = "".join(f"  {key}={value}" for key, value in piece["labels"].items())
    what = f"INJECTED {piece['name']}  encounter {piece['encounter']}"
    return f"{what}  {piece['tokens']} tokens{labels}"
