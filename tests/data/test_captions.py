"""English of the captions: nouns, articles, plurals, styles, colours."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from ldm.data.recipes.emoji.captions import count_phrase, icon_captions, keywords, scene_caption, vocabulary
from ldm.data.recipes.emoji.colours import colour_words, lab
from ldm.data.recipes.emoji.names import Concept, slug
from ldm.data.recipes.emoji.nouns import described, is_countable, is_plural, noun, plural, toned, with_article
from ldm.data.recipes.emoji.sources import STYLES


def concept(label: str, group: str = "objects", subgroup: str = "tool", tags: tuple[str, ...] = ()) -> Concept:
    return Concept(slug(label), label, group, subgroup, tags, 0)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("red apple", "red apple"),
        ("four o’clock", "clock showing four o'clock"),
        ("four-thirty", "clock showing half past four"),
        ("keycap: 7", "number 7 button"),
        ("keycap: #", "hash button"),
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("person: beard", "person with a beard"),
        ("woman walking: facing right", "woman walking to the right"),
        ("family: man, woman, girl, boy", "family of a man, a woman, a girl and a boy"),
        ("kiss: woman, man", "kiss between a woman and a man"),
        ("couple with heart: man, man", "couple with a heart, a man and a man"),
        ("automobile", "car"),
    ],
)
def test_labels_become_nouns(label: str, expected: str) -> None:
    assert noun(concept(label)) == expected


def test_zodiac_signs_say_so() -> None:
    assert noun(concept("Leo", "symbols", "zodiac")) == "Leo zodiac sign"


@pytest.mark.parametrize(
    "phrase",
    [
        *("a banana", "an owl", "an hourglass", "a unicorn", "a euro banknote", "an x-ray", "a one-piece swimsuit"),
        *("an ATM sign", "a ewe", "an upside-down face", "an umbrella", "an eagle", "the Statue of Liberty"),
        *("the sun", "grapes", "scissors", "Mount Fuji", "popcorn", "people hugging", "clockwise vertical arrows"),
        *("an old key", "an adult", "an American football", "a yo-yo", "a hibiscus", "a herb"),
    ],
)
def test_articles(phrase: str) -> None:
    bare = phrase.removeprefix("the ") if phrase.startswith("the ") else phrase
    bare = bare.removeprefix("an ") if bare.startswith("an ") else bare.removeprefix("a ")
    assert with_article(bare) == phrase


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(("banana", "bananas"), ("fox", "foxes"), ("cherry pie", "cherry pies"), ("butterfly", "butterflies")),
        *(
            ("mouse", "mice"),
            ("kitchen knife", "kitchen knives"),
            ("leaf", "leaves"),
            ("tropical fish", "tropical fish"),
        ),
        *(("cup with straw", "cups with straw"), ("ear of corn", "ears of corn"), ("glass of milk", "glasses of milk")),
        *(
            ("glass pouring liquid", "glasses pouring liquid"),
            ("heart on fire", "hearts on fire"),
            ("donkey", "donkeys"),
        ),
        *(("volcano", "volcanoes"), ("piano", "pianos"), ("goose", "geese"), ("brush", "brushes"), ("box", "boxes")),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize("phrase", ["grapes", "two hearts", "popcorn", "the sun", "women wrestling", "scissors"])
def test_one_does_not_count_what_has_no_single(phrase: str) -> None:
    assert not is_countable(phrase.removeprefix("the "))


def test_plural_nouns_take_no_article_with_an_adjective() -> None:
    assert described("green", "grapes") == "green grapes"
    assert described("orange", "cat") == "an orange cat"
    assert is_plural("grapes") and not is_plural("grape")


def test_skin_tones_are_said_once() -> None:
    assert toned("waving hand", 4) == "waving hand with medium-dark skin"
    assert toned("man with red hair", 1) == "man with red hair and light skin"


def test_counts_are_said_in_words_and_figures() -> None:
    said = {count_phrase(concept("banana"), 3, Random(seed)) for seed in range(40)}
    assert said == {"three bananas", "3 bananas"}


@pytest.fixture(scope="module")
def many_captions() -> list[str]:
    rng = Random(0)
    fox = concept("fox", "animals-nature", "animal-mammal")
    return [text for _ in range(150) for text in icon_captions(fox, STYLES[0], 0, ["orange"], ["sly"], rng)]


def test_captions_come_in_their_shares(many_captions: list[str]) -> None:
    forms: Counter[str] = Counter()
    for text in many_captions:
        bare = text.replace("an orange fox", "a fox").replace("orange fox", "fox")
        for extra in (", animal", ", sly"):
            bare = bare.replace(extra, "")
        forms[bare] += 1
    shares = {form: count / len(many_captions) for form, count in forms.items()}
    expected = {
        "a fox, 3d style": 0.54,
        "fox emoji, 3d style": 0.18,
        "a glossy 3d render of a fox": 0.18,
        "a fox": 0.04,
        "fox emoji": 0.03,
        "fox": 0.015,
        "an icon of a fox": 0.015,
    }
    assert shares.keys() == expected.keys()
    assert all(abs(shares[form] - share) < 0.04 for form, share in expected.items())


def test_colours_are_said_of_a_quarter_and_never_of_people(many_captions: list[str]) -> None:
    assert abs(np.mean(["orange" in text for text in many_captions]) - 0.25) < 0.04
    cook = concept("cook", "people-body", "person-role")
    rng = Random(0)
    texts = [text for _ in range(40) for text in icon_captions(cook, STYLES[0], 0, ["white"], [], rng)]
    assert not any("white" in text for text in texts)


def test_colours_do_not_contradict_a_name() -> None:
    rng = Random(0)
    heart = concept("blue heart", "objects", "tool")
    texts = [text for _ in range(40) for text in icon_captions(heart, STYLES[0], 0, ["light blue"], [], rng)]
    assert not any("light" in text for text in texts)


def test_every_toned_caption_says_its_tone() -> None:
    rng = Random(0)
    hand = concept("waving hand", "people-body", "hand-fingers-open")
    texts = [text for _ in range(40) for text in icon_captions(hand, STYLES[2], 5, [], [], rng)]
    assert all("dark skin" in text and "medium" not in text for text in texts)


def test_same_draws_give_the_same_captions() -> None:
    texts = [icon_captions(concept("fox"), STYLES[3], 0, ["red"], ["sly"], Random("7")) for _ in range(2)]
    assert texts[0] == texts[1]


def test_scene_captions_keep_their_content_and_mostly_say_the_style() -> None:
    rng = Random(0)
    texts = [scene_caption("two foxes", STYLES[1], rng) for _ in range(400)]
    assert all("two foxes" in text for text in texts)
    without = np.mean([text == "two foxes" for text in texts])
    assert abs(without - 0.10) < 0.05


def test_keywords_are_rare_single_words_that_add_something() -> None:
    fox = concept("fox", "animals-nature", "animal-mammal", ("fox", "foxes", "vulpine", "animal", "very sly", "red"))
    others = [concept(f"thing {i}", tags=("animal",)) for i in range(5)]
    assert keywords([fox, *others])[fox.slug] == ["foxes", "vulpine"]
    assert {"fox", "vulpine", "very sly", "thing 3"} <= set(vocabulary([fox, *others]))


def test_lab_is_cielab() -> None:
    from skimage.color import rgb2lab

    colours = np.random.default_rng(0).integers(0, 256, (50, 3))
    assert np.abs(lab(colours) - rgb2lab(colours / 255)).max() < 0.05


@pytest.mark.parametrize(
    ("colours", "words"),
    [
        ([(214, 40, 40)], ["red"]),
        ([(60, 160, 70)], ["green"]),
        ([(30, 90, 200)], ["blue"]),
        ([(250, 250, 250), (25, 25, 28)], ["black", "white"]),
        ([(140, 140, 145)], ["grey"]),
        ([(252, 213, 63)], ["yellow"]),
    ],
)
def test_colours_have_their_names(colours: list[tuple[int, int, int]], words: list[str]) -> None:
    icon = Image.new("RGBA", (64, 64))
    for i, colour in enumerate(colours):
        icon.paste((*colour, 255), (0, 32 * i, 64, 32 * i + (64 if len(colours) == 1 else 32)))
    assert sorted(colour_words(icon)) == words


def test_what_is_transparent_or_small_has_no_colour_name() -> None:
    icon = Image.new("RGBA", (64, 64), (214, 40, 40, 0))
    assert colour_words(icon) == []
    icon.paste((214, 40, 40, 255), (0, 0, 20, 20))
    assert colour_words(icon) == []
