"""Lists of skills out of WordNet: all that a noun's meaning has below it.

WordNet 3.0's files are read as they are (`wndb(5WN)`): index.noun names the meanings of a word,
data.noun has a line for each at the byte that its number says. `~` points to what is more special.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.skillmix.skills import Skill, checked
from llm_dynamics.spec import nearest

PLACES = ("/usr/share/wordnet", "/usr/share/wordnet/dict", "/usr/local/WordNet-3.0/dict")
_HOW = (
    "install Debian's package (`apt-get install wordnet-base`), or without root run `apt-get "
    "download wordnet-base` and `dpkg-deb -x wordnet-base_*.deb FOLDER` and give "
    "FOLDER/usr/share/wordnet"
)


def find_folder(folder: str = "") -> Path:
    """The folder with index.noun and data.noun: the given one, or where systems put it.

    Raises:
      UserError: it is not there; the message says how to get it.
    """
    places = [expanded(folder), expanded(folder) / "dict"] if folder else map(Path, PLACES)
    for place in places:
        if (place / "data.noun").is_file() and (place / "index.noun").is_file():
            return place
    where = folder or ", ".join(PLACES)
    raise UserError(f"expected WordNet's index.noun and data.noun in {where}, found none; {_HOW}")


def hyponyms(word: str, folder: str = "", sense: int = 1) -> tuple[Skill, ...]:
    """A skill for each meaning below a noun, at any depth, in the order of the files.

    The name is the first word of its synset, the definition the gloss, the example the gloss's
    first quotation. Where two meanings share a name, the later ones get another word of theirs or
    a number in brackets.

    Args:
      word: a noun, words joined by spaces or `_`, e.g. "rhetorical device".
      folder: of WordNet's files; "" = where systems put them.
      sense: which of its meanings, from 1.

    Raises:
      UserError: no WordNet, no such noun or meaning, or nothing below it.
    """
    found = find_folder(folder)
    offsets = _senses(found / "index.noun", word.strip().lower().replace(" ", "_"))
    if not 1 <= sense <= len(offsets):
        raise UserError(
            f"WordNet's noun {word!r} has {len(offsets)} meanings, asked for number {sense}"
        )
    with (found / "data.noun").open("rb") as file:
        below, todo = [], [offsets[sense - 1]]
        seen = set(todo)
        while todo:
            words, pointers, gloss = _synset(file, todo.pop(0))
            below.append((words, gloss))
            fresh = [offset for offset in pointers if offset not in seen]
            seen.update(fresh)
            todo += fresh
    return checked(_named(below[1:]), f"WordNet below {word!r}")


def _named(synsets: list[tuple[list[str], str]]) -> Iterator[Skill]:
    taken: set[str] = set()
    for words, gloss in synsets:
        free = [word for word in words if word.casefold() not in taken]
        name = free[0] if free else words[0]
        number = 2
        while name.casefold() in taken:
            name, number = f"{words[0]} ({number})", number + 1
        taken.add(name.casefold())
        yield Skill(name, *_parts(gloss))


def _parts(gloss: str) -> tuple[str, str]:
    """Definition and first example of a gloss: examples are set in "..." or `...'."""
    quoted = re.search(r"\"([^\"]+)\"?|`(.+)'", gloss)
    if not quoted:
        return gloss, ""
    before = gloss[: quoted.start()]
    # Words such as "as in" before the quotation belong to it.
    before = before.rpartition(";")[0] or before
    definition = before.rstrip(" ;:,(")
    return (definition or gloss), (quoted[1] or quoted[2]).strip()


def _senses(index: Path, word: str) -> list[int]:
    """Byte offsets of the meanings of a noun, most frequent first."""
    words = []
    for line in index.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):
            continue
        name, _, rest = line.partition(" ")
        if name == word:
            return [int(field) for field in re.findall(r"(?<= )\d{8}(?= |$)", rest)]
        words.append(name)
    hint = nearest(word, [w for w in words if w[:2] == word[:2]] or [word])
    raise UserError(f"WordNet has no noun {word!r}; {hint}")


def _synset(file, offset: int) -> tuple[list[str], list[int], str]:
    """Words, offsets of what is directly below, and gloss of one line of data.noun."""
    file.seek(offset)
    line = file.readline().decode("latin-1")
    fields, _, gloss = line.partition(" | ")
    fields = fields.split()
    if not fields or fields[0] != f"{offset:08d}":
        raise UserError(f"WordNet's data.noun is damaged at byte {offset}; {_HOW}")
    count = int(fields[3], 16)
    words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    start = 5 + 2 * count
    pointers = [fields[i : i + 4] for i in range(start, start + 4 * int(fields[start - 1]), 4)]
    return words, [int(p[1]) for p in pointers if p[0] == "~" and p[2] == "n"], gloss.strip()
