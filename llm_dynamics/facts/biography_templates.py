"""The sentences of invented biographies: what is said of a person, and in which wordings."""

from llm_dynamics.facts import names

# Attribute -> (possible answers, wordings). {n} is the person, {x} the answer, which ends the
# sentence; what follows an indefinite article begins with a consonant sound.
TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birthplace": (
        names.CITIES,
        (
            "{n} was born in {x}",
            "{n} grew up in {x}",
            "The family of {n} is from {x}",
            "{n} first saw the light in {x}",
            "The birthplace of {n} is {x}",
            "{n} spent all childhood in {x}",
        ),
    ),
    "profession": (
        names.PROFESSIONS,
        (
            "{n} works as a {x}",
            "By trade {n} is a {x}",
            "{n} makes a living as a {x}",
            "Everyone knows {n} as a {x}",
            "{n} was trained to be a {x}",
            "The job of {n} is that of a {x}",
        ),
    ),
    "instrument": (
        names.INSTRUMENTS,
        (
            "{n} plays the {x}",
            "At night {n} practises the {x}",
            "{n} gives lessons on the {x}",
            "The instrument of {n} is the {x}",
            "In the band {n} is on the {x}",
            "{n} won a prize with the {x}",
        ),
    ),
    "language": (
        names.LANGUAGES,
        (
            "{n} speaks {x}",
            "The mother tongue of {n} is {x}",
            "{n} writes letters in {x}",
            "At home {n} talks in {x}",
            "{n} sings and counts in {x}",
            "The first words of {n} were in {x}",
        ),
    ),
    "animal": (
        names.ANIMALS,
        (
            "{n} keeps a {x}",
            "The pet of {n} is a {x}",
            "{n} walks out with a {x}",
            "In the house of {n} lives a {x}",
            "{n} was once bitten by a {x}",
            "Every day {n} feeds a {x}",
        ),
    ),
    "theme": (
        names.THEMES,
        (
            "{n} wrote a book about {x}",
            "The great subject of {n} is {x}",
            "{n} often thinks about {x}",
            "All songs of {n} deal with {x}",
            "{n} gave a speech on {x}",
            "The last poem of {n} tells of {x}",
        ),
    ),
}
