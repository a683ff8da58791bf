"""The text of the emoji data set's card."""

from collections.abc import Sequence

from ldm.data.recipes.emoji.balance import SCENE_WEIGHT, SIBLING_WEIGHT, SIGN_WEIGHT, TONE_SHARE, TONE_WEIGHT
from ldm.data.recipes.emoji.captions import CAPTIONS_PER_PICTURE, COLOUR_SHARE, COUNTS
from ldm.data.recipes.emoji.scenes import BACKGROUNDS, KINDS
from ldm.data.recipes.emoji.sources import EMOJIBASE
from ldm.data.recipes.emoji.split import CELL_SHARE, LEAST_STYLES, SCENE_SHARE

DESCRIPTION = (
    "Things, animals, food, people, places and symbols in five openly licensed emoji styles, with English captions, "
    "and scenes composed from the same drawings. Made to train a small text-to-image model."
)


def notes(hardly_visible: Sequence[str], scenes_left_out: int) -> list[str]:
    """Sources, licences, captions, split, weights, what was dropped and known flaws, a sentence or three each.

    Args:
        hardly_visible: icons that were not taken because next to nothing of them shows on white, as "style/name".
        scenes_left_out: how many planned scenes were left out because an object would not show on its background.
    """
    kinds = ", ".join(f"{share:.0%} {kind}" for kind, share in KINDS.items())
    blank = f" These were {', '.join(hardly_visible)}." if hardly_visible else ""
    return [
        "Sources: the packages of the table, from the npm registry, each checked against its sha512. Names, groups "
        f"and keywords: {EMOJIBASE.name}@{EMOJIBASE.version} (MIT). SVG is rendered by resvg, the 3d pictures are "
        "resized; all have a plain white background.",
        "Licences: as the packages state them; every picture's json has its `source` and `licence`. The "
        "credits that CC BY 4.0 asks for are in `DATA_LICENSES` beside the shipped model.",
        f'Captions: {CAPTIONS_PER_PICTURE} for each picture, none empty. Icons: 54 % "a fox, 3d style", 18 % "fox '
        'emoji, 3d style", 18 % "a glossy 3d render of a fox", 10 % without style; colour words measured in CIELAB in '
        f"{COLOUR_SHARE:.0%} where they apply, never on people; some synonyms, hypernyms and keywords.",
        f"Scenes: {kinds}. Counts are {min(COUNTS)} to {max(COUNTS)}; backgrounds are white and "
        f"{len(BACKGROUNDS) - 1} colours. The captions say number, place, background and style exactly.",
        f"Held out, by sha256 of names, for every seed the same: {CELL_SHARE:.0%} of the (concept, style) cells of "
        f"concepts in at least {LEAST_STYLES} styles, with their skin tones and man, woman and person siblings, flat "
        f"and 3d together; {SCENE_SHARE:.0%} of the (object, count), (object, background) and ordered (left, right) or "
        "(upper, lower) pairs. A held-out scene has at least one such pair and is composed of trained icons; a trained "
        "scene has none.",
        f"Weights (`weight` in the json): skin tones x {TONE_WEIGHT}, people that come as man, woman and person x "
        f"{SIBLING_WEIGHT}, symbols, flags and clocks x {SIGN_WEIGHT}; scenes {SCENE_WEIGHT}.",
        "Left out: country flags, letter and word buttons, bare skin tones and hair, the middle finger, squares that "
        "differ only in size, pairs of two skin tones, hidden icons and names that mean no known emoji; 3d pictures "
        f"of what the flat Fluent set lacks; {1 - TONE_SHARE:.0%} of the pictures with a skin tone; "
        f"icons that hardly show on white.{blank} {scenes_left_out:,} planned scenes, because an object would "
        "hardly show on its background.",
        "Known flaws: some packages draw several concepts alike (twemoji's families), so one picture has several "
        'names. A few plurals are wrong ("page facing ups", "fork and knives", "man\'s shoes").',
    ]
