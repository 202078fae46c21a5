"""A growth operator: how every axis is written and read, and how layers are blended.

    new[i] = sum over terms of sum_j w[i, j] B old[j] A^T        (Wang et al. 2023, Eq. 8)

with B what happens to the axes a parameter writes, A to those it reads, and w the blend of the
layers of its module. Entries that no term reaches are drawn as in a fresh target, or 0.

An operator is data. It knows axes, not models; `growth.apply` applies it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth.axes import LAYERS, Graph, Param
from llm_dynamics.growth.maps import Gather, Map


@dataclasses.dataclass(frozen=True)
class Lift:
    """How one role grows.

    Attributes:
      write: the map of what writes it.
      read: the map of what reads it.
      zero_written: new entries that are written are 0, not drawn.
      zero_read: new entries that are read are 0, not drawn.
      norm: the map of norm gains and shifts; None = `write` without its factors.
    """

    write: Map
    read: Map
    zero_written: bool = False
    zero_read: bool = False
    norm: Map | None = None

    def of(self, param: Param, reading: bool) -> Map:
        """The map of an axis that `param` reads or writes."""
        if reading:
            return self.read
        if param.kind in ("gain", "shift"):
            if self.norm is not None:
                return self.norm
            return self.write.unscaled() if isinstance(self.write, Gather) else self.write
        return self.write


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of an operator.

    Attributes:
      depth: by path or module, or "" for all others: N x n weights of the source's layers.
      lifts: by role, or by roles joined with "+" for a map over several axes at once. Roles that
        are not named stay as they are.
      without: paths of parameters to which it adds nothing.
    """

    depth: Mapping[str, jax.Array | np.ndarray]
    lifts: Mapping[str, Lift]
    without: frozenset[str] = frozenset()

    def blend(self, param: Param) -> jax.Array | np.ndarray | None:
        """How the layers of a parameter are blended, N x n; None where it has no layers."""
        if not param.layered:
            return None
        for key in (param.path, param.module):
            if key in self.depth:
                return self.depth[key]
        return self.depth[""]

    def maps(self, source: Param, target: Param) -> list[tuple[tuple[int, ...], Map]]:
        """The maps of a parameter, each with the axes that it maps (several for a joint map).

        Raises:
          UserError: an axis that grows and of which the operator says nothing.
        """
        found: list[tuple[tuple[int, ...], Map]] = []
        first = int(source.layered)
        for roles, reading in ((source.reads, True), (source.writes, False)):
            axes = tuple(range(first, first + len(roles)))
            first += len(roles)
            joint = "+".join(roles)
            if len(roles) > 1 and joint in self.lifts:
                found.append((axes, self.lifts[joint].of(source, reading)))
                continue
            for axis, role in zip(axes, roles, strict=True):
                if role in self.lifts:
                    found.append(((axis,), self.lifts[role].of(source, reading)))
                elif source.shape[axis] != target.shape[axis]:
                    raise UserError(
                        f"the operator says nothing of {role}, which is {source.shape[axis]} in "
                        f"the source and {target.shape[axis]} in the target ({source.path})"
                    )
        return found


@dataclasses.dataclass(frozen=True)
class Operator:
    """A map from the parameters of a source to those of a target.

    Attributes:
      name: of it.
      terms: summed.
      gains: by role: factor of the norm gains that come from the source.
      head: factor of the gain and shift of the norm that the head reads, the new ones too.
      eps: that the target's norms must have; None = that of the source.
      fresh_layers: layers without a source are drawn; else they are 0.
      broken: why the target computes something else than the source; () = it does not.
    """

    name: str
    terms: tuple[Term, ...]
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)
    head: float = 1.0
    eps: float | None = None
    fresh_layers: bool = False
    broken: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the target computes what the source did, up to rounding."""
        return not self.broken

    def terms_of(self, param: Param) -> tuple[Term, ...]:
        """The terms that add to a parameter."""
        return tuple(term for term in self.terms if param.path not in term.without)

    def factor(self, param: Param, head_norm: str) -> float:
        """What the entries of a parameter that come from the source are multiplied by."""
        factor = self.gains.get(param.writes[0], 1.0) if param.kind == "gain" else 1.0
        return factor * self.head_factor(param, head_norm)

    def head_factor(self, param: Param, head_norm: str) -> float:
        """The part of it that new entries are multiplied by, too."""
        under_head = bool(head_norm) and param.module == head_norm
        return self.head if under_head and param.kind in ("gain", "shift") else 1.0

    def drawn(self, source: Param, target: Param) -> np.ndarray | None:
        """Which entries of a parameter are drawn, full size or 1 along an axis; None = none."""
        reached = self.reached(source, target)
        first = int(source.layered)
        missing, zero = None, None
        for axis, role in enumerate(source.roles, first):
            if reached[axis].all():
                continue
            entries = _along(~reached[axis], axis, target)
            missing = entries if missing is None else missing | entries
            # Norms are not written to the stream: their new entries are those of a fresh norm.
            if source.kind in ("gain", "shift"):
                continue
            reading = axis - first < len(source.reads)
            lift = next((term.lifts[role] for term in self.terms if role in term.lifts), None)
            if lift and (lift.zero_read if reading else lift.zero_written):
                zero = entries if zero is None else zero | entries
        if missing is not None and zero is not None:
            missing = missing & ~zero
        if source.layered and self.fresh_layers and not reached[0].all():
            layers = _along(~reached[0], 0, target)
            missing = layers if missing is None else missing | layers
        return missing

    def reached(self, source: Param, target: Param) -> list[np.ndarray]:
        """Which entries along every axis of a parameter come from the source."""
        total = [np.zeros(size, bool) for size in target.shape]
        for term in self.terms_of(source):
            found = [np.ones(size, bool) for size in target.shape]
            blend = term.blend(source)
            if isinstance(blend, np.ndarray):
                found[0] = (blend != 0).any(axis=1)
            for axes, along in term.maps(source, target):
                if len(axes) == 1:
                    found[axes[0]] = ~along.new
            total = [a | b for a, b in zip(total, found, strict=True)]
        return total


def check(source: Graph, target: Graph) -> None:
    """Refuses models of which one does not grow into the other.

    Raises:
      UserError: parameters that one of them lacks, or an axis that would shrink.
    """
    if missing := sorted(set(source.params) ^ set(target.params)):
        raise UserError(
            f"source and target have not the same parameters: {missing[0]} is in one of them "
            f"alone ({len(missing)} such); only sizes may differ, so give the target the source's "
            "norm, biases, head, positions and kind of MLP"
        )
    for role, size in source.sizes.items():
        if target.sizes[role] < size:
            raise UserError(
                f"expected a target of at least {size} along {role}, got {target.sizes[role]}: "
                "growth does not shrink an axis"
            )
    if target.layers < source.layers:
        raise UserError(
            f"expected a target of at least {source.layers} {LAYERS}, got {target.layers}: growth "
            "does not remove layers"
        )


def _along(mask: np.ndarray, axis: int, target: Param) -> np.ndarray:
    shape = [1] * len(target.shape)
    shape[axis] = -1
    return mask.reshape(shape)
