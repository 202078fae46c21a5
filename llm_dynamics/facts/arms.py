"""Which fact gets which treatment (Chang et al. 2024, Sec. 3).

An arm is named in `facts.arms`: a known one ("duplication"), or one defined on the spot as
NAME:WORDING[/spacing=...][/start=...][/interval=...][/encounters=...][/ratio=...][/exponent=...],
e.g. `every40:same/interval=40/encounters=6`. What it leaves open comes from the config.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
WORDINGS = {
    "same": "the same text at every encounter",
    "paraphrase": "the original first, then another wording at every encounter",
    "permuted": "the original first, then its sentences in another order at every encounter",
    "question": "the questions of the memorization probes with their answers",
    "none": "never injected",
}
SPACINGS = {
    "fixed": "equal intervals",
    "geometric": "each interval `ratio` times the one before",
    "random": "times drawn uniformly for each fact from the span of the fixed schedule",
    "zipf": "random times, the r-th fact of the arm met encounters / r^exponent times",
}
MOST_STEPS = 2**31  # no run is as long
_PER_FACT = ("random", "zipf")
_KNOWN = {
    "duplication": "same",
    "paraphrase": "paraphrase",
    "once": "same/encounters=1",
    "control": "none",
}


@dataclass(frozen=True)
class Arm:
    """A treatment: what is said at an encounter, and when encounters are.

    Attributes:
      name: of the arm.
      wording: key of `WORDINGS`.
      spacing: key of `SPACINGS`.
      start: update of the first encounter (of its earliest time for random spacings).
      interval: updates between encounters, the first interval of a geometric schedule.
      encounters: of each fact; of the most frequent fact for zipf.
      ratio: of successive geometric intervals.
      exponent: of the Zipf law.
    """

    name: str
    wording: str
    spacing: str
    start: int
    interval: int
    encounters: int
    ratio: float = 2.0
    exponent: float = 1.0

    @property
    def injected(self) -> bool:
        return self.wording != "none"

    @property
    def per_fact(self) -> bool:
        """Whether facts of the arm have times of their own."""
        return self.injected and self.spacing in _PER_FACT

    def describe(self) -> str:
        """The treatment in words."""
        if self.name in ARMS:
            return ARMS[self.name]
        if not self.injected:
            return WORDINGS["none"]
        spacing = SPACINGS[self.spacing].replace("`ratio`", f"{self.ratio:g}")
        return (
            f"{WORDINGS[self.wording]}; {self.encounters} encounters, {spacing}, interval "
            f"{self.interval}, from update {self.start}"
        )


@dataclass(frozen=True)
class FactsConfig:
    """The facts of a study, their arms and their schedule."""

    file: str = ""  # JSON in the published schema; "" = our own generator
    licence: str = ""  # licence and attribution of the file, printed in the report
    num_facts: int = 120  # over all arms
    arms: tuple[str, ...] = ("duplication", "paraphrase", "once", "control")
    sizes: tuple[int, ...] = ()  # facts of each arm; () = as equal as can be
    assignment: str = "random"  # "random" over facts, balanced over kinds; "ordered" as published
    matched: bool = False  # generated facts in sets of one per arm that share the answer asked for
    blocks: int = 1  # equal parts of the facts, each with an assignment of its own
    rotation: int = 0  # fact i gets the arm this many places on: runs 0, 1, ... are a Latin square
    seed: int = 0  # of the invented facts and the assignment
    start: int = 0  # update of the first encounter
    interval: int = 100  # updates between encounters
    encounters: int = 10  # of the duplication and paraphrase arms
    window: int = 0  # steps in which the maximum is sought; 0 = from Adam's beta1
    attributes: int = 3  # sentences of a generated passage
    paraphrases: int = 9  # wordings of a generated passage besides the original
    probes_per_depth: int = 0  # attributes of a generated fact that are asked; 0 = all

    def __post_init__(self):
        least_of = {
            "seed": 0,
            "start": 0,
            "interval": 1,
            "encounters": 1,
            "window": 0,
            "blocks": 1,
            "rotation": 0,
        }
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise UserError(
                    f"expected facts.{key} of at least {least}, got {getattr(self, key)}"
                )
        names = self.names
        if not names or len(set(names)) < len(names):
            raise UserError(f"expected every arm once in facts.arms, got {', '.join(names)}")
        if not any(arm.injected for arm in self.treatments):
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
        if self.num_facts % self.blocks or any(size % self.blocks for size in self.sizes):
            raise UserError(
                f"expected facts.num_facts {self.num_facts} and facts.sizes {self.sizes} that "
                f"split into facts.blocks = {self.blocks} equal parts"
            )
        if self.num_facts // self.blocks < len(names):
            raise UserError(
                f"expected at least one fact per arm ({len(names)}) in each of {self.blocks} "
                f"blocks, got facts.num_facts = {self.num_facts}"
            )
        if self.assignment == "ordered" and (self.blocks > 1 or self.rotation):
            raise UserError(
                "facts.assignment=ordered gives the first facts to the first arm, so it expects "
                f"facts.blocks=1 and facts.rotation=0, got {self.blocks} and {self.rotation}"
            )
        even = not self.num_facts % (self.blocks * len(names)) and len(set(self.sizes)) < 2
        fits = even and self.assignment == "random" and not self.file
        if self.matched and not (fits and self.probes_per_depth == 1):
            raise UserError(
                "facts.matched expects generated facts (no facts.file), facts.assignment=random, "
                "facts.probes_per_depth=1 and arms of equal size, got facts.num_facts = "
                f"{self.num_facts} in {self.blocks} blocks for {len(names)} arms"
            )
        if self.rotation and not even:
            raise UserError(
                "facts.rotation expects arms of equal size, got facts.num_facts = "
                f"{self.num_facts} and facts.sizes {self.sizes} for {len(names)} arms"
            )
        for arm in self.treatments:
            gap = arm.interval if arm.injected and arm.encounters > 1 else self.window
            if not arm.per_fact and self.window > gap:
                raise UserError(
                    f"expected facts.window of at most the interval of arm {arm.name}, {gap}, got "
                    f"{self.window}: a maximum would be credited to the wrong encounter"
                )

    @property
    def treatments(self) -> tuple[Arm, ...]:
        """The arms, resolved."""
        return tuple(_parse(entry, self) for entry in self.arms)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arms, in order."""
        return tuple(entry.partition(":")[0] for entry in self.arms)


def _parse(entry: str, config: FactsConfig) -> Arm:
    name, colon, text = entry.partition(":")
    if not colon:
        if name not in ARMS:
            raise UserError(
                f"unknown arm {name!r} in facts.arms; {nearest(name, ARMS)}; a new one is defined "
                "as NAME:WORDING/interval=...; see llm_dynamics/facts/arms.py"
            )
        text = _KNOWN[name]
    elif not name or name in ARMS:
        raise UserError(f"expected a name of its own before the colon of {entry!r} in facts.arms")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(
            f"expected letters, digits, _ and - in the name of an arm, got {name!r} in facts.arms; "
            "results are named ARM/DEPTH/..."
        )
    wording, *settings = text.split("/")
    if wording == "none" and colon:
        raise UserError(
            f"expected a wording that is injected for arm {name!r}, got none; the arm that is "
            "never injected is `control`, under that name alone"
        )
    if wording not in WORDINGS:
        raise UserError(
            f"unknown wording {wording!r} of arm {name!r}; {nearest(wording, WORDINGS)}"
        )
    values = {
        "spacing": "fixed",
        "start": config.start,
        "interval": config.interval,
        "encounters": config.encounters,
        "ratio": 2.0,
        "exponent": 1.0,
    }
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in values:
            raise UserError(f"unknown setting {key!r} of arm {name!r}; {nearest(key, values)}")
        try:
            values[key] = type(values[key])(value)
        except ValueError:
            raise UserError(f"expected a number for {key} of arm {name!r}, got {value!r}") from None
    if values["spacing"] not in SPACINGS:
        raise UserError(
            f"unknown spacing {values['spacing']!r} of arm {name!r}; "
            f"{nearest(values['spacing'], SPACINGS)}"
        )
    for key, least, most in (
        ("start", 0, MOST_STEPS),
        ("interval", 1, MOST_STEPS),
        ("encounters", 1, 100_000),
        ("ratio", 1, 100),
        ("exponent", 0, 100),
    ):
        if not least <= values[key] <= most:
            raise UserError(
                f"expected {key} of arm {name!r} of at least {least} and at most {most:,}, got "
                f"{values[key]}"
            )
    return Arm(name, wording, **values)


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
            len(config.names) if config.matched else 1,
        )
    facts = load_published(config.file)
    if len(facts) < config.num_facts:
        raise UserError(
            f"expected facts.num_facts of at most {len(facts)}, the records of {config.file}, got "
            f"{config.num_facts}"
        )
    return facts[: config.num_facts]


def block_of(facts: Sequence[Fact], config: FactsConfig) -> dict[str, int]:
    """The block of every fact by its name: equal parts in the order of the facts."""
    size = len(facts) // config.blocks
    return {fact.name: i // size for i, fact in enumerate(facts)}


def assign_arms(facts: Sequence[Fact], config: FactsConfig) -> dict[str, str]:
    """The arm of every fact by its name, in the order of the facts.

    Random assignment shuffles the facts within each kind and deals the arms out in turn, block by
    block, so that arms of equal size differ by at most one fact of any kind. Matched facts are
    shuffled within each set. Ordered assignment gives the first facts to the first arm and so on.
    """
    blocks = block_of(facts, config)
    arm_of: dict[str, str] = {}
    for block in range(config.blocks):
        members = [fact for fact in facts if blocks[fact.name] == block]
        arm_of |= _assign_block(members, config, block)
    return {fact.name: arm_of[fact.name] for fact in facts}


def _assign_block(facts: Sequence[Fact], config: FactsConfig, block: int) -> dict[str, str]:
    count, names = len(facts), config.names
    if config.matched:
        arm_of = {}
        for start in range(0, count, len(names)):
            members = facts[start : start + len(names)]
            for i, fact in enumerate(shuffled(members, config.seed, "arms", block, start)):
                arm_of[fact.name] = names[(i + config.rotation) % len(names)]
        return arm_of
    sizes = [size // config.blocks for size in config.sizes]
    sizes = sizes or [count // len(names) + (i < count % len(names)) for i in range(len(names))]
    slots = [(i, j / size) for i, size in enumerate(sizes) for j in range(size)]
    if config.assignment == "ordered":
        order: Sequence[Fact] = facts
    else:
        kinds = dict.fromkeys(fact.kind for fact in facts)
        order = [
            fact
            for kind in kinds
            for fact in shuffled(
                [f for f in facts if f.kind == kind], config.seed, "arms", block, kind
            )
        ]
        slots.sort(key=lambda slot: slot[1])  # stable: arms in turn
    turned = [(i + config.rotation) % len(names) for i, _ in slots]
    return {fact.name: names[i] for fact, i in zip(order, turned, strict=True)}
