"""When do skills, and combinations of skills, emerge? (Arora & Goyal 2023; Nam et al. 2024)

    launch/local skills                       theory, simulation, a trained model; ten minutes
    launch/local skills --preset=smoke        the same in a minute, to see that everything works
    launch/local skills --preset=desk         hypotheses H1 to H6 with five seeds; about an hour
    launch/local skills --config.arms=parallel,parallel~width=16    arms of one's own

Small decoders are trained on languages whose skills and whose best loss are known exactly, and what
they get wrong is held against what the theory allows. A finished run is never trained again: the
same command goes on where it was stopped.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments import cli, skills_spec
from experiments.skills_spec import HELD_OUT, WIDTH, ZIPF, Spec, family
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.report.skills_report import markdown, write_report
from llm_dynamics.report.skills_study import SkillsStudy
from llm_dynamics.results import Row
from llm_dynamics.skills import (
    hypotheses,
    languages,
    parity_rows,
    texts,
    theory,
    trained_rows,
    training,
)
from llm_dynamics.skills.parity_rows import ParityStudy
from llm_dynamics.skills.simulation import simulate, transition_rows
from llm_dynamics.skills.trained_rows import Arms
from llm_dynamics.skills.training import TrainedConfig
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.skills")

RUNS = "runs"


def run(spec: Spec, workdir: Path, command: str) -> Path:
    """Computes, trains, asks and reports; goes on with what is there. Returns the report's path."""
    folder = RunFolder(workdir)
    folder.claim(spec, {"fingerprint": "made from the spec", "command": command})
    rows: list[Row] = []
    arms: Arms = {}
    parity: ParityStudy | None = None
    if "theory" in spec.parts:
        rows += theory.all_rows()
    if "simulation" in spec.parts:
        _log.info("simulating %s pieces", f"{spec.simulation.pieces:,}")
        found = simulate(spec.simulation)
        rows += [{**row, "name": f"simulation/{row['name']}"} for row in found]
        rows += transition_rows(spec.simulation.seeds)
    if "parity" in spec.parts:
        _log.info("training parities")
        parity = parity_rows.measure(spec.parity)
        rows += parity_rows.parity_rows(parity)
    if "trained" in spec.parts:
        arms = train(spec, folder.path / RUNS)
        rows += ask(spec, arms)
    files.write_json(folder.results, rows)
    study = page(spec, rows, arms, parity, command)
    files.write_text(folder.path / "results.md", markdown(study))
    _log.info("drawing the report")
    return write_report(folder.path, study)


def page(
    spec: Spec, rows: list[Row], arms: Arms, parity: ParityStudy | None, command: str
) -> SkillsStudy:
    """What the report is drawn from."""
    configs = spec.trained() if arms else {}
    return SkillsStudy(
        rows=rows,
        theory="theory" in spec.parts,
        simulation=spec.simulation if "simulation" in spec.parts else None,
        arms=arms,
        zipfs=family(configs, spec.parallel, ZIPF),
        held_out=family(configs, spec.pairs, HELD_OUT),
        alphas=spec.alphas,
        parity=parity,
        command=command,
    )


def train(spec: Spec, folder: Path) -> Arms:
    """Every run that is not there yet, and then all of them by arm and seed."""
    arms: dict[str, dict[int, training.Trained]] = {}
    runs = spec.runs()
    for number, ((arm, seed), config) in enumerate(runs.items(), 1):
        path = folder / f"{arm}-{seed}.npz"
        if not path.exists():
            _log.info("run %d of %d: %s, seed %d", number, len(runs), arm, seed)
            done = training.train(config)
            training.save(done, path)
            _log.info("  %s", summary(done))
        arms.setdefault(arm, {})[seed] = training.load(config, path)
    return arms


def summary(done: training.Trained) -> str:
    """How a run ended."""
    parts = []
    for name in done.seen:
        last = done.outcomes(name, -1)
        parts.append(f"{name}: excess {last.delta:.3f}, failed {last.theta:.3f}")
    return "; ".join(parts)


def ask(spec: Spec, arms: Arms) -> list[Row]:
    """The hypotheses of all arms.

    Raises:
      UserError: a bound is violated, which cannot be.
    """
    rows = hypotheses.bounds_rows(arms, spec.alphas)
    for name, arm in arms.items():
        rows += trained_rows.arm_rows(name, arm, spec.alphas, spec.taus)
    configs = spec.trained()
    widths = _family(arms, configs, spec.parallel, WIDTH)
    largest = f"k{max(spec.parallel.language.sizes)}"
    if widths:
        rows += hypotheses.slingshot_rows(widths, largest, spec.taus)
    if len(widths) > 1:
        rows += hypotheses.scale_rows(widths, largest, spec.taus)
    if "serial" in arms:
        rows += hypotheses.serial_rows(arms["serial"], spec.taus)
    held_out = _family(arms, configs, spec.pairs, HELD_OUT)
    if held_out := {share: arm for share, arm in held_out.items() if share}:
        rows += hypotheses.held_out_rows(held_out, max(spec.pairs.language.sizes))
    zipfs = _family(arms, configs, spec.parallel, ZIPF)
    return rows + hypotheses.emergence_rows(zipfs, largest)


def _family(arms: Arms, configs: Mapping[str, TrainedConfig], base: TrainedConfig, key: str):
    return {value: arms[name] for value, name in family(configs, base, key).items()}


def describe(spec: Spec) -> list[str]:
    """What is computed and what it costs, for --dry_run."""
    lines = [f"parts: {', '.join(spec.parts)}"]
    if "simulation" in spec.parts:
        lines += [f"simulation: {specs.to_json(spec.simulation)}"]
    if "trained" in spec.parts:
        configs = spec.trained()
        for name, config in configs.items():
            for k, held in config.sets().values():
                if held:
                    texts.check_held_out(config.language, k)
            lines.append(
                f"{name}: {size.num_params(config.model):,} parameters, {config.steps:,} steps of "
                f"{config.batch} texts, {config.flops:.3g} FLOPs a run"
            )
        total = sum(config.flops for config in configs.values()) * spec.seeds
        lines.append(f"runs: {len(configs) * spec.seeds}, {total:.3g} FLOPs in all")
    if "parity" in spec.parts:
        lines.append(f"parity: {spec.parity.seeds} seeds of a solvable model and three networks")
    return lines


def explain(spec: Spec, step: int) -> str:
    """The first texts of a step of every arm, seed 0, in words."""
    lines = []
    for name, config in spec.trained().items():
        if not 0 <= step < config.steps:
            raise UserError(f"expected --explain=0 to {config.steps - 1}, got {step}")
        lesson = training.lesson_of(config, step)
        lines.append(f"{name}, step {step}:")
        for row in np.linspace(0, config.batch - 1, 4).astype(int):
            answers = lesson.answer_BxA[row][lesson.mask_BxA[row] > 0]
            tokens = lesson.tokens_BxL[row][lesson.segment_ids_BxL[row] > 0]
            words = (languages.words(config.language, part) for part in (tokens, answers))
            lines.append("  {} -> {}".format(*words))
    return "\n".join(lines)


if __name__ == "__main__":
    cli.start(cli.Study("skills", skills_spec.PRESETS, run, describe, explain))
