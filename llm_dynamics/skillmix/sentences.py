"""Counting sentences by rule.

A sentence ends at `.`, `!`, `?`, `…` (or several), with the quotes and brackets that close there,
before white space or the end; so does a line that is followed by an empty one. A full stop does
not end one after an abbreviation, an initial or within a number, nor three dots before a small
letter. A quotation that ends inside a sentence ("Stop!" he cried) does not end it where a small
letter follows. What is written in small letters throughout is split all the same: "it rained. we
stayed." are two. A last sentence without a stop counts.

The published counter splits before capital letters only; texts with abbreviations or without
capitals are counted otherwise here.
"""

import re

_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st vs etc e.g i.e cf al no nos vol fig figs eq eqs sec ch pp ed eds "
    "gen col lt sgt capt rev hon inc ltd co corp dept approx ca a.m p.m u.s u.k ph.d jan feb mar "
    "apr jun jul aug sep sept oct nov dec".split()
)
_END = re.compile(r"(?P<stop>[.!?…]+)(?P<closing>[\"'”’)\]»]*)(?=\s|$)|\n\s*\n")
_INITIAL = re.compile(r"(?:^|[\s(\"“])[A-Z]$")


def split(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    found, start = [], 0
    for match in _END.finditer(text):
        if match["stop"] and not _ends(text, match):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    found.append(text[start:])
    return [sentence.strip() for sentence in found if re.search(r"\w", sentence)]


def count(text: str) -> int:
    """How many sentences a text has."""
    return len(split(text))


def _ends(text: str, match: re.Match) -> bool:
    after = text[match.end() :].lstrip()
    is_small = after[:1].islower()
    if is_small and (match["closing"] or match["stop"] == "…" or "..." in match["stop"]):
        return False
    if match["stop"] != "." or match["closing"] or not after:
        return True
    before = text[: match.start()]
    word = re.split(r"[\s(\"“]", before)[-1].casefold()
    return word not in _ABBREVIATIONS and not _INITIAL.search(before)
