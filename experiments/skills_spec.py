"""What the study of skills computes: its spec, the arms that it trains, and its sizes."""

import dataclasses
from collections.abc import Mapping

from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.skills import parity_rows
from llm_dynamics.skills.languages import LanguageConfig
from llm_dynamics.skills.parity_rows import ParityStudyConfig
from llm_dynamics.skills.simulation import SimulationConfig
from llm_dynamics.skills.training import TrainedConfig

PARTS = ("theory", "simulation", "trained", "parity")
# Base of an arm -> its language; `pairs` is the serial one with texts of one or two skills alone.
BASES = {
    "parallel": "parallel",
    "serial": "serial",
    "pairs": "serial",
    "latent": "latent",
    "sum": "sum",
}
HELD_OUT, WIDTH, ZIPF = "language.held_out", "width", "language.zipf"


@dataclasses.dataclass(frozen=True)
class Spec:
    """The whole study; a part that is left out of `parts` is neither computed nor shown."""

    simulation: SimulationConfig
    parallel: TrainedConfig
    serial: TrainedConfig
    pairs: TrainedConfig
    latent: TrainedConfig
    sum: TrainedConfig
    parity: ParityStudyConfig
    parts: tuple[str, ...] = PARTS
    arms: tuple[str, ...] = ("parallel",)  # BASE or BASE~KEY=VALUE~..., e.g. parallel~width=16
    seeds: int = 3  # of every arm
    alphas: tuple[float, ...] = (0.1, 0.2, 0.5)  # measures of the weakest skills
    taus: tuple[float, ...] = (0.9, 0.8, 0.7)  # competences of the slingshot ratios

    def __post_init__(self):
        for part in self.parts:
            if part not in PARTS:
                raise UserError(f"unknown part {part!r}; {specs.nearest(part, PARTS)}")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise UserError(f"expected parts, each once, got {', '.join(self.parts) or 'none'}")
        if self.seeds < 1:
            raise UserError(f"expected at least 1 seed, got {self.seeds}")
        for key in ("alphas", "taus"):
            values = getattr(self, key)
            if not values or not all(0 < value < 1 for value in values):
                raise UserError(f"expected {key} between 0 and 1, got {values}")
        for base, kind in BASES.items():
            config = getattr(self, base)
            if config.language.kind != kind:
                raise UserError(
                    f"expected {base}.language.kind to be {kind}, got {config.language.kind}"
                )
            if config.seed or config.language.seed:
                raise UserError(
                    f"the study gives every run its seed; leave {base}.seed and "
                    f"{base}.language.seed at 0 and set seeds"
                )
        sizes = self.serial.language.sizes
        if sorted(sizes) != list(range(1, len(sizes) + 1)):
            raise UserError(
                f"expected serial.language.sizes of 1, 2, ... without a gap, since each is held "
                f"against the smaller ones, got {sizes}"
            )
        if max(self.pairs.language.sizes) < 2:
            raise UserError("expected pairs.language.sizes with texts of 2 skills or more")
        if "trained" in self.parts:
            self.trained()

    def trained(self) -> dict[str, TrainedConfig]:
        """Arm -> its config, with seed 0.

        Raises:
          UserError: an arm that is none, or twice the same.
        """
        found: dict[str, TrainedConfig] = {}
        for arm in self.arms:
            base, *settings = arm.split("~")
            if base not in BASES:
                raise UserError(f"unknown arm {arm!r}; {specs.nearest(base, BASES)}")
            changes = {}
            for setting in settings:
                key, equals, value = setting.partition("=")
                if not equals:
                    raise UserError(f"expected an arm BASE~KEY=VALUE, got {arm!r}")
                changes[key] = value
            config = specs.override(getattr(self, base), changes)
            for other, known in found.items():
                if known == config:
                    raise UserError(f"the arms {other} and {arm} are the same; name one of them")
            found[arm] = config
        if not found:
            raise UserError("expected at least one arm to train, e.g. arms=parallel")
        return found

    def runs(self) -> dict[tuple[str, int], TrainedConfig]:
        """(arm, seed) -> the config of a run, the seeds of an arm one after another."""
        return {
            (arm, seed): dataclasses.replace(
                config, seed=seed, language=dataclasses.replace(config.language, seed=seed)
            )
            for arm, config in self.trained().items()
            for seed in range(self.seeds)
        }


def family(arms: Mapping[str, TrainedConfig], base: TrainedConfig, key: str) -> dict[float, str]:
    """The arms that differ from `base` in one setting at most: its value -> the arm."""
    found = {}
    for arm, config in arms.items():
        leaves = dict(specs.flatten(config))
        rest = {k: v for k, v in leaves.items() if k != key}
        if rest == {k: v for k, v in specs.flatten(base) if k != key}:
            found[float(leaves[key])] = arm
    return dict(sorted(found.items()))


# ---- sizes ---------------------------------------------------------------------------------------


def laptop() -> Spec:
    """Theory, a simulation of 10^6 pieces, one trained model of three seeds, parities."""
    return Spec(
        simulation=SimulationConfig(pieces=1_000_000),
        parallel=TrainedConfig(LanguageConfig("parallel", 256, 16, (4,), zipf=1.0)),
        serial=TrainedConfig(
            LanguageConfig("serial", 12, 8, (1, 2, 3), (0.25, 0.35, 0.40), held_out=0.1),
            width=64, layers=3, batch=512, texts=2048,
        ),
        pairs=TrainedConfig(
            LanguageConfig("serial", 16, 8, (1, 2), held_out=0.1), width=48, texts=2048
        ),
        latent=TrainedConfig(
            LanguageConfig("latent", 12, 6, (2,), noise=0.1, demos=5), width=48, texts=2048
        ),
        sum=TrainedConfig(LanguageConfig("sum", 16, 8, (1, 2)), width=64, texts=2048),
        parity=parity_rows.laptop(),
    )  # fmt: skip


def desk() -> Spec:
    """All hypotheses with five seeds: about an hour on two cores."""
    return dataclasses.replace(
        laptop(),
        seeds=5,
        arms=(
            *(f"parallel~width={width}" for width in (16, 20, 24, 28)),
            "parallel",
            *(f"parallel~language.zipf={zipf}" for zipf in (0.0, 0.5, 1.5)),
            "parallel~language.held_out=0.2",
            "serial",
            *(f"pairs~language.held_out={share}" for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)),
            "latent",
            "sum",
        ),
    )


def smoke() -> Spec:
    """A minute: that everything works."""
    full = laptop()

    def few(config: TrainedConfig) -> TrainedConfig:
        return dataclasses.replace(config, steps=40, looks=8, texts=512, width=16, warmup=10)

    return dataclasses.replace(
        full,
        simulation=dataclasses.replace(full.simulation, pieces=10_000, seeds=2),
        parallel=dataclasses.replace(
            few(full.parallel), language=LanguageConfig("parallel", 16, 4, (3,), zipf=1.0)
        ),
        serial=few(full.serial),
        pairs=few(full.pairs),
        latent=few(full.latent),
        sum=few(full.sum),
        parity=parity_rows.smoke(),
        arms=("parallel", "serial"),
        seeds=1,
    )


PRESETS = {"smoke": smoke, "laptop": laptop, "desk": desk}
