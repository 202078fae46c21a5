"""A list of stages: what each of them reads, starts from and keeps, and the recipes among them."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.replay import additive_steps, parse_replays
from llm_dynamics.data.sources import parse_source
from llm_dynamics.errors import UserError
from llm_dynamics.growth import stage as growth_stage
from llm_dynamics.growth.stage import GrowthConfig
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.schedules import (
    ScheduleConfig,
    autoregressive_peaks,
    cosine_reaches,
    make_schedule,
)
from llm_dynamics.spec import from_json, nearest, override
from llm_dynamics.train import checkpoint_reader, start
from llm_dynamics.train.config import RunSpec, StartConfig

FRESH, OUTSIDE = "fresh", "start"  # no stage before; the checkpoint of `base.train.start`
KEYS = {
    "start": "stage it starts from, NAME or NAME@STEP; by default the one before; fresh = none",
    "steps": "updates; by default base.train.steps",
    "sources": "what it reads, SOURCE[@weight]+...; by default the data of its start, read on",
    "data": "continue or fresh; by default fresh where sources are named",
    "replay": "STAGE@SHARE+...: rows of earlier stages that come again",
    "accounting": "equal (replay takes the place of new text) or additive (it comes on top)",
    "optimizer": "what is kept of its state, see optim.carried; by default keep",
    "changed_schedule": "refuse or accept",
    "grow": "WIDTH+DEPTH or ligo-PRESET: the model becomes the larger one of its model.KEY=VALUE",
    "recipe": "reuse or rounds, which make several stages NAME-1, NAME-2, ...",
    "then": "of a recipe: what the next of its stages reads; may come several times",
    "rounds": "of the recipe rounds: how many, where `then` does not say",
    "done": "of the recipe rounds: how many were made before",
}  # and the fields of a schedule, and settings of a run by their whole name
_SCHEDULE = tuple(field.name for field in dataclasses.fields(ScheduleConfig))
_LISTS = ("phases", "cycles")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A run as a list of stages on one model."""

    base: RunSpec  # what a stage does not say itself
    stages: tuple[str, ...]  # NAME:KEY=VALUE/KEY=VALUE/..., see KEYS

    def __post_init__(self):
        if not self.stages:
            raise UserError("expected at least one stage in stages, got none")
        names = [parse(entry)[0] for entry in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"expected every stage under a name of its own, got {name!r} twice")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage, resolved."""

    name: str
    spec: RunSpec
    path: Path  # of its run folder
    before: "Stage | None" = None  # the stage it starts from; None for fresh parameters
    at: int = 0  # the step of that one
    first: int = 0  # step of its schedule that update 0 reads
    end: int = 0  # of its schedule
    growth: GrowthConfig | None = None  # how its model comes out of that of `before`

    def rate_after(self, step: int) -> float:
        """Where its schedule stands after so many of its updates."""
        whole = dataclasses.replace(self.spec.optim.schedule, horizon=0)
        return float(make_schedule(whole, self.end)(jnp.asarray(self.first + step)))


def parse(entry: str) -> tuple[str, list[tuple[str, str]]]:
    """The name of a stage and its keys with their values.

    Raises:
      UserError: another form, or an unknown key.
    """
    name, colon, rest = entry.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (FRESH, OUTSIDE):
        raise UserError(
            "expected stages as NAME:KEY=VALUE/KEY=VALUE, the name of letters, digits, _ and -, "
            f"and not {FRESH} or {OUTSIDE}, e.g. more:sources=gcide/steps=200, got {entry!r}"
        )
    found = []
    for piece in re.split(r"/(?=[A-Za-z_0-9.]+=)", rest) if rest else ():
        key, equals, value = piece.partition("=")
        known = {*KEYS, *_SCHEDULE}
        if not equals or ("." not in key and key not in known):
            raise UserError(f"unknown {key!r} in the stage {entry!r}; {nearest(key, known)}")
        if key != "then" and key in dict(found):
            raise UserError(f"the stage {name} says {key} twice")
        found.append((key, value))
    return name, found


def stages(spec: Spec, workdir: Path) -> list[Stage]:
    """Every stage, each after the one it starts from.

    Args:
      spec: the list.
      workdir: the runs lie in WORKDIR/runs/NAME.

    Raises:
      UserError: a stage that does not fit the ones before it.
    """
    known: dict[str, Stage] = {}
    base = spec.base
    if base.train.start.run:
        known[OUTSIDE] = _outside(base)
    base = _shared(spec, known.get(OUTSIDE))
    found: list[Stage] = []
    for entry in spec.stages:
        name, pairs = parse(entry)
        for part, keys in _expand(name, pairs, base, known):
            if part in known:
                raise UserError(f"expected every stage under a name of its own, got {part!r} twice")
            stage = _stage(part, keys, base, known, workdir)
            known |= {part: stage, name: stage}
            found.append(stage)
    return [_saved(stage, found) for stage in found]


def _outside(base: RunSpec) -> Stage:
    """The run that the first stage starts from, which is none of the list."""
    origin = start.find(base, None)
    path = Path(origin.run)
    meta = checkpoint_reader.meta(path, origin.step, {})["spec"]
    data, schedule = meta["data"], meta["optim"]["schedule"]
    spec = _with(base, from_json(DataConfig, data), from_json(ScheduleConfig, schedule))
    # How a model is computed is said here, which one it is by its run.
    here = {key: getattr(base.model, key) for key in start.COMPUTATION if key != "max_length"}
    spec = dataclasses.replace(spec, model=from_json(ModelConfig, meta["model"] | here))
    first = origin.schedule_step - origin.step
    return Stage(OUTSIDE, spec, path, None, origin.step, first, origin.schedule_end)


def _shared(spec: Spec, outside: Stage | None) -> RunSpec:
    """What all stages have in common: one tokenizer, and every text validated in all of them."""
    base, data = spec.base, spec.base.data
    named = [outside.spec.data.sources] if outside else []
    for entry in spec.stages:
        pairs = parse(entry)[1]
        own = [value.split("+") for key, value in pairs if key in ("sources", "then")]
        fresh = not named or dict(pairs).get("start") == FRESH
        named += own or ([data.sources] if fresh else [])
    texts = tuple(dict.fromkeys(bare(source) for sources in named for source in sources))
    if not data.validation_fraction:
        raise UserError(
            "expected base.data.validation_fraction above 0, got 0: the stages are compared on "
            "held-out text"
        )
    changes = {"also_validate": tuple(dict.fromkeys((*data.also_validate, *texts)))}
    if data.tokenizer.startswith("bpe:") and not data.tokenizer_sources:
        theirs = outside.spec.data if outside else None
        known = theirs and (theirs.tokenizer_sources or tuple(map(bare, theirs.sources)))
        changes["tokenizer_sources"] = known or texts
    return override(base, {f"data.{key}": value for key, value in changes.items()})


def bare(source: str) -> str:
    """The source without its weight."""
    target, field, _ = parse_source(source)
    return f"{target}#{field}" if field else target


def _stage(
    name: str,
    pairs: list[tuple[str, Any]],
    base: RunSpec,
    known: Mapping[str, Stage],
    workdir: Path,
) -> Stage:
    keys = dict(pairs)
    before, at = _start(name, keys, known)
    if before is None and (used := {"optimizer", "replay", "changed_schedule", "grow"} & set(keys)):
        raise UserError(
            f"stage {name} starts from fresh parameters and says {used.pop()}, which is about what "
            "was before; name the stage that it goes on from in start"
        )
    word = keys.get("data", "fresh" if "sources" in keys else "continue")
    reads_on = before is not None and word == "continue"
    data = base.data if before is None or "sources" in keys else before.spec.data
    changes: dict[str, Any] = {"also_validate": base.data.also_validate}
    if "sources" in keys:
        changes["sources"] = keys["sources"].split("+")
    if "replay" in keys or not reads_on:
        changes["replay"] = _replay(name, keys.get("replay", ""), known)
    data = override(data, changes)
    steps = _number(name, keys, "steps", base.train.steps)
    accounting = keys.get("accounting", "equal")
    if accounting not in ("equal", "additive"):
        raise UserError(f"stage {name}: expected accounting equal or additive, got {accounting!r}")
    if accounting == "additive":
        steps = additive_steps(steps, [share for _, share in parse_replays(data.replay)])
    asked = {key: keys[key] for key in _SCHEDULE if key in keys}
    asked |= {key: asked[key].split("+") for key in _LISTS if key in asked}
    goes_on = before is not None and "kind" not in asked
    schedule = override(before.spec.optim.schedule if goes_on else base.optim.schedule, asked)
    first = before.first + at if goes_on else 0
    if goes_on and "horizon" not in asked:
        last = first + steps
        horizon = last if "decay" in asked or last > before.end else before.end
        schedule = dataclasses.replace(schedule, horizon=horizon)
    begin: dict[str, Any] = {}
    if before:
        begin = {"run": str(before.path), "step": at, "continue_schedule": goes_on, "data": word}
    begin |= {key: keys[key] for key in ("optimizer", "changed_schedule") if key in keys}
    if "grow" in keys:
        begin.setdefault("optimizer", "reset")
    train = dataclasses.replace(base.train, steps=steps, start=StartConfig(**begin))
    spec = dataclasses.replace(_with(base, data, schedule), train=train)
    if before:
        spec = dataclasses.replace(spec, model=before.spec.model)
    spec = override(spec, {key: value for key, value in pairs if "." in key})
    growth = None
    if "grow" in keys:
        moments = "reset" if spec.train.start.optimizer == "reset" else "scale"
        growth = growth_stage.named(keys["grow"], moments=moments)
        try:
            model = growth_stage.fitting(before.spec.model, spec.model, growth)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from None
        spec = dataclasses.replace(spec, model=model)
    path = workdir.absolute() / "runs" / name
    return Stage(name, spec, path, before, at, first, schedule.horizon or first + steps, growth)


def _number(name: str, keys: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a key, of the type of its default."""
    try:
        return type(default)(keys.get(key, default))
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UserError(f"stage {name} expects {kind} for {key}, got {keys[key]!r}") from None


def _start(
    name: str, keys: Mapping[str, Any], known: Mapping[str, Stage]
) -> tuple[Stage | None, int]:
    """The stage that a stage starts from, and the step of it."""
    default = next(reversed(known.values())).name if known else FRESH
    asked, at, step = keys.get("start", default).partition("@")
    if asked == FRESH:
        return None, 0
    if asked not in known:
        raise UserError(
            f"stage {name} starts from {asked!r}, which is none of the stages before it; "
            f"{nearest(asked, [FRESH, *known])}"
        )
    before = known[asked]
    last = before.at if asked == OUTSIDE else before.spec.train.steps
    if not at:
        return before, last
    if not step.isdigit() or not 0 < int(step) <= last:
        raise UserError(
            f"stage {name}: expected start={asked}@STEP with a step of 1 to {last}, where {asked} "
            f"ends, got {step!r}"
        )
    return before, int(step)


def _replay(name: str, text: str, known: Mapping[str, Stage]) -> tuple[str, ...]:
    found = []
    for run, share in parse_replays(text.split("+") if text else ()):
        if run not in known:
            raise UserError(
                f"stage {name} replays {run!r}, which is none of the stages before it; "
                f"{nearest(run, known)}"
            )
        found.append(f"{known[run].path}@{share}")
    return tuple(found)


def _saved(stage: Stage, found: list[Stage]) -> Stage:
    """The stage with a checkpoint wherever another one leaves it."""
    steps = {other.at for other in found if other.before and other.before.path == stage.path}
    saves = stage.spec.train.checkpoint
    saves = dataclasses.replace(saves, steps=tuple(sorted({*saves.steps, *steps})))
    spec = override(stage.spec, {"train.checkpoint": saves})
    return dataclasses.replace(stage, spec=spec)


def _with(spec: RunSpec, data: DataConfig, schedule: ScheduleConfig) -> RunSpec:
    optim = dataclasses.replace(spec.optim, schedule=schedule)
    return dataclasses.replace(spec, data=data, optim=optim)


# ---- recipes -------------------------------------------------------------------------------------


def _expand(
    name: str, pairs: list[tuple[str, str]], base: RunSpec, known: Mapping[str, Stage]
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The stages of an entry: one, or those of its recipe."""
    keys, blends = dict(pairs), [value for key, value in pairs if key == "then"]
    recipe = keys.pop("recipe", "")
    own = ("then", "rounds", "done")
    if not recipe:
        if used := [key for key in own if key in keys]:
            raise UserError(f"stage {name} says {used[0]}, which belongs to a recipe")
        return [(name, pairs)]
    recipes = {"reuse": _reuse, "rounds": _rounds}
    if recipe not in recipes:
        raise UserError(f"unknown recipe {recipe!r} of stage {name}; {nearest(recipe, recipes)}")
    for key in ("kind", "horizon", "accounting", "data"):
        if key in keys:
            raise UserError(f"stage {name}: the recipe {recipe} decides {key} itself; leave it out")
    parts = recipes[recipe](name, keys, blends, base, known)
    for i, part in enumerate(parts):
        for key in own:
            part.pop(key, None)
        if i:
            part["start"] = f"{name}-{i}"
    return [(f"{name}-{i}", list(part.items())) for i, part in enumerate(parts, start=1)]


def _reuse(name, keys, blends, base, known) -> list[dict[str, Any]]:
    """From the rate that the start ended with, by a cosine and without warm-up, to 1 % of it.

    The blend of the data is switched at the first update whose rate is at most a fifth of the
    first one's (Parmar et al. 2024, "Reuse, Don't Retrain", arXiv:2407.07263).
    """
    before, at = _start(name, keys, known)
    if before is None or len(blends) != 1 or "sources" not in keys:
        raise UserError(
            f"stage {name}: the recipe reuse expects a stage to start from, sources=BLEND and one "
            f"then=BLEND, got sources={keys.get('sources')} and {len(blends)} of then"
        )
    steps = _number(name, keys, "steps", base.train.steps)
    floor = _number(name, keys, "floor", 0.01)
    switch = math.ceil(steps * cosine_reaches(0.2, floor) - 1e-9)
    if not 0 < switch < steps:
        raise UserError(f"stage {name}: {steps} steps are too few for the recipe reuse")
    peak = _number(name, keys, "peak", before.rate_after(at))
    whole = {"kind": "cosine", "peak": peak, "floor": floor, "warmup": 0, "horizon": steps}
    rest = {"sources": blends[0], "steps": steps - switch}
    later = {key: value for key, value in keys.items() if key not in (*_SCHEDULE, "optimizer")}
    return [keys | whole | {"steps": switch}, later | rest]


def _rounds(name, keys, blends, base, known) -> list[dict[str, Any]]:
    """Rounds of warm-up and cosine whose peaks follow one cosine (TiC-LM, arXiv:2504.02107)."""
    if "rounds" in keys and blends:
        raise UserError(f"stage {name}: expected rounds or then, got both")
    texts = [keys.get("sources"), *blends] if blends else [keys.get("sources")]
    count = _number(name, keys, "rounds", len(texts))
    texts += [None] * (count - len(texts))
    schedule, done, parts = base.optim.schedule, _number(name, keys, "done", 0), []
    peak = _number(name, keys, "peak", schedule.peak)
    floor = _number(name, keys, "floor", schedule.floor)
    peaks = autoregressive_peaks(done + count, peak, peak * floor)[done:]
    for text, top in zip(texts, peaks, strict=True):
        part = {key: value for key, value in keys.items() if key != "sources"}
        part |= {"kind": "cosine", "peak": top, "floor": peak * floor / top}
        parts.append(part | ({"sources": text} if text else {}))
    if _start(name, keys, known)[0] is None:  # nothing is kept or replayed of no stage
        parts[0] = {k: v for k, v in parts[0].items() if k not in ("optimizer", "replay")}
    return parts
