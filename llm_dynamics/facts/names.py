"""The closed sets of answers, and the syllables from which unknown names are made.

Every answer of a set that follows an indefinite article begins with a consonant sound, so that
"a" is always right and gives nothing away.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROFESSIONS = _words(
    """weaver baker farmer sailor teacher doctor lawyer painter singer dancer potter miller mason
    carpenter tailor barber butcher brewer printer writer poet judge nurse pilot soldier priest
    banker cook gardener hunter fisherman shepherd blacksmith jeweller librarian chemist botanist
    surgeon merchant driver"""
)
CITIES = _words(
    """London Paris Rome Vienna Madrid Lisbon Dublin Oslo Berlin Prague Athens Cairo Delhi Tokyo
    Boston Chicago Dallas Denver Houston Toronto Sydney Moscow Warsaw Venice Milan Naples Geneva
    Zurich Munich Hamburg Cologne Brussels Amsterdam Copenhagen Stockholm Helsinki Budapest
    Belgrade Sofia Istanbul Jerusalem Baghdad Bombay Calcutta Shanghai Singapore Manila Havana
    Lima Santiago Melbourne Edinburgh Glasgow Manchester Liverpool Oxford Cambridge Florence
    Barcelona Philadelphia"""
)
INSTRUMENTS = _words(
    """piano violin harp flute guitar drum trumpet organ cello horn lute banjo clarinet bassoon oboe
    fiddle harmonica mandolin trombone accordion tuba viola bell whistle"""
)
ANIMALS = _words(
    """dog cat horse goat sheep pig cow goose duck hen rabbit fox wolf bear lion tiger deer monkey
    parrot hawk falcon raven crow dove swan snake lizard turtle frog bee butterfly donkey camel
    mule squirrel rat mouse bat whale salmon"""
)
GOODS = _words(
    """salt wool silk glass paper iron copper coal timber marble honey wine cheese leather cotton
    linen rope bricks candles soap clocks boots knives bells pottery lace butter barrels beer tin
    silver sugar wheat barley nails carpets"""
)
CROPS = _words(
    """apples pears plums cherries grapes figs olives lemons oranges peaches apricots walnuts
    almonds chestnuts berries melons dates onions carrots beans peas potatoes cabbages pumpkins
    mushrooms roses tulips herbs"""
)
LANGUAGES = _words(
    """French German Spanish Italian Latin Greek Russian Polish Dutch Danish Swedish Arabic Hebrew
    Turkish Persian Chinese Japanese Hindi Welsh Irish Hungarian Czech Portuguese Korean Finnish
    Norwegian Romanian Bengali"""
)
THEMES = _words(
    """love war money hunger death faith music revenge friendship honour memory winter silence power
    freedom justice poverty childhood marriage travel madness jealousy courage illness exile truth
    envy loyalty"""
)

ONSETS = _words("""b d f g k l m n p r s t v z br dr kr st tr th sh""")
VOWELS = tuple("aeiou")
CODAS = _words("""n r l s k m d t""")
NAME_SPACE = (len(ONSETS) * len(VOWELS)) ** 2 * len(CODAS)  # words of two syllables: 88,200
