"""A run that is probed while it trains: what it needs, prepared once, and its training.

A study adds its own: what it injects or invents, what it asks, what it computes of the log.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np

from llm_dynamics import spec as specs
from llm_dynamics.data.build import OpenData, build_plan, build_tokenizer, open_data
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.injection import Injection
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.probe import packing
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.probes import EncodedProbe, Probe, encode_all
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.config import RunSpec
from llm_dynamics.train.loop import train
from llm_dynamics.train.parts import Parts
from llm_dynamics.train.processes import on_first
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.transform import Transform

_log = logging.getLogger("llm_dynamics.probed")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything a run reads, made from the spec alone; a study's own adds fields."""

    parts: Parts
    tokenizer: Tokenizer
    plan: Plan
    probes: tuple[Probe, ...]
    encoded: Sequence[EncodedProbe]
    packed: packing.PackedProbes | None  # None where nothing is asked
    steps: np.ndarray  # at which the probes are scored


def prepare(
    spec: RunSpec,
    folder: RunFolder | None,
    probes: Sequence[Probe],
    steps: np.ndarray,
    *,
    injections: Sequence[Injection] = (),
    open_with: Callable[[DataConfig], OpenData] = open_data,
    transform: Transform | None = None,
) -> Prepared:
    """Opens the data and refuses whatever does not fit before any training.

    Args:
      spec: the run.
      folder: its run folder, where a run that exists recorded what it started from.
      probes: what is asked; none for an encoder, which has no next token.
      steps: sorted steps at which it is asked, in 0 .. spec.train.steps.
      injections: texts put into the rows of the run.
      open_with: opens the sources of `spec.data`.
      transform: makes the run's model out of another one that it starts from.

    Raises:
      UserError: parts, data, tokenizer, probes or injections that do not fit each other.
    """
    run_parts = parts_lib.build(spec, folder, transform)
    _log.info("preparing the data: %s", ", ".join(spec.data.sources))
    data = open_with(spec.data)
    tokenizer = build_tokenizer(spec.data, data)
    check_vocabulary(tokenizer, spec.model.vocab_size)
    encoded, packed = encode_all(probes, tokenizer), None
    rows = run_parts.row_devices
    if probes:
        length = packing.best_length(encoded, spec.data.length, rows)
        packed = packing.pack(encoded, length, rows)
    return Prepared(
        parts=run_parts,
        tokenizer=tokenizer,
        plan=build_plan(
            spec.data,
            tokenizer,
            injections,
            steps=spec.train.steps,
            first_step=run_parts.first_data_step,
            lineage=run_parts.lineage,
            data=data,
        ),
        probes=tuple(probes),
        encoded=encoded,
        packed=packed,
        steps=steps,
    )


def learn(ready: Prepared, folder: RunFolder, command: str, cautions: Sequence[str] = ()) -> None:
    """Claims the folder, then trains and probes to the end of the run; resumes what is there.

    Args:
      ready: the run.
      folder: where it lies.
      command: that started it, for its record.
      cautions: what to warn of once the folder is the run's.
    """
    device = jax.devices()[0]
    data = ready.plan.describe() | {
        "tokenizer": ready.tokenizer.name,
        "command": command,
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }
    on_first(lambda: folder.claim(ready.parts.spec, data, ready.parts.origin))
    for caution in cautions:
        _log.warning("caution: %s", caution)
    train(
        ready.parts,
        ready.plan,
        folder,
        packed=ready.packed,
        probe_steps=ready.steps,
        open_probe_log=lambda: ProbeLog(
            folder.probes,
            ready.probes,
            [probe.num_target for probe in ready.encoded],
            ready.steps,
            ready.steps * ready.plan.tokens_per_step,
        ),
    )


def is_complete(spec: RunSpec, folder: RunFolder, asked: bool = True) -> bool:
    """Whether the folder holds this run, trained to its end: then nothing has to be opened.

    Args:
      spec: the run.
      folder: where it lies.
      asked: whether it is probed.
    """
    files = [folder.spec, folder.metrics, folder.checkpoints / str(spec.train.steps)]
    files += [folder.probes] if asked else []
    if not all(path.exists() for path in files):
        return False
    return not specs.difference(read_spec(folder.spec)["spec"], specs.to_json(spec))


def model_rows(ready: Prepared) -> tuple[tuple[str, int | str], ...]:
    """The model in names and values, for a page."""
    model = ready.parts.spec.model
    return (
        ("parameters", size.num_params(model)),
        ("layers", model.num_layers),
        ("width", model.width),
        ("heads", model.num_heads),
        ("vocabulary", model.vocab_size),
        ("tokenizer", ready.tokenizer.name),
    )


def explain(spec: RunSpec, step: int, prepare_study: Callable[[RunSpec], Prepared]) -> str:
    """What every row of a step holds: documents, offsets, sources, injected texts."""
    if not 0 <= step < spec.train.steps:
        raise UserError(f"expected --explain=0 to {spec.train.steps - 1}, got {step}")
    return format_explanation(prepare_study(spec).plan.explain(step))
