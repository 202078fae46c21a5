"""The facts study's spec, and its presets: from a smoke run to one accelerator."""

import dataclasses

from llm_dynamics.data.config import DataConfig
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.timetable import check_schedule
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train.config import (
    CheckpointConfig,
    MeshConfig,
    RunSpec,
    StartConfig,
    TrainConfig,
)


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
    """Ends within ten minutes on two cores: a 1M-parameter model, forty encounters a fact.

    Three blocks of facts, each with an assignment to arms of its own. After twelve encounters a
    model of this size shows nothing that is tied to a fact's name.

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
            num_facts=36,
            matched=True,
            blocks=3,
            start=60,
            interval=6,
            encounters=40,
            window=6,
            paraphrases=39,
            probes_per_depth=1,
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


def paper() -> Spec:
    """The published protocol at its size (Chang et al. 2024, section 3 and appendix D).

    Meant to go on from a checkpoint (`train.start.run`), with its optimizer state and its own
    schedule: OLMo-1B's, whose horizon is the one that gives the published learning rates at its
    three stages (table 5). What only the authors have is left to the user: their corpus in
    `data.sources`, its `data.tokenizer`, and their passages in `facts.file`.
    """
    return Spec(
        model=presets.named("olmo-1b", compute_dtype="bfloat16", remat="full"),
        data=DataConfig(
            ("wiki_leads@0.2", "gcide@0.6", "wordnet_glosses@0.2"),
            "gpt2",
            length=2048,
            batch_size=2048,
            isolate_documents=False,
            injection_rows="prefix",
        ),
        optim=OptimConfig(
            ScheduleConfig("cosine", 4e-4, warmup=2000, floor=0.1, horizon=739_328),
            b1=0.9,
            b2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            2500,
            accumulate=64,
            mesh=MeshConfig(data=1, fsdp=-1),
            checkpoint=CheckpointConfig(every=250),
        ),
        probe=ProbeConfig(every=1),
        facts=FactsConfig(
            num_facts=120,
            arms=("paraphrase", "duplication", "once"),
            sizes=(40, 40, 40),
            assignment="ordered",
            start=0,
            interval=100,
            encounters=10,
            window=50,
            paraphrases=9,
        ),
    )


def paper128() -> Spec:
    """The published reduced batch (appendix G): 128 rows, fresh moments, a constant rate.

    The rate is that of OLMo-1B at its middle stage (table 5); give `optim.schedule.peak` another
    for another checkpoint.
    """
    spec = paper()
    return dataclasses.replace(
        spec,
        data=dataclasses.replace(spec.data, batch_size=128),
        optim=dataclasses.replace(spec.optim, schedule=ScheduleConfig("constant", 3.79e-4)),
        train=dataclasses.replace(
            spec.train,
            accumulate=4,
            start=StartConfig(optimizer="reset", continue_schedule=False, data="fresh"),
        ),
    )


PRESETS = {
    "smoke": smoke,
    "laptop": laptop,
    "gpu": gpu,
    "paper": paper,
    "paper128": paper128,
}
