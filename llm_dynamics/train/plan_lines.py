"""What a run will do, in lines of text, before any of it is done."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_dynamics.data.plan import Plan
from llm_dynamics.model import dropping, size
from llm_dynamics.train import start
from llm_dynamics.train.parts import Parts


def describe(parts: Parts, plan: Plan, memory: bool = True) -> list[str]:
    """Parameters, tokens by source, FLOPs, memory and learning rates of a run.

    For the memory, the training step is compiled for the devices at hand, on shapes alone; nothing
    is allocated.
    """
    spec, schedule = parts.spec, parts.schedule
    start.check_plan(spec, parts.origin, plan)
    total, tokens = spec.train.steps, spec.train.steps * plan.tokens_per_step
    flops = size.flops_per_token(spec.model, spec.data.length) * tokens
    about = plan.describe(total)
    lines = [
        f"model: {size.num_params(spec.model):,} parameters "
        f"({size.num_params_non_embedding(spec.model):,} without embeddings)",
        f"training: {total:,} steps x {plan.tokens_per_step:,} tokens = {tokens:,} tokens, "
        f"{flops:.3g} FLOPs",
        *_dropped(parts, flops),
        *start.describe(spec, parts.origin),
        "sources:",
    ]
    for source in about["sources"]:
        lines.append(
            f"  {source['name']:<20} {source['share']:7.2%} of rows, {source['rows_read']:,} rows, "
            f"{source['epochs']:.2f} epochs; licence {source['licence'] or 'not stated'}"
        )
        for what, count, tokens in (
            ("repeats removed", source["repeats_removed"], source["repeated_tokens_removed"]),
            ("copies added", source["copies_added"], source["copied_tokens_added"]),
        ):
            if count:
                lines.append(f"  {'':<20} {count:,} {what}, {tokens:,} tokens")
    lines += [*_replay(about), *ledger(about)]
    for held in about["also_validate"]:
        lines.append(
            f"also validated: {held['name']}, {held['documents']:,} documents of "
            f"{held['tokens']:,} tokens; licence {held['licence'] or 'not stated'}"
        )
    lines += _memory(parts) if memory else []
    warmup = spec.optim.schedule.warmup
    marks = sorted({0, warmup, total // 4, total // 2, 3 * total // 4, total - 1} - {total})
    rates = ", ".join(f"{t}: {float(schedule(jnp.asarray(t))):.3g}" for t in marks)
    return [
        *lines,
        f"learning rate by step: {rates}",
        *start.joint_lines(spec, parts.origin, parts.planned),
    ]


def ledger(about: dict[str, Any]) -> list[str]:
    """What is new, replayed and repeated of each source, of earlier stages first.

    Args:
      about: `Plan.describe` with the length of the run.
    """
    length, lines = about["length"], []
    for stage in [*about["stages"], about]:
        lines.append(f"ledger of {stage['run']}:" if "run" in stage else "ledger:")
        for name, counts in stage["ledger"].items():
            parts = ", ".join(
                f"{kind} {tokens // length:,} rows ({tokens:,} tokens)"
                for kind, tokens in counts.items()
                if tokens
            )
            lines.append(f"  {name:<20} {parts or 'nothing'}")
    return lines


def _replay(about: dict[str, Any]) -> list[str]:
    lines = []
    for entry in about["replay"]:
        first, read, seen = entry["first_row"], entry["rows_read"], entry["rows_seen"]
        rows = f"rows {first:,} to {first + read - 1:,}" if read else "no row"
        lines.append(
            f"replay: {entry['share']:.2%} of rows from {entry['run']}, {rows} of the {seen:,} "
            f"it saw{', beginning again at their end' if first + read > seen else ''}"
        )
        for source in entry["sources"]:
            lines.append(f"  {source['name']:<20} licence {source['licence'] or 'not stated'}")
    return lines


def _dropped(parts: Parts, flops: float) -> list[str]:
    model, train = parts.spec.model, parts.spec.train
    layers, tokens = train.layer_drop, train.token_drop
    lines = []
    if layers:
        rates_N = dropping.layer_rates(model.num_layers, layers)
        lines.append(
            f"layer drop: rows skip a layer at rates 0 to {rates_N[-1]:.2%} with depth "
            f"(train.layer_drop {layers:g}), {rates_N.mean():.2%} on average"
        )
    if tokens:
        lines.append(
            f"token drop: {tokens:.2%} of the tokens skip all layers but the first and the last"
        )
    if lines:
        length = parts.spec.data.length
        per_token = size.flops_per_token(model, length)
        share = dropping.skippable_flops_per_token(model, length, layers, tokens) / per_token
        lines.append(
            f"dropped: {share * flops:.3g} of the FLOPs ({share:.2%}) are of what is dropped; they "
            "are spent all the same, a kernel that skips would save them"
        )
    return lines


def _memory(parts: Parts) -> list[str]:
    used, platform = parts.compile_step().memory_analysis(), jax.devices()[0].platform
    sizes = " x ".join(f"{name} {count}" for name, count in parts.mesh.shape.items())
    if used is None:
        return [f"mesh: {sizes} on {platform}; memory: not known here"]
    return [
        f"mesh: {sizes} on {platform}",
        f"memory of a step on one device: {used.argument_size_in_bytes / 2**20:,.0f} MiB of state "
        f"and batch, {used.temp_size_in_bytes / 2**20:,.0f} MiB of temporaries",
    ]
