"""Balance of the emoji data set: which skin tones are kept, and the sampling weight of each picture."""

from random import Random

from ldm.data.recipes.emoji.icons import Icon

TONE_SHARE = 0.40
TONE_WEIGHT = 0.33
SIBLING_WEIGHT = 0.33
SIGN_WEIGHT = 0.33
SCENE_WEIGHT = 0.6


def is_taken(icon: Icon, seed: int) -> bool:
    """Whether the icon is in the data set: of the pictures with a skin tone only some are."""
    return not icon.tone or Random(f"{seed}/tone/{icon.style}/{icon.name}").random() < TONE_SHARE


def icon_weight(icon: Icon) -> float:
    """How often the icon is to be drawn, 1 being an ordinary thing.

    Less for pictures that are many and alike: skin tones, men and women doing the same, symbols, flags and clocks.
    """
    concept = icon.concept
    weight = TONE_WEIGHT if icon.tone else 1.0
    weight *= SIBLING_WEIGHT if concept.family != concept.slug else 1.0
    weight *= SIGN_WEIGHT if concept.group in ("symbols", "flags") or concept.subgroup == "time" else 1.0
    return round(weight, 4)
