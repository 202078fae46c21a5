"""Checkpoints of any kind as one series: run folders, folders of theirs, .gguf files, revisions."""

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_dynamics import spec as specs
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.hub import revisions
from llm_dynamics.hub.families import Family, read_config
from llm_dynamics.hub.folder import CONFIG
from llm_dynamics.hub.reading import Source, check, open_source, read_params
from llm_dynamics.hub.tokenizer_files import found_words
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.train.finished import FinishedRun, finished_run
from llm_dynamics.train.run_folder import read_spec
from llm_dynamics.train.series import Member, checkpoints, refuse_twice

# The number of updates at the end of a name, with what OLMo says of tokens behind it.
_STEP = re.compile(
    r"(?:(?P<rest>.*?)[-_.])?(?:global[-_]?)?(?:step|checkpoint|ckpt|iter|update)s?[-_=]?"
    r"(?P<step>\d{1,15})(?:-tokens(?P<billions>\d{1,6})B)?",
    re.IGNORECASE,
)
_COMPUTED = ("attention", "remat", "scan_unroll", "loss_chunk")
_KINDS = (
    "a run folder, a folder with config.json and safetensors, a .gguf file, a pattern of these in "
    "quotes, or REPO@REVISION of the hub's cache"
)


@dataclasses.dataclass(frozen=True)
class HubCheckpoint:
    """A `train.series.Checkpoint` that is read as it lies; its tensors were checked by name."""

    run: str
    source: Source
    family: Family
    config: ModelConfig
    tokenizer: Tokenizer
    step: int = 0  # not known here
    tokens: int = 0

    @property
    def identity(self) -> str:
        tensors = {n: [t.dtype, list(t.shape)] for n, t in sorted(self.source.tensors.items())}
        weights = {str(tensor.file) for tensor in self.source.tensors.values()}
        return specs.fingerprint([self.source.fields, tensors, sorted(map(_written, weights))])

    def check(self) -> None:
        check(self.source, self.family, self.config)

    def params(self) -> Any:
        return read_params(self.source, self.family, self.config, None)


def open_members(
    given: Sequence[str | Path],
    steps: Sequence[int] = (),
    tokenizer: str = "",
    ignore: Iterable[str] = (),
) -> list[Member]:
    """The checkpoints of a list, in its order; no parameters are read.

    A run folder gives all its checkpoints, everything else one. Its step is the number at the end
    of its name (step1000, checkpoint-500); what the name says before it names the series.

    Args:
      given: run folders, folders of models, .gguf files, patterns of these, REPO@REVISION.
      steps: of every run folder, and of other members whose names say theirs; none = all.
      tokenizer: in place of those found, see `tokenizer_files.found_words`; also gpt2 or bytes.
      ignore: fields of a config.json that are harmless though they are not known to be.

    Raises:
      UserError: what cannot be opened.
    """
    if not given:
        raise UserError(f"expected at least one checkpoint, got none; name {_KINDS}")
    refuse_twice((), steps)
    found: list[Member] = []
    runs, shared = [], {}
    for word in _all(given):
        path = expanded(word)
        if os.path.exists(path / "spec.json"):
            run = finished_run(path, tokenizer)
            runs.append(run.name)
            found += _imported(path, run) or _own(run, steps)
        elif os.path.isdir(path) and not os.path.lexists(path / CONFIG):
            raise UserError(
                f"expected {_KINDS}, got {word}, a folder with neither spec.json nor {CONFIG}"
            )
        elif os.path.isdir(path) or word.endswith(".gguf"):
            folder = path.absolute()
            name, above = folder.name.removesuffix(".gguf"), folder.parent.name
            found.append(_hub(folder, name, above, tokenizer, ignore))
        elif named := revisions.parted(word):
            found.append(_revision(*named, tokenizer, ignore))
        else:
            raise UserError(f"expected {_KINDS}, got {word}; check the path")
    refuse_twice(runs, ())
    found = _at_steps(found, steps)
    return [_sharing(member, shared) for member in found]


def open_series(
    given: Sequence[str | Path],
    at: Sequence[int] = (),
    steps: Sequence[int] = (),
    tokenizer: str = "",
    tokens_per_step: int = 0,
    ignore: Iterable[str] = (),
) -> list[Member]:
    """One series, sorted by step: one model at several moments, and everything of it checked.

    Args:
      given: see `open_members`.
      at: the step of each, where names do not say it or say it wrongly; none = as they say.
      steps: that are wanted, as `at` counts them where it is given; none = all.
      tokenizer: see `open_members`.
      tokens_per_step: of those whose tokens no run folder says; 0 = not known.
      ignore: see `open_members`.

    Raises:
      UserError: see `open_members`; a step that is not known, twice there or not there, or members
        of other models or tokenizers.
    """
    refuse_twice((), steps)
    found = open_members(given, (), tokenizer, ignore)
    found = _at_steps(_at(found, at) if at else found, steps)
    if unknown := [m for m in found if not m.is_placed]:
        raise UserError(
            f"expected the step at the end of the name of {unknown[0].run} (step1000, "
            f"checkpoint-500), got none ({len(unknown)} such); give the steps of all checkpoints, "
            "in their order, by --at=1000,2000"
        )
    found.sort(key=lambda member: member.step)
    for one, other in itertools.pairwise(found):
        if one.step == other.step:
            raise UserError(
                f"expected every step once, got two checkpoints of step {one.step} ({one.run} and "
                f"{other.run}); leave one out, or tell their steps by --at"
            )
    for member in found[1:]:
        _refuse_another(found[0], member)
    return [_counted(member, tokens_per_step) for member in found]


def refuse_same(members: Sequence[Member]) -> None:
    """Refuses two checkpoints of one run and step.

    Raises:
      UserError: there are such.
    """
    seen: dict[tuple[str, int], Member] = {}
    for member in members:
        place = (member.run, member.step)
        if place in seen:
            raise UserError(
                f"expected every checkpoint once, got {member.of.run} and {seen[place].of.run}, "
                f"both {member.run}, step {member.step}; leave one out or rename one"
            )
        seen[place] = member


def _all(given: Sequence[str | Path]) -> list[str]:
    """The list with its patterns written out."""
    found = []
    for word in map(str, given):
        _refuse_long(word)
        if not glob.has_magic(word) or expanded(word).exists():
            found.append(word)
            continue
        paths = sorted(glob.glob(str(expanded(word))), key=_natural)
        matches = [p for p in paths if Path(p).is_dir() or p.endswith(".gguf")]
        if not matches and (named := revisions.parted(word)):
            repo, pattern = named
            names = sorted(revisions.matching(repo, pattern), key=_natural)
            matches = [f"{repo}@{name}" for name in names]
        if not matches:
            raise UserError(f"the pattern {word} matches no folder; expected {_KINDS}")
        found += matches
    return found


def _refuse_long(word: str) -> None:
    try:
        expanded(word).exists()
    except OSError as error:
        raise UserError(
            f"expected {_KINDS}, got {word[:40]}... of {len(word)} characters: {error.strerror}"
        ) from None


def _hub(
    folder: Path, name: str, above: str, tokenizer: str, ignore: Iterable[str], revision: str = ""
) -> Member:
    source = open_source(folder)
    family, config = read_config(source.fields, source.where, ignore)
    check(source, family, config)
    if tokenizer in ("gpt2", "bytes"):
        words = load_tokenizer(tokenizer, None, cache_folder())
        check_vocabulary(words, config.vocab_size)
    else:
        with found_words(source, tokenizer, config.vocab_size) as files:
            words = files.tokenizer
    checkpoint = HubCheckpoint(revision or str(folder), source, family, config, words)
    return _placed(checkpoint, name, above)


def _revision(repo: str, revision: str, tokenizer: str, ignore: Iterable[str]) -> Member:
    folder = revisions.snapshot(repo, revision)
    try:
        model = repo.rpartition("/")[2]
        name = f"{model}-{revision.replace('/', '-')}"
        return _hub(folder, name, model, tokenizer, ignore, f"{repo}@{revision}")
    except UserError as error:
        raise UserError(
            f"{repo}@{revision}: {error} (if it was not fetched whole: "
            f"`{revisions.fetching(repo, revision)}`)"
        ) from None


def _own(run: FinishedRun, steps: Sequence[int]) -> list[Member]:
    return [Member(c, c.run, c.step, c.tokens) for c in checkpoints([run], steps)]


def _imported(path: Path, run: FinishedRun) -> list[Member]:
    """An imported run, whose record says step 0 whatever was read; [] = it is none."""
    if len(run.steps) != 1 or "imported" not in read_spec(path / "spec.json")["data"]:
        return []
    folder = path.absolute()
    return [_placed(checkpoints([run])[0], folder.name, folder.parent.name)]


def _placed(checkpoint: Any, name: str, above: str) -> Member:
    """A member by what a name says; `above` names the series where that is the step alone."""
    if re.fullmatch(r"\d{1,15}", name):
        return Member(checkpoint, above, int(name), 0)
    said = _STEP.fullmatch(name)
    if not said:
        return Member(checkpoint, name, 0, 0, is_placed=False)
    tokens = int(said["billions"] or 0) * 10**9
    return Member(checkpoint, said["rest"] or above, int(said["step"]), tokens)


def _at_steps(found: Sequence[Member], steps: Sequence[int]) -> list[Member]:
    """Those of some steps, and those whose step nothing says."""
    known = {member.step for member in found if member.is_placed}
    if lost := [step for step in steps if step not in known]:
        there = f"there are {', '.join(map(str, sorted(known)))}"
        raise UserError(
            f"no checkpoint of step {lost[0]}; {there if known else 'no name says its step'}"
        )
    return [m for m in found if not steps or not m.is_placed or m.step in steps]


def _at(found: Sequence[Member], at: Sequence[int]) -> list[Member]:
    if not len(at) == len(set(at)) == len(found) or min(at) < 0:
        raise UserError(
            f"expected as many different numbers in --at as checkpoints, got {len(at)} numbers and "
            f"{len(found)} checkpoints ({', '.join(m.of.run for m in found[:3])} ...)"
        )
    return [
        dataclasses.replace(
            m, step=step, is_placed=True, tokens=m.tokens if m.step == step else 0
        )
        for m, step in zip(found, at, strict=True)
    ]  # fmt: skip


def _counted(member: Member, tokens_per_step: int) -> Member:
    own = not isinstance(member.of, HubCheckpoint) and member.tokens
    if own or not tokens_per_step:
        return member
    return dataclasses.replace(member, tokens=member.step * tokens_per_step)


def _sharing(member: Member, shared: dict[str, Tokenizer]) -> Member:
    """The member with a tokenizer that others have, too: many of them take much memory."""
    if not isinstance(member.of, HubCheckpoint):
        return member
    words = shared.setdefault(member.tokenizer.fingerprint, member.tokenizer)
    return dataclasses.replace(member, of=dataclasses.replace(member.of, tokenizer=words))


def _refuse_another(first: Member, other: Member) -> None:
    """Refuses what would make a difference of two rows that is none of training."""
    names = f"step {first.step} ({first.of.run}) -> step {other.step} ({other.of.run})"
    one, two = first.tokenizer, other.tokenizer
    if one.fingerprint != two.fingerprint:
        raise UserError(
            f"expected one tokenizer for a whole series, as other tokens are other questions; "
            f"{names}: {one.vocab_size} -> {two.vocab_size} ids, end of document {one.eos_id} -> "
            f"{two.eos_id}, {one.fingerprint} -> {two.fingerprint}; give one for all by --tokenizer"
        )
    models = [{"model": _architecture(member.config)} for member in (first, other)]
    if changes := specs.difference(*models):
        raise UserError(
            f"expected one model for a whole series, as its changes are to be those of training; "
            f"{names}: {'; '.join(changes)}; ask the others in a series of their own"
        )


def _architecture(config: ModelConfig) -> dict[str, Any]:
    """What is the same at every moment of a training."""
    free = (*_COMPUTED, "max_length") if config.position == "rotary" else _COMPUTED
    return {k: v for k, v in specs.to_json(config).items() if k not in free}


def _written(path: str) -> str:
    """Tells a file of weights from all others: by what it holds in the cache, else by its date."""
    real = Path(path).resolve()
    if real.parent.name == "blobs":
        return real.name
    return f"{Path(path).name} {real.stat().st_size} {real.stat().st_mtime_ns}"


def _natural(text: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
