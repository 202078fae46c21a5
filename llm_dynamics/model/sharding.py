"""Where things live: mesh axes (data, fsdp, tensor) for the logical axes of the model.

The model names logical axes only; this is the one file that names mesh axes.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_dynamics.errors import UserError
from llm_dynamics.model.build import Model, build_model
from llm_dynamics.model.config import ModelConfig

AXES = ("data", "fsdp", "tensor")

RULES = (
    ("batch", ("data", "fsdp")),
    ("length", None),
    ("positions", None),
    ("layers", None),
    ("embed", "fsdp"),
    ("query_heads", "tensor"),
    ("key_heads", "tensor"),
    ("value_heads", "tensor"),
    ("attended_heads", "tensor"),  # what the output map reads: a head of values for every query
    ("query_dim", None),
    ("key_dim", None),
    ("value_dim", None),
    ("attended_dim", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("transform", None),
    ("patch", None),
    ("classes", None),
)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `devices` (default: all); at most one size may be -1, "what is left".

    Raises:
      UserError: sizes that do not use every device exactly once.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(
            f"a mesh expects positive sizes and at most one -1, got data={data}, fsdp={fsdp}, "
            f"tensor={tensor}"
        )
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"a mesh of data={data}, fsdp={fsdp}, tensor={tensor} does not fit {len(devices)} "
            "device(s); choose sizes whose product is the number of devices"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def check_mesh(config: ModelConfig, mesh: Mesh, batch_size: int) -> None:
    """Refuses a mesh that does not divide the model or the batch.

    Raises:
      UserError: names the size, the mesh axis, and sizes that would work.
    """
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    for name, size, axis, parts in (
        ("num_heads", config.num_heads, "tensor", mesh.shape["tensor"]),
        ("num_kv_heads", config.kv_heads, "tensor", mesh.shape["tensor"]),
        ("mlp_width", config.mlp_width, "tensor", mesh.shape["tensor"]),
        ("vocab_size", config.vocab_size, "tensor", mesh.shape["tensor"]),
        ("width", config.width, "fsdp", mesh.shape["fsdp"]),
        ("batch size", batch_size, "data x fsdp", rows),
    ):
        if size % parts:
            raise UserError(
                f"{name} {size} cannot be split over {parts} devices (mesh axis {axis}); "
                f"use {name} {size // parts * parts + parts} or an axis size that divides {size}"
            )


@contextlib.contextmanager
def activate(mesh: Mesh) -> Iterator[None]:
    """While active, the logical constraints inside the model bind to `mesh`; trace under it."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def abstract_params(decoder: Model):
    """Shapes and dtypes of the parameters; nothing is allocated."""
    return nn.unbox(jax.eval_shape(decoder.new_params, jax.random.key(0)))


def param_shardings(decoder: Model, mesh: Mesh):
    """A NamedSharding for every parameter, from the logical names of its axes."""
    boxed = jax.eval_shape(decoder.new_params, jax.random.key(0))
    specs = nn.get_partition_spec(boxed)
    return nn.logical_to_mesh_sharding(specs, mesh, RULES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp; for every array of a Batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def init_params(decoder: Model, seed: int, mesh: Mesh):
    """Fresh parameters, born sharded: no device ever holds more than its part.

    Plain nested dictionaries of float32. The values depend on the seed alone, bit for bit, and
    not on the mesh.
    """

    rolled = build_model(dataclasses.replace(decoder.config, scan_unroll=1))

    def new(key: jax.Array):
        return nn.unbox(rolled.new_params(key))

    # Runs once, and on CPU LLVM takes longer to optimise it than it takes to run.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    shardings = param_shardings(decoder, mesh)
    return jax.jit(new, out_shardings=shardings, compiler_options=options)(jax.random.key(seed))
