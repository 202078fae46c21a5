"""A run folder and its study as a run leaves them; the scores are invented, the rest is real."""

import json
from pathlib import Path

import numpy as np

from llm_dynamics.facts import results
from llm_dynamics.facts.arms import FactsConfig, assign_arms
from llm_dynamics.facts.dose import dose_report, warnings
from llm_dynamics.facts.facts import Fact, label_arms
from llm_dynamics.facts.injections import injections
from llm_dynamics.facts.timetable import schedule
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.report.facts_report import FactsStudy

NASTY = 'O\'Brien <b>&"bold"</b> <script>alert(1)</script>'
COMMAND = "launch/local facts --preset=laptop --workdir 'my runs/first'"
RISE = {"duplication": 0.12, "paraphrase": 0.10, "once": 0.05, "control": 0.0}
DEPTHS = ("memorization", "semantic", "compositional")


def small_config() -> FactsConfig:
    return FactsConfig(num_facts=16, start=20, interval=10, encounters=4, window=10)


def small_facts(count: int = 16) -> tuple[Fact, ...]:
    """Facts by hand, the first with a name and texts that a page must escape."""
    facts = []
    for k in range(count):
        name = f"place {k}: {NASTY}" if k == 0 else f"place {k}"
        probes = tuple(
            Probe(
                f"{name} {depth}",
                f"{name} lies in",
                f"land {k}",
                {"fact": name, "depth": depth, "attribute": "land"},
            )
            for depth in DEPTHS
        )
        wordings = tuple(f"In land {k} lies {name}, they say for the {i}th time." for i in range(9))
        facts.append(Fact(name, f"{name} lies in land {k}.", wordings, probes, "place"))
    return tuple(facts)


def make_run(
    path: Path, facts: tuple[Fact, ...], config: FactsConfig, steps: int, seed: int = 0
) -> FactsStudy:
    """Writes spec.json, metrics.jsonl, probes/ and results.json; returns the study."""
    path.mkdir(parents=True, exist_ok=True)
    arms, times = assign_arms(facts, config), schedule(config)
    probes = label_arms(facts, arms)
    scores_SxPxM = _scores(probes, times, config, steps, np.random.default_rng(seed))
    tokens = np.arange(steps + 1) * 4096
    with ProbeLog(path / "probes", probes, [3] * len(probes), range(steps + 1), tokens) as log:
        for step in range(steps + 1):
            log.write(step, scores_SxPxM[step])
    rows = results.compute(open_log(path / "probes"), times, config.window, 4096, resamples=100)
    (path / "results.json").write_text(json.dumps(rows))
    with (path / "metrics.jsonl").open("w") as file:
        rng = np.random.default_rng(seed)
        for step in range(steps):
            row = {
                "step": step,
                "loss": float(5 * np.exp(-step / 150) + 3.4 + 0.08 * rng.normal()),
                "grad_norm": float(1 + 4 * np.exp(-step / 60) + 0.2 * rng.random()),
                "learning_rate": 2e-3 * min(1, step / 100) * (1 - 0.9 * step / steps),
                "seconds": 0.4,
                "tokens_per_second": float(10000 + 300 * rng.normal()),
            }
            if step % 100 == 0:
                row["validation_loss"] = row["loss"] + 0.1
            file.write(json.dumps(row) + "\n")
    spec = {
        "model": {"width": 128, "num_layers": 4, "vocab_size": 4096},
        "optim": {"beta1": 0.9, "beta2": 0.95, "schedule": {"peak": 2e-3, "warmup": 100}},
        "facts": {"num_facts": len(facts), "arms": list(config.arms), "file": ""},
        "train": {"steps": steps, "tensorboard": True},
        "seed": 0,
    }
    planned = injections(facts, arms, config)
    record = {
        "spec": spec,
        "data": _describe(planned, arms, steps)
        | {
            "fingerprint": "0123abcd",
            "tokenizer": "bpe:4096",
            "command": COMMAND,
            "device": "CPU, 2 cores",
        },
        "parent": None,
        "versions": {"llm_dynamics": "0.1.0", "python": "3.11.7", "jax": "0.10.2"},
    }
    (path / "spec.json").write_text(json.dumps(record))
    return FactsStudy(
        schedule=times,
        window=config.window,
        facts=facts,
        arms=arms,
        injections=planned,
        treatments={arm.name: arm.describe() for arm in config.treatments},
        model=(("model", "pocket-1m"), ("parameters", 1_312_768)),
        cautions=tuple(warnings(dose_report(planned, facts, arms))),
    )


def _scores(probes, times, config, steps, rng) -> np.ndarray:
    """Every fact drifts up; injected ones jump at encounters and fade in log time."""
    t_S = np.arange(steps + 1)
    last = config.start + config.interval * config.encounters
    drift_S = 1.1 * np.clip((t_S - config.start) / (last - config.start), -6, 1)
    drift_S = drift_S - 0.13 * np.log10(np.maximum(t_S - last, 1)) - 6
    wobble_S = 0.05 * np.convolve(rng.normal(size=steps + 1), np.ones(9) / 3, "same")
    facts = list(dict.fromkeys(p.labels["fact"] for p in probes))
    level = dict(zip(facts, rng.normal(size=len(facts)), strict=True))
    scores_SxPxM = np.zeros((steps + 1, len(probes), len(MEASURES)), np.float32)
    for p, probe in enumerate(probes):
        hard = 1 - 0.25 * DEPTHS.index(probe.labels["depth"])
        gain_S = np.zeros(steps + 1)
        for event in times[probe.labels["arm"]]:
            age_S = np.maximum(t_S - event, 0)
            fade_S = np.maximum(1 - 0.27 * np.log10(1 + age_S / 3), 0)
            gain_S += RISE[probe.labels["arm"]] * hard * (1 - np.exp(-age_S / 4)) * fade_S
        own = 1 + 0.25 * level[probe.labels["fact"]]
        noise_S = 0.12 * rng.normal(size=steps + 1) + 0.3 * rng.normal()
        mean_S = drift_S * hard * own + wobble_S + gain_S * own + noise_S
        scores_SxPxM[:, p] = np.stack(
            [mean_S, 3 * mean_S, mean_S, np.full(steps + 1, 40.0), np.zeros(steps + 1)], 1
        )
    return scores_SxPxM


def _describe(planned, arms, steps) -> dict:
    """The parts of a plan's description that the page reads."""
    doses = {}
    for arm in dict.fromkeys(arms.values()):
        given = [i for i in planned if i.labels["arm"] == arm]
        if given:
            tokens = sum(2 * len(i.text.split()) for i in given)
            doses[arm] = {
                "passages": len({i.name for i in given}),
                "encounters": len(given),
                "tokens": tokens,
                "rows": len(given),
                "token_share": tokens / (steps * 4096),
                "row_share": len(given) / (steps * 32),
            }
    source = {
        "name": "wiki_leads",
        "origin": {"corpus": "wiki_leads", "text_sha256": "fedcba98"},
        "licence": "CC BY-SA 4.0",
        "attribution": f"Wikipedia contributors {NASTY}",
        "share": 1.0,
        "documents": 80_000,
        "tokens": 5_400_000,
        "rows": 42_000,
        "validation_documents": 1_600,
        "validation_tokens": 110_000,
        "rows_read": steps * 32,
        "epochs": steps * 32 / 42_000,
    }
    return {
        "length": 128,
        "batch_size": 32,
        "tokens_per_step": 4096,
        "steps": steps,
        "tokens": steps * 4096,
        "sources": [source],
        "doses": doses,
    }
