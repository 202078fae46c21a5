"""Which fact gets which treatment, and what is injected when (Chang et al. 2024, Sec. 3)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_dynamics.data.injection import Injection
from llm_dynamics.errors import UserError
from llm_dynamics.facts.draws import shuffled
from llm_dynamics.facts.facts import Fact
from llm_dynamics.facts.generator import generate
from llm_dynamics.facts.published import load_published
from llm_dynamics.spec import nearest

ARMS = {
    "duplication": "the same text at every encounter",
    "paraphrase": "the original first, then another wording at every encounter",
    "once": "the text at the first encounter alone",
    "control": "never injected",
}
REMAINDER = 0.0052  # share of the first moment left when a window ends: 0.9^50 (footnote 2)


@dataclass(frozen=True)
class FactsConfig:
    """The facts of a study, their arms and their schedule."""

    file: str = ""  # JSON in the published schema; "" = our own generator
    num_facts: int = 120  # over all arms
    arms: tuple[str, ...] = ("duplication", "paraphrase", "once", "control")
    sizes: tuple[int, ...] = ()  # facts of each arm; () = as equal as can be
    assignment: str = "random"  # "random" over facts, balanced over kinds; "ordered" as published
    seed: int = 0  # of the invented facts and the assignment
    start: int = 0  # update of the first encounter
    interval: int = 100  # updates between encounters
    encounters: int = 10  # of the duplication and paraphrase arms
    window: int = 0  # steps in which the maximum is sought; 0 = from Adam's beta1
    attributes: int = 3  # sentences of a generated passage
    paraphrases: int = 9  # wordings of a generated passage besides the original
    probes_per_depth: int = 0  # attributes of a generated fact that are asked; 0 = all

    def __post_init__(self):
        for arm in self.arms:
            if arm not in ARMS:
                raise UserError(f"unknown arm {arm!r} in facts.arms; {nearest(arm, ARMS)}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise UserError(f"expected every arm once in facts.arms, got {', '.join(self.arms)}")
        if set(self.arms) == {"control"}:
            raise UserError(
                "expected at least one injected arm in facts.arms, got only control; add one of "
                f"{', '.join(arm for arm in ARMS if arm != 'control')}"
            )
        if self.sizes and (len(self.sizes) != len(self.arms) or min(self.sizes) < 1):
            raise UserError(
                f"expected {len(self.arms)} facts.sizes of at least 1 for the arms "
                f"{', '.join(self.arms)}, got {self.sizes}"
            )
        if self.sizes and sum(self.sizes) != self.num_facts:
            raise UserError(
                f"expected facts.sizes to add up to facts.num_facts = {self.num_facts}, got "
                f"{sum(self.sizes)}"
            )
        if self.num_facts < len(self.arms):
            raise UserError(
                f"expected at least one fact per arm ({len(self.arms)}), got {self.num_facts}"
            )
        if self.assignment not in ("random", "ordered"):
            raise UserError(f"expected facts.assignment random or ordered, got {self.assignment!r}")
        least_of = {"seed": 0, "start": 0, "interval": 1, "encounters": 1, "window": 0}
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise UserError(
                    f"expected facts.{key} of at least {least}, got {getattr(self, key)}"
                )
        if self.encounters > 1 and self.window > self.interval:
            raise UserError(
                f"expected facts.window of at most facts.interval = {self.interval}, got "
                f"{self.window}: a maximum would be credited to the wrong encounter"
            )


def load_facts(config: FactsConfig) -> tuple[Fact, ...]:
    """The first `num_facts` facts of the file, or as many from the generator.

    Raises:
      UserError: a malformed file, or one with fewer facts.
    """
    if not config.file:
        return generate(
            config.num_facts,
            config.seed,
            config.paraphrases,
            config.attributes,
            config.probes_per_depth,
        )
    facts = load_published(config.file)
    if len(facts) < config.num_facts:
        raise UserError(
            f"expected facts.num_facts of at most {len(facts)}, the records of {config.file}, got "
            f"{config.num_facts}"
        )
    return facts[: config.num_facts]


def assign_arms(facts: Sequence[Fact], config: FactsConfig) -> dict[str, str]:
    """The arm of every fact by its name, in the order of the facts.

    Random assignment shuffles the facts within each kind and deals the arms out in turn, so that
    arms of equal size differ by at most one fact of any kind. Ordered assignment gives the first
    facts to the first arm and so on.
    """
    count, arms = len(facts), config.arms
    sizes = config.sizes or [count // len(arms) + (i < count % len(arms)) for i in range(len(arms))]
    blocks = [(arm, j / size) for arm, size in zip(arms, sizes, strict=True) for j in range(size)]
    if config.assignment == "ordered":
        order: Sequence[Fact] = facts
    else:
        kinds = dict.fromkeys(fact.kind for fact in facts)
        order = [
            fact
            for kind in kinds
            for fact in shuffled([f for f in facts if f.kind == kind], config.seed, "arms", kind)
        ]
        blocks.sort(key=lambda slot: slot[1])  # stable: arms in turn
    arm_of = {fact.name: arm for fact, (arm, _) in zip(order, blocks, strict=True)}
    return {fact.name: arm_of[fact.name] for fact in facts}


def window_from_beta1(beta1: float) -> int:
    """The smallest t >= 1 with beta1^t <= 0.0052: how long an update echoes in Adam's momentum.

    0.9 gives 50 as published (footnotes 2 and 3: 1 without momentum).
    """
    if not 0 <= beta1 < 1:
        raise UserError(f"expected beta1 in [0, 1), got {beta1}")
    if beta1 <= REMAINDER:
        return 1
    return math.ceil(math.log(REMAINDER) / math.log(beta1))


def resolve_window(config: FactsConfig, beta1: float) -> int:
    """The window in steps: as given, else from `beta1`, but never beyond the next encounter."""
    window = config.window or window_from_beta1(beta1)
    return min(window, config.interval) if config.encounters > 1 else window


def schedule(config: FactsConfig) -> dict[str, tuple[int, ...]]:
    """The updates at which each arm meets its facts; the control's is empty."""
    every = tuple(config.start + i * config.interval for i in range(config.encounters))
    steps = {"duplication": every, "paraphrase": every, "once": every[:1], "control": ()}
    return {arm: steps[arm] for arm in config.arms}


def check_schedule(config: FactsConfig, steps: int, beta1: float = 0.9) -> None:
    """Refuses a schedule whose last maximum cannot be seen within a run of `steps` updates.

    Raises:
      UserError: with the numbers.
    """
    window = resolve_window(config, beta1)
    last = max((step for times in schedule(config).values() for step in times), default=0)
    if last + window > steps:
        raise UserError(
            f"expected the last encounter and its window to fit into {steps} steps, got update "
            f"{last} (facts.start {config.start} + {config.encounters - 1} x facts.interval "
            f"{config.interval}) + {window} = {last + window}; lengthen the run or lower "
            "facts.encounters, facts.interval or facts.start"
        )


def injections(
    facts: Sequence[Fact], arms: Mapping[str, str], config: FactsConfig
) -> tuple[Injection, ...]:
    """Every insertion in the order of steps, then of facts.

    Labels: fact, arm, encounter (from 0) and wording (0 = the original).

    Raises:
      UserError: a fact of the paraphrase arm with too few wordings for its encounters.
    """
    times = schedule(config)
    planned = []
    for fact in facts:
        arm = arms[fact.name]
        if arm == "paraphrase" and len(fact.wordings) < len(times[arm]):
            raise UserError(
                f"expected {len(times[arm]) - 1} paraphrases of fact {fact.name!r} in the "
                f"paraphrase arm, got {len(fact.paraphrases)}; lower facts.encounters, give more "
                "wordings, or leave the arm out of facts.arms"
            )
        for encounter, step in enumerate(times[arm]):
            wording = encounter if arm == "paraphrase" else 0
            labels = {
                "fact": fact.name,
                "arm": arm,
                "encounter": str(encounter),
                "wording": str(wording),
            }
            planned.append(Injection(step, fact.wordings[wording], fact.name, labels))
    return tuple(sorted(planned, key=lambda injection: injection.step))
