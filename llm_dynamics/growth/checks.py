"""What a growth did: is the function kept, are new units alive, how large are activations?

Letters: B rows, L positions, V vocabulary, N layers, D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.growth.apply import flat
from llm_dynamics.growth.axes import Graph
from llm_dynamics.model import windows
from llm_dynamics.model.build import Model, layer_of
from llm_dynamics.model.loss import token_losses, training_loss

_SMALL_RATE = 1e-5
TOLERANCE = 1e-5  # of a logit in float32, over the largest logit of the source


@dataclasses.dataclass(frozen=True)
class Preserved:
    """How far a target is from its source on some tokens.

    Attributes:
      max_logit_difference: largest absolute difference of a logit.
      largest_logit: of the source, absolute.
      kl: mean divergence KL(source || target) of the next token, nats.
      top1_agreement: share of positions with the same most likely token.
      source_loss: nats per token.
      target_loss: nats per token.
    """

    max_logit_difference: float
    largest_logit: float
    kl: float
    top1_agreement: float
    source_loss: float
    target_loss: float

    @property
    def kept(self) -> bool:
        """Whether all logits agree within rounding of float32."""
        return self.max_logit_difference <= TOLERANCE * max(1.0, self.largest_logit)


def preserved(
    source: Model, source_params: Any, target: Model, target_params: Any, batch: Batch
) -> Preserved:
    """Compares both models on a batch."""
    ours, loss = _logits(source, source_params, batch)
    theirs, grown_loss = _logits(target, target_params, batch)
    mask = np.asarray(batch.mask_BxL, bool)
    ours, theirs = ours[mask], theirs[mask]
    log_p, log_q = (jax.nn.log_softmax(x.astype(np.float64), axis=-1) for x in (ours, theirs))
    kl = float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))
    return Preserved(
        max_logit_difference=float(np.abs(ours - theirs).max()),
        largest_logit=float(np.abs(ours).max()),
        kl=kl,
        top1_agreement=float(np.mean(ours.argmax(-1) == theirs.argmax(-1))),
        source_loss=loss,
        target_loss=grown_loss,
    )


def require_preserved(found: Preserved, name: str) -> None:
    """Refuses a growth that was to keep the function and did not.

    Raises:
      UserError: says by how much.
    """
    if not found.kept:
        raise UserError(
            f"operator {name} was to preserve the function, but logits differ by up to "
            f"{found.max_logit_difference:.2g} (allowed {TOLERANCE:g} of {found.largest_logit:.3g})"
            f" and the loss went from {found.source_loss:.4f} to {found.target_loss:.4f}"
        )


def without_gradient(model: Model, params: Any, batch: Batch, graph: Graph) -> dict[str, float]:
    """Path -> share of its entries whose gradient is exactly 0 on a batch; none left out.

    Rows of tables that the batch does not hold are no fault, so tables are left out.
    """
    grads = flat(jax.jit(jax.grad(lambda p: training_loss(model, p, batch)[0]))(params))
    found = {}
    for path, grad in grads.items():
        if {"vocab", "positions"} & set(graph.params[path].roles):
            continue
        share = float(np.mean(np.asarray(grad) == 0))
        if share:
            found[path] = share
    return found


def duplicates(params: Any, graph: Graph) -> dict[str, float]:
    """Role -> share of its entries of which another is an exact copy, written and read alike.

    Such copies get the same gradient for ever: they are one unit. Copies that are read with other
    shares part ways.
    """
    leaves, found = flat(params), {}
    for role, size in graph.sizes.items():
        if role in ("vocab", "positions"):
            continue
        rows = []
        for path, param in graph.params.items():
            # Biases and norms are alike in many fresh units; weights tell copies.
            if param.kind != "weight" or role not in param.roles or _is_table(param.roles):
                continue
            axis = int(param.layered) + param.roles.index(role)
            value = np.moveaxis(np.asarray(leaves[path]), axis, 0).reshape(size, -1)
            rows.append(value)
        if rows:
            _, counts = np.unique(np.concatenate(rows, axis=1), axis=0, return_counts=True)
            found[role] = float(counts[counts > 1].sum() / size)
    return found


def activations(model: Model, params: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Root mean squares along the layers.

    Returns:
      "stream": N + 1 values, before the first layer and after each; "update": N values, of what a
      layer adds over the stream before it.
    """
    config = model.config
    h, mask, angles = model.apply(
        {"params": params}, batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL,
        method="embedded",
    )  # fmt: skip

    def rms(x):
        return float(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))))

    def layer_fn(w, h, kind):
        return layer_of(config).apply({"params": w}, h, mask, angles, None, kind)[0]

    layer_fn, kinds_N = jax.jit(layer_fn), windows.kinds(config)
    stream, update = [rms(h)], []
    for n in range(config.num_layers):
        weights = jax.tree.map(lambda x, n=n: jnp.asarray(x)[n], params["layers"])
        after = layer_fn(weights, h, None if kinds_N is None else kinds_N[n])
        update.append(rms(after - h) / max(stream[-1], 1e-30))
        stream.append(rms(after))
        h = after
    return {"stream": np.array(stream), "update": np.array(update)}


def effective_rate(
    source: Model, source_params: Any, target: Model, target_params: Any, batch: Batch
) -> float:
    """How many times further the target's function moves than the source's at one learning rate.

    Root mean square change of the logits on a batch by a first update of Adam, which moves every
    entry by the rate against the sign of its gradient; target over source. A rate that is held
    through the growth counts this many times (k for a tile of k copies, whose parts move alike).
    The update is small (`_SMALL_RATE`), so that the change is linear in it.
    """
    ours, theirs = (
        _moved(model, params, batch)
        for model, params in ((source, source_params), (target, target_params))
    )
    return theirs / ours if ours else float("inf")


def report(found: Preserved, without: Mapping[str, float], copies: Mapping[str, float]) -> dict:
    """The checks as they are written beside a grown run."""
    return {
        "preserved": dataclasses.asdict(found) | {"kept": found.kept},
        "without_gradient": dict(without),
        "duplicates": dict(copies),
    }


def _logits(model: Model, params: Any, batch: Batch) -> tuple[np.ndarray, float]:
    @jax.jit
    def both(params):
        hidden = model.apply(
            {"params": params}, batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL
        )
        losses_BxL = token_losses(model, params, batch)
        mean = jnp.sum(losses_BxL * batch.mask_BxL) / jnp.maximum(jnp.sum(batch.mask_BxL), 1)
        return model.apply({"params": params}, hidden, method="unembed"), mean

    logits_BxLxV, mean = both(params)
    return np.asarray(logits_BxLxV), float(mean)


def _moved(model: Model, params: Any, batch: Batch) -> float:
    """Root mean square change of logits by one small update."""
    grads = jax.jit(jax.grad(lambda p: training_loss(model, p, batch)[0]))(params)
    after = jax.tree.map(lambda p, g: p - _SMALL_RATE * jnp.sign(g), params, grads)
    mask = np.asarray(batch.mask_BxL, bool)
    change = (_logits(model, after, batch)[0] - _logits(model, params, batch)[0])[mask]
    return float(np.sqrt(np.mean(np.square(change, dtype=np.float64))))


def _is_table(roles: tuple[str, ...]) -> bool:
    return bool({"vocab", "positions"} & set(roles))
