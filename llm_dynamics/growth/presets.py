"""Named operators: a width and a depth pattern, made for a source and a target.

Each says whether the target computes what the source did, and if not, what breaks it.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth import depth as depth_lib
from llm_dynamics.growth import limits
from llm_dynamics.growth import width as width_lib
from llm_dynamics.growth.axes import STREAM, TRANSFORM, Graph
from llm_dynamics.growth.maps import NEW, Gather, Mix, both, pad, tile
from llm_dynamics.growth.operator import Lift, Operator, Term, check
from llm_dynamics.growth.traits import Traits
from llm_dynamics.spec import nearest

UNEVEN = 0.5  # how far the shares of two copies are apart where they are to part ways


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source and a target, as patterns see them."""

    source: Graph
    target: Graph
    traits: Traits  # of the source
    target_traits: Traits
    seed: int = 0  # of random selections

    def sizes(self, role: str) -> tuple[int, int]:
        """Of a role, in source and target."""
        return self.source.sizes[role], self.target.sizes[role]

    def grows(self, role: str) -> bool:
        """Whether a role is larger in the target."""
        return self.source.sizes.get(role) != self.target.sizes.get(role)


@dataclasses.dataclass(frozen=True)
class Width:
    """What a width pattern makes of a pair; see `operator.Operator` for the fields."""

    lifts: Mapping[str, Lift]
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)
    head: float = 1.0
    eps: float | None = None
    broken: tuple[str, ...] = ()
    # Which entries of the target's roles belong to each of several terms; () = one term.
    parts: tuple[Mapping[str, np.ndarray], ...] = ()
    shift: bool = False  # the second part is of the layer above
    masked: bool = False  # new entries and layers fade in, see `masks`


def make(pair: Pair, width: str, depth: str) -> Operator:
    """The operator of a width and a depth pattern.

    Raises:
      UserError: an unknown pattern, or a pair that it does not fit.
    """
    check(pair.source, pair.target)
    if width not in WIDTHS:
        raise UserError(f"unknown width {width!r}; {nearest(width, WIDTHS)}")
    found = WIDTHS[width](pair)
    lifts = dict(found.lifts) | width_lib.others(pair.source, pair.target, found.lifts)
    blends = depth_lib.blends(depth, pair.source, pair.target)
    fading = found.masked and pair.traits.before
    layers = () if fading else _broken(pair, depth)
    limited = limits.broken(pair, found, lifts, depth)
    broken = (*found.broken, *layers, *_wrong_eps(pair, found.eps), *limited)
    return Operator(
        name=f"{width}+{depth}",
        terms=_terms(lifts, blends, found, pair.source),
        gains=found.gains,
        head=found.head,
        eps=found.eps,
        fresh_layers=depth == "append",
        broken=broken,
    )


def require_exact(operator: Operator) -> None:
    """Refuses an operator that changes the function.

    Raises:
      UserError: names the rules that are broken.
    """
    if operator.broken:
        raise UserError(
            f"operator {operator.name} was asked to preserve the function, and cannot: "
            f"{'; '.join(operator.broken)}"
        )


# ---- width patterns ------------------------------------------------------------------------------


def _zero_pad(pair: Pair) -> Width:
    """New dimensions of the stream carry nothing, new heads and units are read by nothing."""
    return _padded_stream(pair, _padded(pair))


def _lemon(pair: Pair) -> Width:
    """As zero_pad, but heads and units are copied with uneven shares (Wang et al. 2024)."""
    return _padded_stream(pair, _copies(pair, _cyclic, UNEVEN))


def _tile(pair: Pair) -> Width:
    """Everything repeated, readers divided (HyperCloning, Samragh et al. 2024).

    A rest of the stream beyond whole copies is padded.
    """
    lifts = _copies(pair, _cyclic)
    if not pair.grows(STREAM):
        return Width(lifts)
    old, new = pair.sizes(STREAM)
    times = new // old
    whole = width_lib.stream_tiled(old, times * old)
    copied = np.where(np.arange(new) < times * old, _cyclic(old, new), NEW)
    lifts |= _read_by_head(pair, copied)
    broken = _tied_gain(pair) if times > 1 else ()
    head = 1 / times if pair.traits.tied else 1.0
    if times * old == new:
        return Width({**lifts, STREAM: whole}, head=head, broken=broken)
    rest = width_lib.stream_padded(times * old, new, pair.traits)
    write = both(whole.write, rest.write) if isinstance(rest.write, Gather) else Mix(
        rest.write.matrix @ np.tile(np.eye(old), (times, 1))
    )  # fmt: skip
    stream = Lift(
        write,
        both(whole.read, rest.read),
        zero_written=True,
        norm=both(whole.write, rest.norm),
    )
    return _with_gain(pair, {**lifts, STREAM: stream}, times * old, new, head, broken)


def _net2net(pair: Pair) -> Width:
    """New entries copy random ones, and readers share (Chen et al. 2016; FPI of bert2BERT)."""
    lifts = _copies(pair, _random(pair))
    broken = ()
    if pair.grows(STREAM):
        old, new = pair.sizes(STREAM)
        index = _random(pair)(old, new)
        lifts[STREAM] = width_lib.units_copied(index)
        lifts |= _read_by_head(pair, index)
        broken = ("norms see another mean square where a part of the stream is copied",)
    return Width(lifts, broken=broken)


def _aki(pair: Pair) -> Width:
    """As net2net, but what new entries write is taken from the layer above (bert2BERT)."""
    found = _net2net(pair)
    lifts = found.lifts
    old = {
        role: np.arange(lift.write.size) < pair.source.sizes[role]
        for role, lift in lifts.items()
        if role not in width_lib.DIMS
    }
    new = {role: ~mask for role, mask in old.items()}
    broken = (*found.broken, *_if(bool(lifts), "new entries are of the layer above"))
    return dataclasses.replace(found, parts=(old, new), shift=True, broken=broken)


def _copy(pair: Pair) -> Width:
    """The source in a corner, everything else drawn (Wei et al. 2016)."""
    lifts = {
        role: Lift(pad(*pair.sizes(role)), pad(*pair.sizes(role)))
        for role in width_lib.grown_roles(pair.source, pair.target)
    }
    return Width(lifts, broken=_if(bool(lifts), "new weights are drawn on both sides"))


def _masked(pair: Pair) -> Width:
    """The source in a corner, everything else drawn and faded in (MSG, Yao et al. 2024).

    Raises:
      UserError: axes that grow under norms which masks cannot weight.
    """
    limits.check_masked(pair)
    lifts, eps, traits = _padded(pair), None, pair.traits
    if pair.grows(STREAM):
        if traits.centred or not (traits.gained and traits.before):
            raise UserError(
                "width 'masked' weights norms by its mask, which the gains of an RMSNorm before a "
                "branch can express; the weighted mean of a LayerNorm is no change of parameters. "
                "Keep the width and grow heads, units or layers, or use 'zero_pad'"
            )
        old, new = pair.sizes(STREAM)
        lifts[STREAM] = width_lib.stream_padded(old, new, traits)
        eps = traits.eps * old / new
    drawn = {role: Lift(x.write.unscaled(), x.read.unscaled()) for role, x in lifts.items()}
    return Width(drawn, eps=eps, masked=True)


def _block_diagonal(pair: Pair) -> Width:
    """Whole copies side by side that do not read each other (Shen et al. 2022).

    Raises:
      UserError: axes that do not all grow by one whole factor.
    """
    grown = width_lib.grown_roles(pair.source, pair.target)
    if not grown:
        return Width({})
    times = {pair.target.sizes[role] / pair.source.sizes[role] for role in grown}
    factor = times.pop()
    roles = (STREAM, *(r for r in (*width_lib.HEADS, "mlp", TRANSFORM) if r in pair.source.sizes))
    if times or factor != int(factor) or set(grown) != set(roles):
        raise UserError(
            "width 'block_diagonal' expects stream, heads and MLP to grow by one whole factor, got "
            + ", ".join(f"{role} {'x'.join(map(str, pair.sizes(role)))}" for role in grown)
        )
    lifts = {}
    for role in roles:
        old, new = pair.sizes(role)
        copies = tile(old, new)
        lifts[role] = Lift(copies, copies)
    parts = tuple(
        {role: np.arange(pair.target.sizes[role]) // pair.source.sizes[role] == i for role in roles}
        for i in range(int(factor))
    )
    broken = _if(not pair.traits.gained, "the norm before the head has no gain to divide")
    return Width(lifts, head=1 / factor, parts=parts, broken=broken)


def _rms(pair: Pair) -> Width:
    """Copies whose readers keep the mean square of what they compute (SPARKLING, 2026).

    With a share c = D / d - 1 <= 1 copied, a reader sums 1 - c single entries and c pairs that are
    alike: 1 / sqrt(1 + 3 c); beyond, 1 / (1 + c).
    """

    def lift(old: int, new: int) -> Lift:
        return Lift(tile(old, new), tile(old, new, keep_rms(old, new)))

    lifts, broken = {}, ()
    for role in width_lib.grown_roles(pair.source, pair.target):
        if role in ("vocab", "positions", *width_lib.DIMS):
            continue
        lifts[role] = lift(*pair.sizes(role))
    lifts |= width_lib.dims_padded(pair.source, pair.target, pair.traits)
    if any(pair.grows(role) for role in width_lib.HEADS):
        index = _cyclic(*pair.sizes("key_heads"))
        lifts |= width_lib.heads_copied(pair.source, pair.target, index)
        old, new = pair.sizes("query_heads")
        attended = lifts["attended_heads"]
        read = Gather(attended.read.index, np.full(new, keep_rms(old, new)))
        lifts["attended_heads"] = dataclasses.replace(attended, read=read)
    head = 1.0
    if pair.grows(STREAM) and pair.traits.tied:
        head = keep_rms(*pair.sizes(STREAM))
    partial = [r for r in lifts if r != STREAM and pair.target.sizes[r] % pair.source.sizes[r]]
    if partial or (pair.grows(STREAM) and pair.target.sizes[STREAM] % pair.source.sizes[STREAM]):
        broken = ("the mean square is kept, not the sum, where a part of an axis is copied",)
    return Width(lifts, head=head, broken=broken + (_tied_gain(pair) if head != 1 else ()))


WIDTHS: Mapping[str, Callable[[Pair], Width]] = {
    "zero_pad": _zero_pad,
    "tile": _tile,
    "lemon": _lemon,
    "net2net": _net2net,
    "aki": _aki,
    "copy": _copy,
    "masked": _masked,
    "block_diagonal": _block_diagonal,
    "rms": _rms,
}


def keep_rms(old: int, new: int) -> float:
    """The factor of readers of an axis of which D / d - 1 of the entries are copies."""
    share = new / old - 1
    return (1 + 3 * share) ** -0.5 if share <= 1 else 1 / (1 + share)


# ---- their parts ---------------------------------------------------------------------------------


def _copies(pair: Pair, select: Callable[[int, int], np.ndarray], uneven: float = 0.0):
    """Heads and units copied; their dimensions padded."""
    lifts = {}
    if any(pair.grows(role) for role in width_lib.HEADS):
        index_K = select(*pair.sizes("key_heads"))
        lifts |= width_lib.heads_copied(pair.source, pair.target, index_K, uneven)
    lifts |= width_lib.dims_padded(pair.source, pair.target, pair.traits)
    if pair.grows("mlp"):
        lifts["mlp"] = width_lib.units_copied(select(*pair.sizes("mlp")), uneven)
    return lifts


def _padded(pair: Pair) -> dict[str, Lift]:
    """New heads, dimensions and units that nothing reads."""
    return {
        **width_lib.heads_padded(pair.source, pair.target),
        **width_lib.dims_padded(pair.source, pair.target, pair.traits),
        **_units(pair, width_lib.units_padded),
    }


def _units(pair: Pair, lift: Callable[[int, int], Lift]) -> dict[str, Lift]:
    return {"mlp": lift(*pair.sizes("mlp"))} if pair.grows("mlp") else {}


def _padded_stream(pair: Pair, lifts: Mapping[str, Lift]) -> Width:
    if not pair.grows(STREAM):
        return Width(lifts)
    old, new = pair.sizes(STREAM)
    stream = width_lib.stream_padded(old, new, pair.traits)
    padded = _read_by_head(pair, pad(old, new).index)
    return _with_gain(pair, {**lifts, **padded, STREAM: stream}, old, new)


def _read_by_head(pair: Pair, index: np.ndarray) -> dict[str, Lift]:
    """An encoder's axis before its head, whose entries the tied head reads one for one.

    Args:
      pair: source and target.
      index: which entry of the source's stream each of the target's is.
    """
    if not pair.grows(TRANSFORM):
        return {}
    entries = Gather(index, np.ones(len(index)))
    return {TRANSFORM: Lift(entries, entries, zero_written=True)}


def _with_gain(pair: Pair, lifts, old: int, new: int, head: float = 1.0, broken=()) -> Width:
    """The norms' part of a padded stream: gains, or readers where there are none, and epsilon."""
    gain = width_lib.stream_gain(old, new)
    if not pair.traits.before:
        broken = (*broken, "norms behind the branches do not leave the mean in new dimensions")
    if pair.traits.gained:
        return Width(lifts, {STREAM: gain}, head, pair.traits.eps * old / new, tuple(broken))
    stream = lifts[STREAM]
    read = Gather(stream.read.index, stream.read.scale * gain)
    lifts = {**lifts, STREAM: dataclasses.replace(stream, read=read)}
    if pair.traits.tied:
        broken = (*broken, "norms have no gain and the head is tied, so logits change their scale")
    return Width(lifts, {}, head, pair.traits.eps * old / new, tuple(broken))


def _tied_gain(pair: Pair) -> tuple[str, ...]:
    """What breaks copies of the stream under a tied head."""
    return _if(
        pair.traits.tied and not pair.traits.gained,
        "the head is tied and reads every copy, and the norm before it has no gain to divide",
    )


def _cyclic(old: int, new: int) -> np.ndarray:
    return np.arange(new) % old


def _random(pair: Pair) -> Callable[[int, int], np.ndarray]:
    """The first entries, then random ones; the same for axes of the same sizes."""

    def select(old: int, new: int) -> np.ndarray:
        drawn = np.random.default_rng([pair.seed, old, new]).integers(old, size=new - old)
        return np.concatenate([np.arange(old), drawn])

    return select


def _if(holds: bool, words: str) -> tuple[str, ...]:
    return (words,) if holds else ()


def _broken(pair: Pair, depth: str) -> tuple[str, ...]:
    if pair.source.layers == pair.target.layers:
        return ()
    if depth != depth_lib.IDENTITY:
        return (f"depth '{depth}' adds layers that write to the stream",)
    return _if(
        not pair.traits.before, "norms behind the branches change the stream in every new layer"
    )


def _wrong_eps(pair: Pair, eps: float | None) -> tuple[str, ...]:
    wanted = pair.traits.eps if eps is None else eps
    found = pair.target_traits.eps
    return _if(
        abs(found - wanted) > 1e-6 * wanted,
        f"norm_eps of the target must be {wanted:.6g}, and is {found:.6g}",
    )


def _terms(lifts, blends, found: Width, source: Graph) -> tuple[Term, ...]:
    if not found.parts:
        return (Term(blends, lifts),)
    terms = []
    for i, part in enumerate(found.parts):
        some = {}
        for role, lift in lifts.items():
            if role not in part:
                some[role] = lift
                continue
            write, mask = lift.write.only(part[role]), part[role]
            norms = lift.norm or lift.write.unscaled()
            read = lift.read
            if found.shift:
                # Reading is the same in all parts; norms are of the layer itself.
                norms = norms if i == 0 else Gather(np.full(norms.size, NEW), norms.scale)
            else:
                read, norms = lift.read.only(mask), norms.only(mask)
            some[role] = dataclasses.replace(lift, write=write, read=read, norm=norms)
        if not (found.shift and i):
            # What lies on none of these axes is whole in the first term.
            plain = [p.path for p in source.params.values() if i and not set(p.roles) & set(part)]
            terms.append(Term(blends, some, frozenset(plain)))
            continue
        above = np.minimum(np.arange(source.layers) + 1, source.layers - 1)
        shifted = {k: w @ depth_lib.one_hot(above, source.layers) for k, w in blends.items()}
        # What writes nothing new has all it needs from the first term.
        whole = [p.path for p in source.params.values() if not set(p.writes) & set(part)]
        terms.append(Term(shifted, some, frozenset(whole)))
    return tuple(terms)
