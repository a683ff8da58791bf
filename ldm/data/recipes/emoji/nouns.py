"""English names of concepts: noun phrase, article and plural."""

import re

from ldm.data.recipes.emoji.names import TONES, Concept

_NOUNS = {
    "rolling-on-the-floor-laughing": "face rolling on the floor laughing",
    "star-struck": "star-struck face",
    "hourglass-done": "hourglass",
    "hourglass-not-done": "hourglass with flowing sand",
    "tennis": "tennis ball",
    "bowling": "bowling ball and pins",
    "cricket-game": "cricket bat and ball",
    "field-hockey": "field hockey stick and ball",
    "ice-hockey": "ice hockey stick and puck",
    "lacrosse": "lacrosse stick",
    "ping-pong": "ping pong paddle",
    "badminton": "badminton racket and shuttlecock",
    "pool-8-ball": "billiard ball",
    "american-football": "American football",
    "camping": "camping tent",
    "cooking": "fried egg in a pan",
    "horse-racing": "jockey riding a horse",
    "wedding": "wedding chapel",
    "performing-arts": "theatre masks",
    "building-construction": "construction site",
    "selfie": "hand taking a selfie",
    "moai": "moai statue",
    "hundred-points": "hundred points symbol",
    "construction": "construction barrier",
    "locked": "closed padlock",
    "unlocked": "open padlock",
    "locked-with-key": "padlock with a key",
    "locked-with-pen": "padlock with a pen",
    "headphone": "headphones",
    "foggy": "foggy city",
    "pouring-liquid": "glass pouring liquid",
    "plus": "plus sign",
    "minus": "minus sign",
    "multiply": "multiplication sign",
    "divide": "division sign",
    "infinity": "infinity sign",
    "copyright": "copyright sign",
    "registered": "registered sign",
    "trade-mark": "trade mark sign",
    "information": "information sign",
    "no-entry": "no entry sign",
    "prohibited": "prohibited sign",
    "no-smoking": "no smoking sign",
    "no-littering": "no littering sign",
    "no-bicycles": "no bicycles sign",
    "no-pedestrians": "no pedestrians sign",
    "no-mobile-phones": "no mobile phones sign",
    "no-one-under-eighteen": "no one under eighteen sign",
    "non-potable-water": "non-potable water sign",
    "potable-water": "potable water sign",
    "children-crossing": "children crossing sign",
    "radioactive": "radioactive sign",
    "biohazard": "biohazard sign",
    "warning": "warning sign",
    "passport-control": "passport control sign",
    "customs": "customs sign",
    "baggage-claim": "baggage claim sign",
    "left-luggage": "left luggage sign",
    "restroom": "restroom sign",
    "mens-room": "men's room sign",
    "womens-room": "women's room sign",
    "water-closet": "water closet sign",
    "om": "om symbol",
    "khanda": "khanda symbol",
    "dashing-away": "dashing cloud",
    "collision": "collision burst",
    "dizzy": "dizzy star",
    "zzz": "ZZZ sleep symbol",
    "e-mail": "e-mail symbol",
    "chart-increasing": "rising chart",
    "chart-decreasing": "falling chart",
    "chart-increasing-with-yen": "rising chart with a yen sign",
    "high-voltage": "lightning bolt",
    "hot-springs": "hot springs symbol",
    "1st-place-medal": "first place medal",
    "2nd-place-medal": "second place medal",
    "3rd-place-medal": "third place medal",
    "breast-feeding": "woman breast-feeding a baby",
    "a-button-blood-type": "A button",
    "b-button-blood-type": "B button",
    "ab-button-blood-type": "AB button",
    "o-button-blood-type": "O button",
    "input-latin-uppercase": "latin uppercase letters button",
    "input-latin-lowercase": "latin lowercase letters button",
    "input-latin-letters": "latin letters button",
    "input-numbers": "numbers button",
    "input-symbols": "symbols button",
    "brick": "brick block",
    "sake": "bottle of sake with a cup",
    "mate": "cup of mate tea",
    "ice": "ice cube",
    "automobile": "car",
    "oncoming-automobile": "car seen from the front",
    "oncoming-bus": "bus seen from the front",
    "oncoming-taxi": "taxi seen from the front",
    "oncoming-police-car": "police car seen from the front",
    "oncoming-fist": "fist seen from the front",
    "woman-and-man-holding-hands": "woman and a man holding hands",
    "couple-with-heart": "couple with a heart",
    "kiss": "kissing couple",
    "mobile-phone-off": "mobile phone off sign",
    "vibration-mode": "vibration mode sign",
    "wireless": "wireless symbol",
    "cinema": "cinema symbol",
    "hot-beverage": "cup of hot coffee",
    "meat-on-bone": "meat on a bone",
    "beverage-box": "juice box",
    "game-die": "dice",
    "mount-fuji": "Mount Fuji",
    "tokyo-tower": "Tokyo Tower",
    "mouth": "mouth with red lips",
    "film-frames": "strip of film",
    "joker": "joker playing card",
    "mahjong-red-dragon": "mahjong tile with a red dragon",
    "diamond-suit": "red diamond card suit",
    "heart-suit": "red heart card suit",
    "spade-suit": "black spade card suit",
    "club-suit": "black club card suit",
    "currency-exchange": "currency exchange symbol",
    "link": "chain link",
    "label": "label tag",
    "speaker-low-volume": "speaker at low volume",
    "speaker-medium-volume": "speaker at medium volume",
    "speaker-high-volume": "speaker at high volume",
    "up-button": "UP! button",
    "place-of-worship": "place of worship symbol",
    "clinking-beer-mugs": "two clinking beer mugs",
    "clinking-glasses": "two clinking glasses",
    "bust-in-silhouette": "silhouette of a person",
    "busts-in-silhouette": "silhouette of two people",
    "sunset": "sunset over a city",
    "sunrise": "sunrise over the sea",
    "leafy-green": "leafy green vegetable",
    "flower-playing-cards": "flower playing card",
    "light-rail": "light rail train",
    "metro": "metro train",
}
_MASS = {
    "cooked rice", "curry rice", "bread", "baguette bread", "garlic", "broccoli", "bacon", "butter", "salt",
    "popcorn", "sushi", "spaghetti", "oden", "dango", "yarn", "soap", "fog", "fire", "shaved ice", "canned food",
    "money with wings", "dna", "coral", "wood", "custard", "fondue", "falafel", "flatbread", "stuffed flatbread",
    "ginger root", "ZZZ", "meat on a bone", "confetti", "Japanese castle town", "Santa Claus", "Mrs. Claus",
    "Mx Claus", "Mount Fuji", "Tokyo Tower", "thread", "nail polish", "luggage", "bubble tea", "litter",
    "fish cake with swirl", "playground", "dice",
}  # fmt: skip
_THE = {"Statue of Liberty", "milky way", "kaaba", "sun"}
_PLURAL = {
    "grapes", "cherries", "blueberries", "french fries", "pancakes", "peanuts", "beans", "chopsticks", "glasses",
    "sunglasses", "goggles", "jeans", "gloves", "socks", "shorts", "briefs", "thong sandals", "shopping bags",
    "prayer beads", "ballet shoes", "scissors", "maracas", "headphones", "skis", "chains", "linked paperclips",
    "hammer and pick", "crossed swords", "bubbles", "footprints", "eyes", "lungs", "fireworks", "sparkles",
    "Japanese dolls", "nesting dolls", "admission tickets", "two hearts", "revolving hearts", "sweat droplets",
    "paw prints", "heart hands", "clapping hands", "raising hands", "open hands", "palms up together", "folded hands",
    "theatre masks", "houses", "musical notes", "control knobs", "books", "bookmark tabs", "card index dividers",
    "crossed flags", "crossed fingers", "pinched fingers", "mountain cableways", "moon cakes",
    "two clinking beer mugs", "two clinking glasses", "hot springs", "antenna bars", "clockwise vertical arrows",
    "flexed biceps",
}  # fmt: skip
_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "wolf": "wolves", "leaf": "leaves", "knife": "knives", "loaf": "loaves",
    "tooth": "teeth", "foot": "feet", "fish": "fish", "sheep": "sheep", "deer": "deer", "ox": "oxen",
    "moose": "moose", "bison": "bison", "scarf": "scarves", "squid": "squid", "shrimp": "shrimp", "die": "dice",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "mosquito": "mosquitoes", "tornado": "tornadoes",
    "volcano": "volcanoes", "cactus": "cacti", "snowman": "snowmen", "blowfish": "blowfish", "jellyfish": "jellyfish",
    "buffalo": "buffaloes", "dodo": "dodos", "ice": "ice", "shelf": "shelves", "hippopotamus": "hippopotamuses",
    "octopus": "octopuses", "hibiscus": "hibiscuses",
}  # fmt: skip
_A_DESPITE_VOWEL = re.compile(r"(one|euro|ewe|European)\b|u(ni|ti|s[ae])", re.IGNORECASE)
_AN_DESPITE_CONSONANT = re.compile(r"(hour|NG\b|SOS\b|x-ray)")


def noun(concept: Concept) -> str:
    """The concept as a phrase without an article: "red apple", "man with red hair", "clock showing half past two"."""
    if concept.slug in _NOUNS:
        return _NOUNS[concept.slug]
    label = concept.label.replace("’", "'").replace("“", "").replace("”", "")
    clock = re.fullmatch(r"(\w+)(?: o'clock|-(thirty))", label)
    if clock:
        hour = clock[1]
        return f"clock showing half past {hour}" if clock[2] else f"clock showing {hour} o'clock"
    if concept.subgroup == "zodiac":
        return f"{label} zodiac sign"
    if label.startswith("keycap: "):
        key = label.removeprefix("keycap: ")
        return f"{({'#': 'hash', '*': 'asterisk'}).get(key, f'number {key}')} button"
    if label.startswith("Japanese ") and label.endswith(" button"):
        return label
    head, _, rest = label.partition(": ")
    if not rest:
        return label
    if rest == "facing right":
        return f"{head} to the right"
    if rest == "bald":
        return f"bald {head}"
    if rest == "beard":
        return f"{head} with a beard"
    if rest.endswith("hair"):
        return f"{head} with {rest}"
    members = _join([f"{_article(word)} {word}" for word in rest.split(", ")])
    return {"kiss": f"kiss between {members}", "couple with heart": f"couple with a heart, {members}"}.get(
        head, f"{head} of {members}"
    )


def is_plural(phrase: str) -> bool:
    """Whether the phrase stands in the plural: "grapes", "men wrestling"."""
    first = phrase.split()[0]
    return phrase in _PLURAL or first in {"people", "men", "women"} or phrase.endswith(("arrows", "tickets"))


def is_countable(phrase: str) -> bool:
    """Whether one can say "three ..." of it."""
    return not (is_plural(phrase) or phrase in _MASS or phrase in _THE)


def with_article(phrase: str) -> str:
    """A noun phrase with its article: "a red apple", "an owl", "grapes", "the Statue of Liberty"."""
    if is_plural(phrase) or phrase in _MASS:
        return phrase
    if phrase in _THE:
        return f"the {phrase}"
    return f"{_article(phrase)} {phrase}"


def described(adjective: str, phrase: str) -> str:
    """The phrase with an adjective before it, and an article where the phrase takes one."""
    if is_plural(phrase) or phrase in _MASS:
        return f"{adjective} {phrase}"
    return f"{_article(adjective)} {adjective} {phrase}"


def plural(phrase: str) -> str:
    """The plural of a countable phrase: its head noun changes ("cup with straw" -> "cups with straw")."""
    match = re.match(
        r"(.+?)( (?:with|of|in|on|seen|without|pouring|riding|taking|holding|showing|at|pointing|going) .*)?$", phrase
    )
    head, tail = (match[1], match[2] or "") if match else (phrase, "")
    words = head.split(" ")
    words[-1] = _plural_word(words[-1])
    return " ".join(words) + tail


def toned(phrase: str, tone: int) -> str:
    """The phrase with its skin tone: "waving hand with medium-dark skin"."""
    joint = "and" if " with " in phrase else "with"
    return f"{phrase} {joint} {TONES[tone]} skin"


def _article(phrase: str) -> str:
    if _AN_DESPITE_CONSONANT.match(phrase):
        return "an"
    return "an" if phrase[0] in "aeiouAEIOU" and not _A_DESPITE_VOWEL.match(phrase) else "a"


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
