"""Growth as a transform between two stages: a run that starts from a smaller model's checkpoint."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.growth import (
    apply,
    axes,
    checks,
    cost,
    frozen,
    ligo,
    masks,
    moments,
    presets,
    traits,
)
from llm_dynamics.growth.learn import LearnConfig, fit
from llm_dynamics.growth.ligo import LigoConfig
from llm_dynamics.growth.operator import Operator
from llm_dynamics.growth.presets import Pair
from llm_dynamics.model import masking, sharding, size
from llm_dynamics.model.build import Model, build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.loss import training_loss
from llm_dynamics.model.vit import ViTConfig
from llm_dynamics.optim.multipliers import freeze, make_grown_optimizer
from llm_dynamics.optim.optimizer import make_optimizer
from llm_dynamics.spec import nearest, to_json
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.transform import View

_log = logging.getLogger(__name__)

LEARNED = "ligo"
MASKED = "masked"
RECORD = "growth.json"  # in the folder of a grown run
# Operators of which a name says more than how width and depth grow.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # Wu et al. (2024): layers that add nothing in between, and they alone train.
    "llama_pro": {"depth": "identity", "frozen": 1.0, "trained": "added"},
    # Yang et al. (2020): layers on top, which train with the head before all do.
    "mslt": {"depth": "top", "frozen": 0.5, "trained": "added+head"},
    # Yao et al. (2024): everything new is drawn, and fades in.
    "msg": {"width": MASKED, "depth": "append"},
}
# Gradients of what came out of the source are the source's, so its moments are kept as they are.
_MASKED_MOMENTS = ("reset", "corner", "asymmetric")
# What of a model may differ between source and target: its sizes, and how it is computed.
_SIZES = (
    "vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_width",
    "max_length", "norm_eps",
)  # fmt: skip
_COMPUTATION = ("compute_dtype", "attention", "remat", "scan_unroll", "loss_chunk")


@dataclasses.dataclass(frozen=True)
class GrowthConfig:
    """How a source becomes the target, and how training begins.

    What is held while `frozen` lasts is computed all the same, gradients too, so a run is charged
    in full for it. Until the end of the `ramp` of "masked", checkpoints hold parameters that the
    model sees through `growth.masks`; from there on they are the model.

    Raises:
      UserError: an unknown operator, or a part of a run that is none.
    """

    width: str = "zero_pad"  # one of presets.WIDTHS, or "ligo" for both
    depth: str = "stack"  # one of depth.PATTERNS, or "identity"
    ligo: str = "shared"  # one of ligo.PRESETS, where width is "ligo"
    learn: LearnConfig = dataclasses.field(default_factory=LearnConfig)
    moments: str = "reset"  # one of moments.POLICIES, what becomes of the optimizer's
    rates: str = "hold"  # "hold" learning rates, or "scale" them with the entries (moments "scale")
    frozen: float = 0.0  # part of the updates in which what is not `trained` is held; 1 = in all
    trained: str = "added"  # one of frozen.TRAINED
    ramp: float = 0.5  # part of the updates in which what is new fades in, where width is "masked"
    exact: bool = False  # refuse an operator that changes the function
    seed: int = 0  # of what is drawn or selected

    def __post_init__(self):
        known = (*presets.WIDTHS, LEARNED)
        if self.width not in known:
            raise UserError(f"unknown growth.width {self.width!r}; {nearest(self.width, known)}")
        if self.ligo not in ligo.PRESETS:
            raise UserError(
                f"unknown growth.ligo {self.ligo!r}; {nearest(self.ligo, ligo.PRESETS)}"
            )

        if self.moments not in moments.POLICIES:
            raise UserError(
                f"unknown growth.moments {self.moments!r}; "
                f"{nearest(self.moments, moments.POLICIES)}"
            )
        if self.rates not in ("hold", "scale"):
            raise UserError(f"expected growth.rates hold or scale, got {self.rates!r}")
        if self.rates == "scale" and (self.moments != "scale" or self.width == LEARNED):
            raise UserError(
                "growth.rates=scale makes entries move as their source's would, which expects "
                f"growth.moments=scale and no learned operator, got {self.moments!r} and "
                f"{self.width!r}"
            )
        if self.trained not in frozen.TRAINED:
            raise UserError(
                f"unknown growth.trained {self.trained!r}; {nearest(self.trained, frozen.TRAINED)}"
            )
        if not 0 <= self.frozen <= 1:
            raise UserError(
                f"expected growth.frozen of 0 to 1, a part of the updates, got {self.frozen}"
            )
        if not 0 < self.ramp < 1:
            raise UserError(
                "expected growth.ramp between 0 and 1, so that a run begins as its source and ends "
                f"as a plain model, got {self.ramp}"
            )
        if self.frozen and self.width == LEARNED:
            raise UserError(
                "growth.frozen holds what came out of the source, and of a learned operator's "
                "target everything did; set growth.frozen=0"
            )

    @property
    def name(self) -> str:
        """Of the operator."""
        for name, recipe in RECIPES.items():
            if all(getattr(self, key) == value for key, value in recipe.items()):
                return name
        return f"ligo-{self.ligo}" if self.width == LEARNED else f"{self.width}+{self.depth}"


class Growth:
    """Makes a run's model out of a smaller one's checkpoint; a `train.transform.Transform`.

    It writes RUN/growth.json: the operator, what it cost, and what it did to the function.

    Attributes:
      config: the operator.
      source: the smaller model.
      record: the file that is written, or None.
      batches: t -> the batch that update t of a learned operator reads, and that the checks use;
        set before the run starts.
    """

    def __init__(self, config: GrowthConfig, source: ModelConfig, record: Path | None = None):
        self.config, self.source, self.record = config, source, record
        self.batches: Callable[[int], Batch] | None = None

    def check(self, source: ModelConfig, spec: RunSpec) -> None:
        """Refuses models that do not grow into each other, before any computation.

        Raises:
          UserError: names the rule that is broken.
        """
        changes = specs.difference({"model": to_json(source)}, {"model": to_json(self.source)})
        if changes:
            raise UserError(
                "the checkpoint to grow from is of another model than was said (there -> said): "
                f"{'; '.join(changes)}; name the model of the source"
            )
        pair = pair_of(source, spec.model, self.config.seed)
        kept = spec.train.start.optimizer
        if (self.config.moments == "reset") != (kept == "reset"):
            raise UserError(
                f"growth.moments={self.config.moments} expects train.start.optimizer="
                f"{'reset' if self.config.moments == 'reset' else 'keep'}, got {kept}"
            )
        if self.config.width == LEARNED:
            if self.config.moments not in ("reset", "experimental"):
                raise UserError(
                    f"growth.moments={self.config.moments} cannot carry moments through a learned "
                    "operator, which mixes gradients; use reset or experimental"
                )
            if self.config.exact:
                raise UserError(
                    "growth.exact=true asks to preserve the function, and a learned operator does "
                    "not; use growth.width=tile or zero_pad with growth.depth=identity"
                )
            ligo.init(self._ligo(), pair)
            return
        operator = presets.make(pair, self.config.width, self.config.depth)
        moments.check_policy(operator, pair.source, pair.target, self.config.moments)
        if self.config.width == MASKED:
            self._check_masked(spec)
        if self.config.frozen:
            frozen.held(pair, self.config.depth, self.config.trained)
            if not _part(self.config.frozen, spec):
                raise UserError(
                    f"growth.frozen={self.config.frozen:g} of {spec.train.steps} updates holds "
                    "none; raise it, or set it to 0"
                )
        if self.config.exact:
            presets.require_exact(operator)

    def optimizer(self, spec: RunSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
        """AdamW, with rates and decays of its own for grown entries where `rates` is "scale".

        The state is that of `make_optimizer`, whatever is held.
        """
        config = self.config
        if config.rates == "hold" and not config.frozen:
            return make_optimizer(spec.optim, schedule)
        pair, factors = pair_of(self.source, spec.model, config.seed), None
        if config.rates == "scale":
            operator = presets.make(pair, config.width, config.depth)
            factors = moments.multipliers(operator, pair.source, pair.target, pair.traits.head_norm)
        optimizer = make_grown_optimizer(spec.optim, schedule, factors)
        if not config.frozen:
            return optimizer
        mask = frozen.held(pair, config.depth, config.trained)
        return freeze(optimizer, mask, _part(config.frozen, spec))

    def view(self, spec: RunSpec) -> View | None:
        """What is new fades in where the width is "masked"; else parameters are as they are."""
        if self.config.width != MASKED:
            return None
        pair = pair_of(self.source, spec.model, self.config.seed)
        return masks.view(masks.fades(pair, self.config.depth), _part(self.config.ramp, spec))

    def apply(
        self, params: Any, opt_state: Any, source: ModelConfig, spec: RunSpec
    ) -> tuple[Any, Any]:
        """Parameters of the run's model, and the optimizer's moments by the policy.

        Raises:
          UserError: an operator that was to preserve the function and did not.
        """
        pair = pair_of(source, spec.model, self.config.seed)
        small, large = build_model(source), build_model(spec.model)
        sizes = spec.train.mesh
        mesh = sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
        where = sharding.param_shardings(large, mesh)
        step_flops = size.flops_per_token(spec.model, spec.data.length) * (
            spec.data.batch_size * spec.data.length
        )
        about: dict[str, Any] = {"operator": self.config.name, "config": to_json(self.config)}
        with sharding.activate(mesh):
            if self.config.width == LEARNED:
                operator, about["learned"], flops = self._fit(pair, params, large, spec, step_flops)
            else:
                operator = presets.make(pair, self.config.width, self.config.depth)
                flops = cost.growth_flops(operator, pair.source, pair.target)
            key = jax.random.key(self.config.seed)
            grown = apply.grow_sharded(
                operator, pair.source, pair.target, params, where, key, pair.traits.head_norm
            )
            if opt_state is not None and self.config.moments != "reset":
                opt_state = moments.grow_moments(
                    operator, pair.source, pair.target, opt_state, self.config.moments,
                    pair.traits.head_norm,
                )  # fmt: skip
            found = None
            if self.batches is not None:
                batch = self._batch(spec)(0)
                # A mask of 0 is what it is at growth, and lets no gradient through.
                seen, soon = (self._seen(spec, grown, step, where) for step in (0, 1))
                about["effective_rate"] = checks.effective_rate(small, params, large, seen, batch)
                found = checks.preserved(small, params, large, seen, batch)
                about |= checks.report(
                    found,
                    checks.without_gradient(large, soon, batch, pair.target),
                    checks.duplicates(grown, pair.target),
                )
                about["activations"] = {
                    name: {k: v.tolist() for k, v in checks.activations(*model, batch).items()}
                    for name, model in (("source", (small, params)), ("target", (large, seen)))
                }
        if self.config.exact and found is not None:
            checks.require_preserved(found, self.config.name)
        about |= {"exact": operator.exact, "broken": list(operator.broken), "flops": flops}
        if self.record is not None and jax.process_index() == 0:
            files.write_json(self.record, about)
        return grown, opt_state

    def _check_masked(self, spec: RunSpec) -> None:
        steps, ramp = spec.train.steps, _part(self.config.ramp, spec)
        if not 0 < ramp < steps:
            raise UserError(
                f"growth.ramp={self.config.ramp:g} of {steps} updates is {ramp}: expected 1 to "
                f"{steps - 1}, so that the last update is of a plain model"
            )
        if self.config.moments not in _MASKED_MOMENTS:
            raise UserError(
                f"growth.moments={self.config.moments} scales moments for a function that is not "
                f"masked; with growth.width=masked use one of {', '.join(_MASKED_MOMENTS)}"
            )

    def _seen(self, spec: RunSpec, grown: Any, step: int, where: Any) -> Any:
        """The parameters that the model is given before an update."""
        view = self.view(spec)
        return grown if view is None else jax.jit(view, out_shardings=where)(grown, step)

    def _ligo(self) -> LigoConfig:
        return dataclasses.replace(ligo.PRESETS[self.config.ligo], seed=self.config.seed)

    def _batch(self, spec: RunSpec) -> Callable[[int], Batch]:
        """t -> the batch, with tokens hidden from an encoder as behind the run's own updates."""
        hidden, steps = masking.objective(spec.model, spec.seed), spec.train.steps
        return lambda t: hidden(self.batches(t), steps + t)

    def _fit(
        self, pair: Pair, params: Any, large: Model, spec: RunSpec, step_flops: float
    ) -> tuple[Operator, dict[str, Any], float]:
        if self.batches is None:
            raise ValueError("expected batches to learn an operator from")
        config = self._ligo()
        _log.info("learning the operator %s", self.config.name)
        fitted = fit(
            self.config.learn,
            config,
            pair,
            params,
            lambda p, batch: training_loss(large, p, batch)[0],
            self._batch(spec),
            pair.traits.head_norm,
        )
        operator = ligo.operator(config, pair, fitted.learned)
        once = cost.growth_flops(operator, pair.source, pair.target)
        flops = fitted.updates * cost.update_flops(step_flops, once) + once
        about = {
            "numbers": ligo.num_learned(fitted.learned),
            "rate": fitted.rate,
            "travel": fitted.travel,
            "losses": {str(rate): course.tolist() for rate, course in fitted.losses.items()},
        }
        return operator, about, flops


def pair_of(source: ModelConfig, target: ModelConfig, seed: int = 0) -> Pair:
    """Source and target as operators see them.

    Raises:
      UserError: models that differ in more than their sizes.
    """
    for field in dataclasses.fields(ModelConfig):
        if field.name in (*_SIZES, *_COMPUTATION):
            continue
        ours, theirs = getattr(target, field.name), getattr(source, field.name)
        if ours != theirs:
            raise UserError(
                f"expected a target that differs from the source in sizes alone, got "
                f"{field.name} {theirs!r} -> {ours!r}; give both the same"
            )
    return Pair(
        graph_of(source), graph_of(target), traits.of_model(source), traits.of_model(target), seed
    )


def named(operator: str, **more: Any) -> GrowthConfig:
    """The growth of an operator's name: WIDTH, WIDTH+DEPTH, ligo-PRESET or one of RECIPES.

    Args:
      operator: the name.
      **more: other fields of the configuration, or other values of a recipe's.

    Raises:
      UserError: an unknown one.
    """
    prefix = f"{LEARNED}-"
    if operator.startswith(prefix):
        return GrowthConfig(LEARNED, ligo=operator.removeprefix(prefix), **more)
    if operator in RECIPES:
        return GrowthConfig(**{**RECIPES[operator], **more})
    width, _, depth = operator.partition("+")
    return GrowthConfig(width, depth or "stack", **more)


@functools.cache
def graph_of(config: ModelConfig | ViTConfig) -> axes.Graph:
    """The axis graph of a model, from shapes alone."""
    return axes.graph(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))


def fitting(source: ModelConfig, target: ModelConfig, config: GrowthConfig) -> ModelConfig:
    """The target with the epsilon of its norms that the operator asks for."""
    if config.width == LEARNED:
        return dataclasses.replace(target, norm_eps=source.norm_eps)
    eps = presets.make(pair_of(source, target, config.seed), config.width, config.depth).eps
    return dataclasses.replace(target, norm_eps=source.norm_eps if eps is None else eps)


def _part(part: float, spec: RunSpec) -> int:
    """A part of a run's updates as their number."""
    return round(part * spec.train.steps)
