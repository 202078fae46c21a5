"""Rows of tokens as a batch: inputs, labels, and what may see what."""

import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.data.rows import PADDING


def make_batch(tokens_BxM: np.ndarray, document_BxM: np.ndarray, isolate: bool) -> Batch:
    """Inputs and labels of rows of M = L + 1 tokens.

    Args:
      tokens_BxM: int32 [B, M].
      document_BxM: the document of every token; PADDING is no token.
      isolate: documents become segments that neither see nor predict each other.

    Returns:
      Arrays [B, L].
    """
    rows, length = len(tokens_BxM), tokens_BxM.shape[1] - 1
    real_BxM = document_BxM != PADDING
    index_BxL = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    mask_BxL = real_BxM[:, 1:]
    segment_BxL = real_BxM[:, :-1].astype(np.int32)
    position_BxL = index_BxL.copy()
    if isolate:
        change_BxL = document_BxM[:, 1:] != document_BxM[:, :-1]
        # The last label of a segment would be the first token of an unrelated document.
        mask_BxL = mask_BxL & ~change_BxL
        first_BxL = np.zeros((rows, length), bool)
        first_BxL[:, 1:] = change_BxL[:, :-1]
        segment_BxL = segment_BxL * (1 + first_BxL.cumsum(axis=1, dtype=np.int32))
        position_BxL = index_BxL - np.maximum.accumulate(first_BxL * index_BxL, axis=1)
    return Batch(
        tokens_BxL=np.ascontiguousarray(tokens_BxM[:, :-1]),
        targets_BxL=np.ascontiguousarray(tokens_BxM[:, 1:]),
        segment_ids_BxL=segment_BxL,
        positions_BxL=position_BxL,
        mask_BxL=mask_BxL.astype(np.float32),
    )
