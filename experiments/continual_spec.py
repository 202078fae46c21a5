"""What a continual study is asked to do, and what all of its runs share."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.spec import nearest
from llm_dynamics.train.config import RunSpec

OLD = "old"  # the first stage, and the data it reads
SPLITS = "splits"  # stages over successive parts of the old data: no shift
SCHEDULES = {
    "rewarm": "re-warmed to the peak and re-decayed by a cosine",
    "hold": "re-warmed to the peak and held there",
    "floor": "constant at the floor of the first stage",
    "infinite": "from the constant phase of a cosine-infinite schedule, annealed at the end",
    "invsqrt": "from the constant phase of an inverse-square-root-infinite schedule, annealed at "
    "the end",
    "wsd": "from a first stage that stayed at its peak, decayed by a straight line at the end",
}
# Schedules whose first stage is a trunk of its own, which ends before it has decayed.
TRUNKS = {"infinite": "cosine_infinite", "invsqrt": "inverse_sqrt_infinite", "wsd": "constant"}
BASELINES = {
    "floor": "constant at the floor of the first stage, no replay",
    "hold": "re-warmed and not decayed, no replay",
    "new": "the new data alone, from fresh parameters",
    "union": "old and new data mixed, from fresh parameters, as many steps as both stages",
    "union_update": "the same mixture from fresh parameters, with the steps and the whole schedule "
    "of the second stage alone",
    "same": "the old data again where the first stage stopped, re-warmed: what the schedule alone "
    "does; one run for all shifts",
}
Variant = tuple[str, float, float, str]  # schedule, share of replay, peak, policy
ACCOUNTINGS = ("compute_equivalent", "additive")
_SIDE_BASELINES = ("hold", "same")


@dataclasses.dataclass(frozen=True)
class Spec:
    """All stages of the study follow from one."""

    base: RunSpec  # the first stage
    facts: FactsConfig  # injected into it
    shifts: tuple[str, ...]  # NAME=SOURCE of new data
    steps: int  # of the second stage
    replay: tuple[float, ...] = (0.0, 0.05, 0.25)  # shares of old rows
    peaks: tuple[float, ...] = (1.0,)  # of the second stage, of that of the first
    schedules: tuple[str, ...] = ("rewarm",)
    optimizers: tuple[str, ...] = ("reset",)  # see train.config.StartConfig
    baselines: tuple[str, ...] = ("floor", "union")
    warmup: float = 0.02  # of the steps of a stage
    # compute_equivalent: replay takes the place of new text; additive: the stage is made longer by
    # the replay and reads as much new text as without.
    replay_accounting: str = "compute_equivalent"
    splits: int = 0  # stages of `steps` over successive parts of the old data; 0 = none
    seeds: int = 3  # of the initial parameters; the order of the data stays
    side_seeds: int = 0  # of what is beside the point, see `seeds_of`; 0 = as many
    side_shifts: tuple[str, ...] = ()  # all of whose arms are
    around: int = 10  # steps between probes

    def __post_init__(self):
        known = (
            ("schedules", SCHEDULES, self.schedules),
            ("baselines", BASELINES, self.baselines),
            ("replay_accounting", ACCOUNTINGS, (self.replay_accounting,)),
        )
        for key, names, asked in known:
            for name in asked:
                if name not in names:
                    raise UserError(f"unknown {name!r} in {key}; {nearest(name, names)}")
        if not (self.shifts and self.schedules and self.optimizers and self.peaks and self.replay):
            raise UserError(
                "expected at least one each of shifts, schedules, optimizers, peaks and replay"
            )
        for key in ("replay", "peaks", "schedules", "optimizers", "baselines"):
            _refuse_twice(key, getattr(self, key))
        if self.steps < 1 or self.seeds < 1 or self.around < 1:
            raise UserError(
                f"expected steps, seeds and around of at least 1, got {self.steps}, {self.seeds} "
                f"and {self.around}"
            )
        if not 0 <= self.side_seeds <= self.seeds or self.splits < 0 or self.splits == 1:
            raise UserError(
                f"expected 0 <= side_seeds <= seeds = {self.seeds}, and splits of 0 or at least 2, "
                f"got {self.side_seeds} and {self.splits}"
            )
        for share in self.replay:
            if not 0 <= share < 1:
                raise UserError(f"expected shares of replay from 0 to below 1, got {share}")
        if min(self.peaks) <= 0 or not 0 <= self.warmup < 1:
            raise UserError(
                f"expected peaks above 0 and 0 <= warmup < 1, got {self.peaks} and {self.warmup}"
            )
        unknown = set(self.side_shifts) - set(self.new_sources())
        if unknown:
            raise UserError(
                f"expected side_shifts among {', '.join(self.new_sources())}, got {min(unknown)!r}"
            )

    def new_sources(self) -> dict[str, str]:
        """Shift -> the source of its new data.

        Raises:
          UserError: an entry of another form, or a name given twice.
        """
        found: dict[str, str] = {}
        for entry in self.shifts:
            name, equals, source = entry.partition("=")
            if not equals or not source or not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise UserError(
                    "expected shifts as NAME=SOURCE, the name of letters, digits and _, e.g. "
                    f"strong=wiktionary_de, got {entry!r}"
                )
            if name in found or name in (OLD, SPLITS):
                raise UserError(f"expected every shift under a name of its own, got {name!r}")
            found[name] = source
        return found

    def seeds_of(self, variant: Variant, shift: str = "") -> int:
        """How many seeds a second stage has.

        All: every share of replay under the first schedule, peak and policy, and at the first share
        the other peaks and the second schedule. What else differs is beside the point.
        """
        schedule, share, peak, optimizer = variant
        other = (schedule, peak) != (self.schedules[0], self.peaks[0])
        side = optimizer != self.optimizers[0] or schedule not in self.schedules[:2]
        return self._seeds(side or (other and share != self.replay[0]), shift)

    def seeds_of_baseline(self, name: str, shift: str = "") -> int:
        """How many seeds a baseline has."""
        return self._seeds(name in _SIDE_BASELINES, shift)

    def seeds_from_trunk(self, kind: str) -> int:
        """How many seeds of a schedule of TRUNKS there are: those without replay."""
        return self.seeds_of((kind, self.replay[0], self.peaks[0], self.optimizers[0]))

    def _seeds(self, side: bool, shift: str) -> int:
        side = side or shift in self.side_shifts
        return (self.side_seeds or self.seeds) if side else self.seeds


def _refuse_twice(key: str, values: Sequence[Any]) -> None:
    """Values that are written alike would name one run."""
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"expected every value of {key} once, got {name} more than once")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A planned run.

    Attributes:
      name: of its folder in WORKDIR/runs.
      shift: the shift it belongs to; "" for a first stage, SPLITS for one of those.
      variant: what is done, the same name for every seed.
      seed: 0 .. seeds - 1.
      spec: the run.
      share: of old rows that it replays.
      everywhere: whether it belongs to all shifts, having nothing to do with the new data.
      part: of the old data that it reads, from 1, where the shift is SPLITS.
    """

    name: str
    shift: str
    variant: str
    seed: int
    spec: RunSpec
    share: float = 0.0
    everywhere: bool = False
    part: int = 0


def seeded(spec: Spec, seed: int, *validated: str) -> RunSpec:
    """The first stage, tokenised like all stages.

    Args:
      spec: of the study.
      seed: 0 .. seeds - 1.
      validated: new sources that it is validated on besides the old ones.
    """
    new = tuple(spec.new_sources().values())
    old = spec.base.data.sources
    data = dataclasses.replace(
        spec.base.data,
        tokenizer_sources=(*old, *new),
        also_validate=tuple(dict.fromkeys(map(bare, (*old, *validated)))),
    )
    schedule = spec.base.optim.schedule
    warmup = schedule.warmup or warmup_steps(spec, spec.base.train.steps)
    optim = dataclasses.replace(
        spec.base.optim, schedule=dataclasses.replace(schedule, warmup=warmup)
    )
    return dataclasses.replace(spec.base, data=data, optim=optim, seed=spec.base.seed + seed)


def bare(source: str) -> str:
    """The source without its weight."""
    return source.rpartition("@")[0] or source


def warmup_steps(spec: Spec, steps: int) -> int:
    """Of a stage of so many steps."""
    return max(1, round(spec.warmup * steps)) if spec.warmup else 0


def changed(run: RunSpec, *, schedule=None, data=None, train=None) -> RunSpec:
    """The run with parts of some settings replaced."""
    replace = dataclasses.replace
    if schedule:
        run = replace(run, optim=replace(run.optim, schedule=schedule))
    if data:
        run = replace(run, data=replace(run.data, **data))
    if train:
        run = replace(run, train=replace(run.train, **train))
    return run
