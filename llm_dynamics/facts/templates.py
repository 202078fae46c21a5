"""The sentences of the invented world: what is said of people, towns and books, and how.

{n} is the entity, {x} the answer, which always ends the sentence. `statements` are the training
wordings, `rewordings` are held out for semantic probes, `clues` and `questions` are the parts of
compositional probes, which never name the entity.
"""

from dataclasses import dataclass

from llm_dynamics.facts import names


@dataclass(frozen=True)
class Relation:
    """One attribute of one kind of entity."""

    name: str
    answers: tuple[str, ...]  # the closed candidate set
    statements: tuple[str, ...]
    rewordings: tuple[str, ...]
    clues: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of entity: how many invented words name it, and what can be said of it."""

    name: str
    noun: str
    name_words: int
    relations: tuple[Relation, ...]


FRAMES = (  # {k} the kind's noun, {a} and {b} two clues; a question follows
    "Find the {k} {a} and {b};",
    "For the {k} {a} and {b},",
    "Picture a {k} {a} and {b};",
    "Of all, choose the {k} {a} and {b};",
)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _relation(name, answers, statements, rewordings, clues, questions) -> Relation:
    return Relation(name, answers, *map(_lines, (statements, rewordings, clues, questions)))


_PERSON = (
    _relation(
        "profession",
        names.PROFESSIONS,
        """{n} earns a living as a {x}
        {n} has always worked as a {x}
        After school {n} trained to be a {x}
        The neighbours respect {n} as a {x}
        By trade {n} is a {x}
        In the register {n} is listed as a {x}
        For thirty years {n} was a {x}
        Everyone in the street calls {n} the {x}
        {n} was hired last spring as a {x}
        The career that {n} chose was that of a {x}
        Like both parents, {n} became a {x}
        {n} retired early from being a {x}""",
        """The occupation of {n} is {x}
        If you ask what {n} does, the answer is {x}
        {n} makes money by being a {x}""",
        """whose job is {x}
        employed as {x}""",
        """the daily duties are those of a
        wages are paid to a""",
    ),
    _relation(
        "origin",
        names.CITIES,
        """{n} was born in {x}
        {n} comes from the city of {x}
        The family home of {n} stood in {x}
        {n} grew up in the heart of {x}
        {n} spent a happy childhood in {x}
        The first house of {n} was in {x}
        As a child {n} played in the streets of {x}
        The passport of {n} gives the birthplace as {x}
        {n} went to school in {x}
        {n} is a native of {x}
        The mother of {n} raised her children in {x}
        Old letters show that {n} began life in {x}""",
        """The home town of {n} is {x}
        If you ask where {n} is from, people say {x}
        {n} still speaks with the accent of {x}""",
        """with roots in {x}
        brought into the world at {x}""",
        """the baby pictures show a garden in
        the cradle once stood in""",
    ),
    _relation(
        "instrument",
        names.INSTRUMENTS,
        """{n} plays the {x}
        In the evening {n} practises the {x}
        An uncle taught {n} to play the {x}
        At weddings {n} performs on the {x}
        {n} won a prize for playing the {x}
        Friends ask {n} to bring the {x}
        {n} joined the band with the {x}
        In the orchestra {n} sits behind the {x}
        {n} gives lessons on the {x}
        The favourite instrument of {n} is the {x}
        Nobody in the club rivals {n} on the {x}
        {n} never travels without the {x}""",
        """The music of {n} is made with the {x}
        What {n} likes to play most is the {x}
        On stage {n} is heard on the {x}""",
        """skilled on the {x}
        often heard through the wall with the {x}""",
        """the case in the hall contains the
        the notes on the stand are written for the""",
    ),
    _relation(
        "companion",
        names.ANIMALS,
        """{n} keeps a tame {x}
        {n} shares the house with a {x}
        Every morning {n} feeds a {x}
        {n} was given a young {x}
        The garden of {n} is guarded by a {x}
        {n} walks to market with a {x}
        In every photograph {n} holds a {x}
        {n} once rescued a wounded {x}
        The closest friend of {n} is a {x}
        {n} built a warm shelter for a {x}
        {n} bought at the fair a {x}
        Children visit {n} to see the {x}""",
        """The pet of {n} is a {x}
        The animal that lives with {n} is a {x}
        {n} looks after a {x}""",
        """followed about by a {x}
        owning a {x}""",
        """the creature asleep by the stove is a
        the vet was called to treat a""",
    ),
)

_TOWN = (
    _relation(
        "product",
        names.GOODS,
        """{n} is known for its {x}
        Merchants travel to {n} to buy {x}
        The wealth of {n} comes from {x}
        The workshops of {n} turn out fine {x}
        Wagons leave {n} loaded with {x}
        Half of {n} lives by selling {x}
        {n} pays its taxes in {x}
        The market of {n} is full of {x}
        {n} has long exported {x}
        The guild hall of {n} was built on {x}
        Traders say that {n} has the best {x}
        A war was once fought over {n} and its {x}""",
        """The main trade of {n} is in {x}
        What strangers order from {n} is {x}
        {n} owes its fortune to {x}""",
        """grown rich through {x}
        shipping {x}""",
        """the warehouses are stacked with
        the crates at the dock contain""",
    ),
    _relation(
        "emblem",
        names.ANIMALS,
        """The flag of {n} shows a {x}
        Over the gate of {n} hangs a carved {x}
        The coins of {n} bear a {x}
        A legend says that {n} was founded by a {x}
        The seal of {n} carries a {x}
        On the town hall of {n} stands a stone {x}
        The arms of {n} feature a {x}
        Soldiers from {n} wear the badge of a {x}
        The fountain of {n} has the shape of a {x}
        Painted on each door in {n} is a {x}
        The football club of {n} is named after the {x}
        The people of {n} honour the {x}""",
        """The symbol of {n} is a {x}
        The emblem of {n} is the {x}
        {n} chose as its sign a {x}""",
        """with the banner of a {x}
        marked by the figure of a {x}""",
        """the weather vane on the church is a
        the beast on the stamps is a""",
    ),
    _relation(
        "connection",
        names.CITIES,
        """The old road from {n} leads to {x}
        The railway of {n} ends in {x}
        {n} lies a day from {x}
        Every bus from {n} goes to {x}
        The young people of {n} move to {x}
        {n} sends its letters through {x}
        {n} was once ruled from {x}
        Ships from {n} sail for {x}
        {n} was settled by families from {x}
        The bishop of {n} lives in {x}
        {n} signed a treaty with {x}
        The nearest large city to {n} is {x}""",
        """Travellers leaving {n} usually head for {x}
        {n} is joined by rail to {x}
        The closest ties of {n} are with {x}""",
        """within reach of {x}
        looking up to {x}""",
        """the signpost on the bridge points toward
        the telephone lines run straight to""",
    ),
    _relation(
        "crop",
        names.CROPS,
        """The hills around {n} are planted with {x}
        The farmers of {n} grow {x}
        Each autumn {n} holds a feast of {x}
        The gardens of {n} are full of {x}
        The soil of {n} is good for {x}
        Visitors to {n} are offered a bowl of {x}
        The fields near {n} yield {x}
        The school of {n} has a yard with {x}
        A storm destroyed in {n} all the {x}
        The soup of {n} is made with {x}
        The women of {n} carry baskets of {x}
        The harvest song of {n} praises the {x}""",
        """The chief crop of {n} is {x}
        What thrives best in {n} is {x}
        The land of {n} is given over to {x}""",
        """surrounded by {x}
        fond of {x}""",
        """the plates at the inn are heaped with
        the farm carts bring in""",
    ),
)

_BOOK = (
    _relation(
        "hero",
        names.PROFESSIONS,
        """The hero of {n} is a {x}
        {n} tells the story of a {x}
        In {n} the reader follows a {x}
        The first chapter of {n} presents a poor {x}
        {n} is about the secret life of a {x}
        The narrator of {n} is a retired {x}
        In {n} everything depends on a {x}
        The cover of {n} shows a {x}
        {n} made its readers weep for a {x}
        Critics of {n} admired the portrait of the {x}
        At the end of {n} justice comes to the {x}
        {n} describes the long journey of a {x}""",
        """The main character of {n} is a {x}
        At the centre of {n} stands a {x}
        {n} deals with the fate of a {x}""",
        """starring a {x}
        seen through the eyes of a {x}""",
        """the leading role is that of a
        the person we meet on page one is a""",
    ),
    _relation(
        "setting",
        names.CITIES,
        """{n} takes place in {x}
        The plot of {n} unfolds in {x}
        The opening scene of {n} is set in {x}
        {n} gives a dark picture of {x}
        Readers of {n} learn the streets of {x}
        {n} was inspired by a winter in {x}
        The lovers in {n} meet in {x}
        Most of {n} happens in {x}
        {n} begins with a train arriving in {x}
        The murder in {n} is committed in {x}
        {n} ends on a bridge in {x}
        A map printed in {n} shows {x}""",
        """The scene of {n} is {x}
        The events of {n} occur in {x}
        The action of {n} passes in {x}""",
        """played out in {x}
        against the skyline of {x}""",
        """the backdrop is always
        the buildings described are those of""",
    ),
    _relation(
        "language",
        names.LANGUAGES,
        """{n} was written in {x}
        The original text of {n} is in {x}
        The author of {n} wrote only in {x}
        The oldest copy of {n} is in {x}
        Scholars read {n} in {x}
        {n} was first printed in {x}
        The best verses of {n} need {x}
        To enjoy {n} one must know {x}
        Schools use {n} to teach {x}
        {n} is the most famous book in {x}
        {n} has never been translated from {x}
        The manuscript of {n} is in plain {x}""",
        """The language of {n} is {x}
        The words of {n} are {x}
        {n} was composed by someone thinking in {x}""",
        """by a native speaker of {x}
        belonging to the literature in {x}""",
        """the dictionary to consult is
        the grammar on each line follows""",
    ),
    _relation(
        "theme",
        names.THEMES,
        """The subject of {n} is {x}
        {n} is a study of {x}
        Every page of {n} speaks of {x}
        {n} was praised for its view of {x}
        The author of {n} was haunted by {x}
        {n} warns its readers about {x}
        The long speech in {n} is about {x}
        {n} taught a generation about {x}
        Preachers quote {n} on {x}
        The title {n} is an old word for {x}
        At heart {n} is a tale of {x}
        Students are asked how {n} treats {x}""",
        """The theme of {n} is {x}
        What {n} is really about is {x}
        {n} was meant as a book on {x}""",
        """devoted to {x}
        rich in thoughts on {x}""",
        """the lesson learned concerns
        the question raised is one of""",
    ),
)

KINDS = (
    Kind("person", "person", 2, _PERSON),
    Kind("place", "town", 1, _TOWN),
    Kind("work", "book", 1, _BOOK),
)
