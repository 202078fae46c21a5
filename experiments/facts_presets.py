"""The facts study's spec, and its presets: from a smoke run to one accelerator."""

import dataclasses

from llm_dynamics.data.config import DataConfig
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.timetable import check_schedule
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import CheckpointConfig, MeshConfig, RunSpec, TrainConfig


@dataclasses.dataclass(frozen=True)
class Spec(RunSpec):
    """A run and the facts injected into it."""

    facts: FactsConfig = dataclasses.field(default_factory=FactsConfig)

    def __post_init__(self):
        super().__post_init__()
        check_schedule(self.facts, self.train.steps, self.optim.b1)


def smoke() -> Spec:
    """Ends within a minute on two cores: shows that everything works, proves nothing."""
    return Spec(
        model=presets.named("pocket-0.1m", vocab_size=1024),
        data=DataConfig(("wiki_leads",), "bpe:1024", length=128, batch_size=16),
        optim=OptimConfig(ScheduleConfig("cosine", 4e-3, warmup=10)),
        train=TrainConfig(
            80, validate_every=40, validation_batches=2, checkpoint=CheckpointConfig(every=40)
        ),
        probe=ProbeConfig(),
        facts=FactsConfig(
            num_facts=16, start=20, interval=8, encounters=4, window=6, probes_per_depth=1
        ),
    )


def laptop() -> Spec:
    """Ends within ten minutes on two cores: a 1M-parameter model, twelve encounters a fact.

    Scoring every probe at every step costs less than a tenth of the training step.
    """
    return Spec(
        model=presets.named("pocket-1m", vocab_size=2048),
        data=DataConfig(
            ("wiki_leads@0.7", "wordnet_glosses@0.3"), "bpe:2048", length=128, batch_size=48
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 3e-3, warmup=30)),
        train=TrainConfig(400, validate_every=80, checkpoint=CheckpointConfig(every=80)),
        probe=ProbeConfig(),
        facts=FactsConfig(
            num_facts=36, start=60, interval=20, encounters=12, paraphrases=11, probes_per_depth=1
        ),
    )


def gpu() -> Spec:
    """One accelerator: a 124M-parameter model in bfloat16 on rows of 1,024 tokens."""
    return Spec(
        model=presets.named("gpt2-124m", compute_dtype="bfloat16"),
        data=DataConfig(
            ("wiki_leads@0.2", "gcide@0.6", "wordnet_glosses@0.2"),
            "gpt2",
            length=1024,
            batch_size=128,
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 6e-4, warmup=100)),
        train=TrainConfig(
            2000, accumulate=4, mesh=MeshConfig(), checkpoint=CheckpointConfig(every=500)
        ),
        probe=ProbeConfig(),
        facts=FactsConfig(num_facts=160, start=500, interval=100, encounters=10),
    )


PRESETS = {"smoke": smoke, "laptop": laptop, "gpu": gpu}
