"""Our own words: adjectives and nouns for keys and prose, and an endless supply of invented words and names."""

import random
import re
import uuid
from collections.abc import Iterator
from itertools import product

from fp_bench.errors import UsageError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
    able acid agile airy alert amber ample ancient apt arid ashen avid awake azure balmy bare bland blank bleak
    blond blunt bold boxy brash brave brief bright brisk broad bronze brown bumpy burly bushy calm candid casual
    cheery chief chilly civil clean clear clever close cloudy coarse cold comic common cool copper coral cosmic cosy
    crisp cubic curly curved daily damp dapper daring dark deep dense devout dim direct distant dizzy double drab
    dreamy dry dull dusky dusty dutiful eager early earnest earthy east easy elder empty entire even exact faded
    faint fair famous fancy fast fertile festive few fierce final fine firm first fit flat fleet floral fluent
    fluffy foggy fond formal fragile frank free fresh frosty frugal full funny gaudy gentle giant giddy gifted glad
    glassy global glossy golden good grand grassy grave great green grim gritty gruff handy happy hardy hasty hazel
    hazy heavy hidden high hilly hollow humble hungry husky icy idle immense indigo inner ivory jade jolly
    jovial joyful juicy keen kind known lanky large lasting late lavish lazy leafy lean learned level light likely
    lilac limber little lively local lofty lone long loose loud loyal lucid lucky lunar lush major maroon mature
    mellow merry mighty mild milky minor misty modern modest moist moral mossy muddy mural musical mute narrow
    native neat nimble noble noisy north novel oaken oblong odd old olive open orange orderly outer oval pale
    patient placid plain plucky plump polar polite proper proud prudent pure purple quaint quick quiet rapid rare
    ready regal remote rich ripe robust rocky rosy rough round royal ruddy rural rustic rusty sacred sage salty
    sandy scarlet secret serene sharp shiny short shy silent silky silver simple sincere sleek slender slim slow
    small smart smoky smooth snowy sober soft solar solemn solid sound south spare speedy spicy spry square stable
    stark steady steep sterling still stocky stout strict strong sturdy subtle sunny supple sure sweet swift tall
    tame tart tawny teal tender tepid terse thick thin tidy timid tiny topaz tough tranquil trim true trusty twin
    upper urban useful vague vast velvet verbal vital vivid warm wary watery west wet whole wide wild willing windy
    winter wise witty wooden woolly worthy young zealous
""")
NOUNS = _words("""
    abbey acorn acre actor album alcove alder alley almond anchor angle anvil apple apron arbor arcade arch archer
    arena armor arrow atlas attic autumn avenue axis axle badge bakery ballad balloon bamboo banjo banner barge
    barley barn barrel basin basket beach beacon beaver bell bench berry bicycle birch bishop blanket blossom bonnet
    border bottle boulder bouquet branch brick bridge brook broom bucket buckle buffalo bugle bundle burrow butcher
    button cabbage cabin cable cactus camel camera camp canal candle canoe canvas canyon captain caravan carpet
    carriage cart castle cavern cedar cellar chalk chapel chariot cherry chest chimney cinema circle citadel
    clarinet cliff clock cloth cloud clover coast cobbler coffee column comet compass cone copse cottage cotton
    cradle crane crater creek crescent cricket crown crystal curtain cushion cypress daisy dam dancer desert diamond
    dinner dock dolphin donkey door dragon drawer drum duchess dune eagle easel echo elbow elm ember emerald engine
    envelope estuary fable factory falcon farm feather fence fern ferry fiddle field finch fjord flag flask flint
    flock flute forest forge fort fountain fox frame galaxy galley garden garnet gate gazette geyser ginger glacier
    globe glove goblet gondola gorge grain granary grape gravel grotto grove guitar gull hamlet hammer hammock
    harbor harp harvest hatch haven hawk hazelnut heather hedge helmet herald heron hill hinge hive honey horizon
    horn hostel hut iceberg inlet inn island ivy jacket jar jasmine jetty jewel jungle juniper kettle key kiln
    kingdom kite kitchen ladder lagoon lake lamp lantern lark lattice lawn ledge lemon lens letter library
    lighthouse lily lion lock loft loom lotus lounge magnet magpie mallet manor maple marble market marsh mast
    meadow medal melon merchant meteor mill mine mirror moat monk moon mosaic moth mountain museum napkin nest
    nettle nightingale notebook nut oak oar oasis obelisk ocean onion opal orchard orchid organ otter outpost oven
    owl oyster packet paddle painter palace palm panther parade parcel park parlor pasture path pavilion peach pearl
    pebble pelican pencil pepper piano picture pier pigeon pillar pillow pilot pine pistol planet plateau plaza plow
    pocket poet pond poplar porch port prairie prism pulley puzzle quarry quill quilt rabbit radish raft ranch raven
    reef ribbon ridge river road robin rocket roof rope rose rudder saddle sail salmon satchel scarf school scroll
    sculptor seed shadow shed shelf shell shepherd shield shore shovel signal silo slope smith spade sparrow spire
    spoon spring spruce stable stadium staircase statue steeple stone stork stove stream street studio summit sunset
    swallow swan table tailor tavern teapot temple tent terrace theater thicket thimble thistle throne thunder tide
    tiger timber toaster torch tower trail train tram trumpet tulip tunnel turbine turnip turret umbrella valley
    vase vault veranda viaduct village vine violet violin volcano voyage wagon walnut waterfall wharf wheat wheel
    whistle willow window windmill wolf workshop wreath yacht yard zebra
""")
JOBS = _words("""
    baker barber beekeeper blacksmith bookbinder botanist brewer bricklayer carpenter cartographer chemist
    clockmaker coachman cobbler cook cooper dancer dentist diver doctor engraver farmer fisher florist gardener
    glassblower goldsmith grocer harpist innkeeper jeweller joiner judge librarian locksmith mason miller miner
    nurse optician painter pharmacist pianist pilot plumber porter potter printer roofer saddler sailor sculptor
    shepherd singer surveyor tailor tanner teacher thatcher translator upholsterer watchmaker weaver welder writer
""")
ANIMALS = _words("cat dog donkey ferret goat goose horse mule otter parrot pony rabbit raven terrier tortoise")
FIRST_NAMES = _words("""
    Adela Agnes Albin Alma Anders Anselm Arlo Astrid Aurel Beatrix Benno Bertil Bruna Camilla Casper Cecily Clemens
    Cora Cosima Dagmar Dario Delia Edda Edgar Elias Elvira Emil Enid Esther Fabian Felix Flora Franka Gerda Gideon
    Greta Gustav Hanno Hedwig Hugo Ida Ignaz Ilse Ingrid Irma Isidor Ivo Jasper Joris Judith Jutta Karla Kaspar
    Klara Konrad Lambert Lars Leonie Linus Lorenz Lucia Magda Malte Marius Martha Matthis Merle Minna Moritz Nadja
    Nelly Nils Olga Ortrud Oskar Otto Paula Petra Quirin Ralf Regina Rieke Roland Rosa Rufus Sabina Selma Sigrid
    Silas Svea Tilda Tilo Ulla Ursula Valentin Vera Viktor Wanda Wenzel Wilma Xenia Yorick Yvo Zita
""")

_ARTICLE = re.compile(r"\b([Aa])(?= (?!use)[aeiou])")
_SYLLABLES = [consonant + vowel for consonant, vowel in product("bdfklmnprstvz", "aeiou")]
_COINED = len(_SYLLABLES) ** 3


def with_articles(sentence: str) -> str:
    """Return a sentence with ``an`` where ``a`` stands before a vowel."""
    return _ARTICLE.sub(r"\1n", sentence)


def keys(draw: random.Random) -> Iterator[str]:
    """Yield ``adjective-noun`` keys, each once."""
    for place in _distinct(draw, len(ADJECTIVES) * len(NOUNS), "keys"):
        yield f"{ADJECTIVES[place // len(NOUNS)]}-{NOUNS[place % len(NOUNS)]}"


def coined(draw: random.Random) -> Iterator[str]:
    """Yield pronounceable words of six letters, each once; because of their equal length, none contains another."""
    base = len(_SYLLABLES)
    for place in _distinct(draw, _COINED, "coined words"):
        yield _SYLLABLES[place // base**2] + _SYLLABLES[place // base % base] + _SYLLABLES[place % base]


def numbers(draw: random.Random) -> Iterator[str]:
    """Yield numbers of seven digits, each once."""
    for number in _distinct(draw, 9 * 10**6, "numbers"):
        yield str(10**6 + number)


def letters(draw: random.Random, count: int, alphabet: str) -> Iterator[str]:
    """Yield words of random letters, each once."""
    for place in _distinct(draw, len(alphabet) ** count, "words"):
        word = ""
        for _ in range(count):
            place, letter = divmod(place, len(alphabet))
            word += alphabet[letter]
        yield word


def uuids(draw: random.Random) -> Iterator[str]:
    """Yield version 4 UUIDs."""
    while True:
        yield str(uuid.UUID(int=draw.getrandbits(128), version=4))


def _distinct(draw: random.Random, size: int, what: str) -> Iterator[int]:
    """Yield the numbers below a size in random order, each once.

    Raises:
        UsageError: all have been drawn.
    """
    seen: set[int] = set()
    while len(seen) < size:
        number = draw.randrange(size)
        if number not in seen:
            seen.add(number)
            yield number
    raise UsageError(f"ruler: a prompt needs more than the {size} {what} there are; ask for a shorter length")
