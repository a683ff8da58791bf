"""Which prompts are drawn: the splits never mix, and the same seed draws the same."""

import pytest

from ldm.evaluation.judge.prompts import PARTS, choose_prompts, combinations

WORDS = {"3d": ("3d style", "glossy 3d render"), "flat": ("flat style", "flat icon")}
ANIMALS = ("fox", "hen", "cow", "pig", "owl", "dog")
NUMBERS = {2: "two", 3: "three"}


def _icon(concept: str, style: str, tone: int = 0) -> dict:
    captions = [f"a {concept}, {style} style", f"a {concept}", f"{concept} tone {tone}, {style} style"]
    return {"concept": concept, "style": style, "kind": "icon", "tone": tone, "captions": captions}


def _scene(kind: str, objects: tuple[str, ...], count: int = 1, background: str = "white") -> dict:
    captions = [f"{NUMBERS.get(count, 'a')} {'+'.join(objects)} on {background}, flat style", "something"]
    meta = {"concept": "+".join(objects), "objects": list(objects), "kind": kind, "style": "flat"}
    return {**meta, "count": count, "background": background, "captions": captions}


TRAIN = [
    *[_icon(animal, style, tone) for animal in ANIMALS[:5] for style in ("3d", "flat") for tone in (1, 0)],
    _icon("dog", "flat"),
    *[_scene("count", (animal,), 2) for animal in ANIMALS],
    *[_scene("background", (animal,), 1, "blue") for animal in ANIMALS],
    *[_scene("pair", (animal, "hen"), 2) for animal in ANIMALS if animal != "hen"],
]
HELD_OUT = [
    _icon("dog", "3d"),
    _icon("fox", "3d"),  # a cell that the training split shows too
    _scene("count", ("fox",), 3),
    _scene("count", ("fox",), 2),  # likewise
    _scene("background", ("fox",), 1, "red"),
    _scene("above", ("hen", "fox"), 2),
]


def test_held_out_prompts_were_never_trained_on():
    trained = set().union(*map(combinations, TRAIN))
    chosen = choose_prompts([TRAIN, HELD_OUT], 100, 0, WORDS)
    for part in ("held_out", "composed_held_out"):
        assert all(prompt.split == 1 for prompt in chosen[part])
        assert all(combinations(HELD_OUT[prompt.index]) - trained for prompt in chosen[part])
    assert [prompt.expected.concepts for prompt in chosen["held_out"]] == [("dog",)]
    assert len(chosen["composed_held_out"]) == 3


def test_seen_prompts_come_from_the_training_split():
    chosen = choose_prompts([TRAIN, HELD_OUT], 100, 0, WORDS)
    for part in ("seen", "composed_seen"):
        assert all(prompt.split == 0 and prompt.text in TRAIN[prompt.index]["captions"] for prompt in chosen[part])


def test_every_cell_has_one_prompt_and_without_a_skin_tone():
    chosen = choose_prompts([TRAIN], 100, 0, WORDS)["seen"]
    cells = [(prompt.expected.concepts[0], prompt.expected.style) for prompt in chosen]
    assert len(cells) == len(set(cells)) == 11
    assert all(TRAIN[prompt.index]["tone"] == 0 for prompt in chosen)


def test_every_prompt_names_its_style():
    for part in choose_prompts([TRAIN, HELD_OUT], 100, 0, WORDS).values():
        assert all(WORDS[prompt.expected.style][0] in prompt.text for prompt in part)


def test_kinds_of_scenes_are_evenly_drawn():
    chosen = choose_prompts([TRAIN], 9, 0, WORDS)["composed_seen"]
    kinds = [TRAIN[prompt.index]["kind"] for prompt in chosen]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"count": 3, "background": 3, "pair": 3}


def test_the_seed_decides():
    first, again, other = (choose_prompts([TRAIN, HELD_OUT], 8, seed, WORDS) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert tuple(first) == PARTS


def test_fewer_prompts_are_the_first_of_more():
    few, many = (choose_prompts([TRAIN, HELD_OUT], n, 3, WORDS) for n in (2, 6))
    assert all(few[part] == many[part][: len(few[part])] for part in few)


def test_a_split_alike_in_every_cell_has_no_held_out_part():
    assert tuple(choose_prompts([TRAIN[:4], TRAIN[:4]], 5, 0, {})) == ("seen",)


def test_no_prompts_is_an_error():
    with pytest.raises(ValueError, match="n=0"):
        choose_prompts([TRAIN], 0, 0, WORDS)
