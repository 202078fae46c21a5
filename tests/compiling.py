"""Compilation in a hurry: flags of XLA that halve what small programs cost to compile on a CPU."""

import importlib.util
import mmap
from pathlib import Path

# Loops that are fused are lowered by LLVM alone, and no program is cut into parts that more
# cores than a test has would compile at once.
_WANTED = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def quickly() -> str:
    """Flags for $XLA_FLAGS: those that the installed jaxlib has, as any other ends a process."""
    library = Path(importlib.util.find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not library.exists():
        return ""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        known = [name for name in _WANTED if text.find(name.encode()) >= 0]
    return " ".join(f"--{name}={_WANTED[name]}" for name in known)
