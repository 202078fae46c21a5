"""Does a classifier of images grow as a language model does? Handwritten digits, a minute in all.

    EXTRAS=images launch/local growth_images                    three seeds, four operators
    EXTRAS=images launch/local growth_images --preset=smoke     one seed, to see that it works

A small ViT is trained, made larger by every operator, and trained on; beside it the large one is
trained from scratch. All through the code that grows language models. Nothing is kept between the
runs, so a command that was stopped begins anew.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import cli
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.images import Images, digits
from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, cost, ligo, presets, traits
from llm_dynamics.growth.crossings import Curve
from llm_dynamics.growth.learn import LearnConfig, fit
from llm_dynamics.growth.operator import Operator
from llm_dynamics.growth.presets import Pair
from llm_dynamics.growth.savings import Trial, savings_rows
from llm_dynamics.growth.stage import graph_of
from llm_dynamics.model import vit
from llm_dynamics.model.vit import ViT, ViTConfig
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule
from llm_dynamics.report import numbers
from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.growth_images")

NATS = "nats per image"
SCRATCH = "scratch"
LEARNED = "ligo-"
_TARGETS = ("60%", "100%")  # of the cost from scratch, in the table
_ANY = 1_000_000  # steps, of which a constant rate does not depend


@dataclasses.dataclass(frozen=True)
class Spec:
    """The whole study. The learning rate is constant behind its warm-up."""

    small: ViTConfig
    large: ViTConfig
    operators: tuple[str, ...]  # WIDTH+DEPTH, or ligo-PRESET
    small_steps: int  # of the small model
    steps: int  # of a grown one
    scratch_steps: int
    batch: int = 32  # images of a step
    every: int = 20  # steps between two looks at the test images
    optim: OptimConfig = dataclasses.field(
        default_factory=lambda: OptimConfig(ScheduleConfig("constant", 2e-3, warmup=10))
    )
    learn: LearnConfig = dataclasses.field(default_factory=lambda: LearnConfig(steps=40))
    seeds: int = 3  # of initial parameters and order; the test images stay
    test_share: float = 0.2  # of the images

    def __post_init__(self):
        for key in ("small_steps", "steps", "scratch_steps", "batch", "every", "seeds"):
            if getattr(self, key) < 1:
                raise UserError(f"expected {key} of at least 1, got {getattr(self, key)}")
        for key in ("small_steps", "steps", "scratch_steps"):
            if getattr(self, key) % self.every:
                raise UserError(
                    f"expected {key} to be a multiple of every = {self.every}, got "
                    f"{getattr(self, key)}"
                )
        if self.optim.schedule.kind != "constant":
            raise UserError(
                "runs of several lengths are compared at one rate, so optim.schedule.kind must be "
                f"constant, got {self.optim.schedule.kind}"
            )
        if len(set(self.operators)) < len(self.operators) or not self.operators:
            raise UserError(f"expected operators, each once, got {', '.join(self.operators)}")
        for operator in self.operators:
            if operator.startswith(LEARNED) and operator[len(LEARNED) :] not in ligo.PRESETS:
                known = [LEARNED + name for name in ligo.PRESETS]
                raise UserError(f"unknown operator {operator!r}; {specs.nearest(operator, known)}")
        for operator in self.operators:
            self.target(operator)

    def target(self, operator: str) -> ViTConfig:
        """The large model, with the epsilon of its norms that an operator asks for.

        Raises:
          UserError: an operator that does not exist or does not fit.
        """
        if operator.startswith(LEARNED) or operator == SCRATCH:
            return self.large
        found = presets.make(pair_of(self.small, self.large), *operator.split("+", 1))
        eps = self.small.norm_eps if found.eps is None else found.eps
        return dataclasses.replace(self.large, norm_eps=eps)


@dataclasses.dataclass
class Run:
    """What a run measured on the test images.

    Attributes:
      losses: before the first update and after every so many, nats per image.
      accuracies: beside them.
      params: at the end.
      about: what its growth did and cost; empty where it did not grow.
    """

    losses: list[float]
    accuracies: list[float]
    params: Any
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


# ---- a run ---------------------------------------------------------------------------------------


def train(spec: Spec, config: ViTConfig, params: Any, data: Images, first: int, steps: int, seed):
    """Trains on the batches first .. first + steps - 1 of a seed."""
    optimizer, chunk, look = _compiled(config, spec.optim)
    state = optimizer.init(params)
    test = data.test_images, data.test_labels
    run = Run([], [], None)
    for start in range(first, first + steps, spec.every):
        _note(run, look(params, *test))
        parts = [data.batch(start + k, spec.batch, seed) for k in range(spec.every)]
        images_KxBxYxXxC, labels_KxB = (np.stack(x) for x in zip(*parts, strict=True))
        params, state = chunk(params, state, images_KxBxYxXxC, labels_KxB)
    _note(run, look(params, *test))
    run.params = params
    return run


def _note(run: Run, found) -> None:
    loss, accuracy = map(float, found[:2])
    if not np.isfinite(loss):
        raise UserError("the loss is not finite; lower optim.schedule.peak")
    run.losses.append(loss)
    run.accuracies.append(accuracy)


@functools.cache
def _compiled(config: ViTConfig, optim: OptimConfig):
    """The optimizer, K updates at once, and what a look gives: loss, accuracy, logits."""
    model = ViT(config)
    optimizer = make_optimizer(optim, make_schedule(optim.schedule, _ANY))

    def update(carry, batch):
        params, state = carry
        grads = jax.grad(lambda p: vit.loss(model, p, *batch))(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def chunk(params, state, images_KxBxYxXxC, labels_KxB):
        batches = images_KxBxYxXxC, labels_KxB
        return jax.lax.scan(update, (params, state), batches)[0]

    @jax.jit
    def look(params, images, labels):
        found = vit.loss(model, params, images, labels), vit.accuracy(model, params, images, labels)
        return *found, model.apply({"params": params}, images)

    return optimizer, chunk, look


@functools.cache
def _maker(config: ViTConfig):
    return jax.jit(lambda key: nn.unbox(ViT(config).new_params(key)))


def _fresh(config: ViTConfig, seed: int) -> Any:
    return _maker(config)(jax.random.key(seed))


# ---- growth --------------------------------------------------------------------------------------


def pair_of(small: ViTConfig, large: ViTConfig) -> Pair:
    """Source and target as operators see them."""
    return Pair(graph_of(small), graph_of(large), traits.of_vit(small), traits.of_vit(large))


def grow(spec: Spec, name: str, params: Any, data: Images, seed: int) -> tuple[Any, dict[str, Any]]:
    """The large model's parameters, and what it took."""
    target = spec.target(name)
    pair = pair_of(spec.small, target)
    learned, flops = _fitted(spec, name, pair, params, data, seed)
    operator = _operator(name, pair, learned)
    flops += cost.growth_flops(operator, pair.source, pair.target)
    grown = _grower(spec.small, target, name)(learned, params, jax.random.key(seed))
    test = data.test_images, data.test_labels
    before = _compiled(spec.small, spec.optim)[2](params, *test)[2]
    after = _compiled(target, spec.optim)[2](grown, *test)[2]
    difference = float(np.abs(np.asarray(before) - np.asarray(after)).max())
    return grown, {"flops": flops, "difference": difference}


def _operator(name: str, pair: Pair, learned: Any) -> Operator:
    if name.startswith(LEARNED):
        return ligo.operator(_ligo(name), pair, learned)
    return presets.make(pair, *name.split("+", 1))


def _ligo(name: str, seed: int = 0) -> ligo.LigoConfig:
    return dataclasses.replace(ligo.PRESETS[name[len(LEARNED) :]], seed=seed)


@functools.cache
def _grower(small: ViTConfig, large: ViTConfig, name: str):
    pair = pair_of(small, large)

    def grown(learned, params, key):
        operator = _operator(name, pair, learned)
        return apply.grow(operator, pair.source, pair.target, params, key, pair.traits.head_norm)

    return jax.jit(grown)


def _fitted(spec: Spec, name: str, pair: Pair, params, data: Images, seed) -> tuple[Any, float]:
    """The numbers of a learned operator, and the FLOPs of fitting them; else None and 0."""
    if not name.startswith(LEARNED):
        return None, 0.0
    model = ViT(spec.target(name))
    fitted = fit(
        spec.learn,
        _ligo(name, seed),
        pair,
        params,
        lambda p, batch: vit.loss(model, p, *batch),
        lambda t: data.batch(spec.small_steps + t, spec.batch, seed),
        pair.traits.head_norm,
    )
    once = cost.growth_flops(_operator(name, pair, fitted.learned), pair.source, pair.target)
    step = spec.batch * vit.flops_per_image(spec.large)
    return fitted.learned, fitted.updates * cost.update_flops(step, once)


# ---- the study -----------------------------------------------------------------------------------


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Does all runs, writes results.json and results.md, and prints the latter."""
    folder = RunFolder(workdir)
    folder.claim(spec, {"fingerprint": "the digits of scikit-learn", "command": command})
    data = digits(spec.test_share)
    _check_data(spec, data)
    found: dict[str, dict[int, Run]] = {}
    for seed in range(spec.seeds):
        for name, done in _runs(spec, data, seed):
            _log.info(
                "seed %d, %s: loss %.3f to %.3f, accuracy %.3f",
                seed, name, done.losses[0], done.losses[-1], done.accuracies[-1],
            )  # fmt: skip
            found.setdefault(name, {})[seed] = done
    rows = ask(spec, found)
    files.write_json(folder.results, rows)
    text = table(spec, rows)
    files.write_text(folder.path / "results.md", text)
    print(text)
    return folder.path / "results.md"


def _runs(spec: Spec, data: Images, seed: int):
    """Every run of a seed by name, the small model's first."""
    small = train(spec, spec.small, _fresh(spec.small, seed), data, 0, spec.small_steps, seed)
    yield "small", small
    for name in spec.operators:
        params, about = grow(spec, name, small.params, data, seed)
        done = train(spec, spec.target(name), params, data, spec.small_steps, spec.steps, seed)
        done.about = about
        yield name, done
    params = _fresh(spec.large, seed)
    yield SCRATCH, train(spec, spec.large, params, data, 0, spec.scratch_steps, seed)


def ask(spec: Spec, found: Mapping[str, Mapping[int, Run]]) -> list[Row]:
    """Rows VARIANT/..., n = seeds."""
    rows = []
    for name, runs in found.items():
        grown = name in spec.operators

        def row(key, unit, words, value, name=name, runs=runs):
            values = PerSeed({seed: float(value(done)) for seed, done in runs.items()})
            return seed_row(f"{name}/{key}", values, unit, words, contrast=False)

        rows.append(row("accuracy", "1", "share of test images at the end", _last_accuracy))
        rows.append(row("loss", NATS, "on the test images at the end", lambda r: r.losses[-1]))
        if not grown:
            continue
        words = "largest difference of a logit of a test image from the source's"
        rows.append(row("difference", "1", words, lambda r: r.about["difference"]))
        words = "on the test images before the first update of the grown model"
        rows.append(row("loss_at_growth", NATS, words, lambda r: r.losses[0]))
        rows += savings_rows(f"{name}/flops", _trials(spec, found, name), "FLOPs", loss_unit=NATS)
    return rows


def _last_accuracy(done: Run) -> float:
    return done.accuracies[-1]


def _trials(spec: Spec, found, name: str) -> dict[int, Trial]:
    large = spec.batch * vit.flops_per_image(spec.large)
    small = spec.batch * vit.flops_per_image(spec.small) * spec.small_steps

    def curve(done: Run) -> Curve:
        return Curve(large * spec.every * np.arange(len(done.losses)), np.array(done.losses))

    return {
        seed: Trial(
            curve(found[SCRATCH][seed]), curve(done), source=small, operator=done.about["flops"]
        )
        for seed, done in found[name].items()
    }


def table(spec: Spec, rows: list[Row]) -> str:
    """The results in a table; intervals are over seeds."""
    by_name = {row["name"]: row for row in rows}

    def cell(name: str) -> str:
        row = by_name[name]
        return " ".join(numbers.estimate(row["value"], row["low"], row["high"])).strip()

    heads = ["model", "logits moved", "loss at growth", "loss at end", "accuracy"]
    heads += [f"saved at {at}, {charge}" for at in _TARGETS for charge in ("alone", "all")]
    lines = [
        f"Digits, {spec.seeds} seeds, 95 % intervals over them. Saved is 1 - C_grown / C_scratch "
        "until the loss that",
        "the model from scratch has at 60 % and at the end of its compute, with the grown run's "
        "own FLOPs charged,",
        "or with the source's and the operator's too; – where a seed does not get there.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for name in ("small", *spec.operators, SCRATCH):
        grown = name in spec.operators
        cells = ["", ""]
        if grown:
            cells = [numbers.number(by_name[f"{name}/difference"]["value"], 2)]
            cells.append(cell(f"{name}/loss_at_growth"))
        cells += [cell(f"{name}/loss"), cell(f"{name}/accuracy")]
        for at in _TARGETS:
            for charge in ("alone", "all"):
                cells.append(cell(f"{name}/flops/at_{at}/{charge}/saved") if grown else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _check_data(spec: Spec, data: Images) -> None:
    for config in (spec.small, spec.large):
        wanted = (config.image_size, config.image_size, config.channels)
        if data.train_images.shape[1:] != wanted or config.classes != data.classes:
            raise UserError(
                "the digits are 8x8x1 in 10 classes, got a model of "
                f"{'x'.join(map(str, wanted))} in {config.classes}"
            )


def describe(spec: Spec) -> list[str]:
    """The runs and what they cost."""
    _check_data(spec, digits(spec.test_share))
    flops = {
        name: steps * spec.batch * vit.flops_per_image(config)
        for name, config, steps in (
            ("small", spec.small, spec.small_steps),
            ("grown", spec.large, spec.steps),
            (SCRATCH, spec.large, spec.scratch_steps),
        )
    }
    lines = [
        f"{name}: {graph_of(config).num_params():,} parameters, {flops[name]:.3g} FLOPs a run"
        for name, config in (("small", spec.small), ("grown", spec.large), (SCRATCH, spec.large))
    ]
    lines.append(f"operators: {', '.join(spec.operators)}")
    total = flops["small"] + flops["grown"] * len(spec.operators) + flops[SCRATCH]
    return [*lines, f"in all, {spec.seeds} seeds: {spec.seeds * total:.3g} FLOPs"]


def explain(spec: Spec, step: int) -> str:
    """The training images of a step of the first seed."""
    data = digits(spec.test_share)
    rows = data.rows(step, spec.batch, 0)
    lines = [f"image {row}: digit {data.train_labels[row]}" for row in rows]
    return "\n".join([f"step {step}, seed 0:", *lines])


def laptop() -> Spec:
    """Layers, width, heads and units doubled; about a minute on a core."""
    sizes = {"head_dim": 8, "scan_unroll": 1}  # a loop over layers compiles in a third of the time
    return Spec(
        small=ViTConfig(width=16, num_layers=2, num_heads=2, mlp_width=64, **sizes),
        large=ViTConfig(width=32, num_layers=4, num_heads=4, mlp_width=128, **sizes),
        operators=("tile+identity", "zero_pad+identity", "tile+stack", "ligo-shared"),
        small_steps=120,
        steps=200,
        scratch_steps=200,
    )


def smoke() -> Spec:
    """A few steps of one seed."""
    return dataclasses.replace(
        laptop(), small_steps=40, steps=40, scratch_steps=40, seeds=1, learn=LearnConfig(steps=5)
    )


PRESETS = {"smoke": smoke, "laptop": laptop}


if __name__ == "__main__":
    cli.start(cli.Study("growth_images", PRESETS, run, describe, explain))
