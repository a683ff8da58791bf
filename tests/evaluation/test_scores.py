"""The judge's arithmetic, counted by hand."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch

from ldm.evaluation.judge.classifier import Verdict
from ldm.evaluation.judge.expected import VIEWS, Expected
from ldm.evaluation.judge.prompts import PARTS
from ldm.evaluation.judge.report import Scores
from ldm.evaluation.judge.scores import (
    COLUMNS,
    Accuracies,
    Nearest,
    NearestScores,
    PartScores,
    Rate,
    accuracies,
)
from ldm.evaluation.judge.train import cross_entropy
from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.metrics.fidelity import Fidelity
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.metrics.sharpness import Sharpness


def _verdict(
    concepts: str, style: str = "flat", count: str = "1", background: str = "white", style_of_thing: str = "flat"
) -> Verdict:
    """The names of two things are divided by a stroke."""
    return Verdict(
        tuple(tuple(names.split()) for names in concepts.split("/")),
        (style,),
        (style_of_thing,),
        (count,),
        (background,),
    )


def test_accuracies_are_counted_by_hand():
    verdicts = [
        _verdict("fox dog cat cow pig"),
        _verdict("dog fox cat cow pig", style="3d"),
        _verdict("dog cat cow pig hen", count="3", background="blue"),
        _verdict("cat fox cow / cow pig hen", background="blue", style_of_thing="3d"),
    ]
    expected = [
        Expected(("fox",), "flat"),
        Expected(("fox",), "flat"),
        Expected(("fox",), "flat", count="3"),
        Expected(("fox", "hen"), "flat", background="blue"),
    ]
    found = accuracies(verdicts, expected)
    assert found == Accuracies(
        pictures=4,
        concept_top1=Rate(1 / 3, 3),
        concept_top5=Rate(2 / 3, 3),
        style=Rate(3 / 4, 4),
        style_of_thing=Rate(3 / 4, 4),
        count=Rate(1.0, 1),
        background=Rate(1.0, 1),
        both_objects=Rate(1.0, 1),
        in_place=Rate(1.0, 1),
    )


def test_what_applies_to_no_picture_is_none():
    found = accuracies([_verdict("fox")], [Expected(("fox",))])
    assert (found.style, found.style_of_thing, found.count, found.background) == (None, None, None, None)
    assert (found.both_objects, found.in_place) == (None, None)


def test_a_pair_needs_both_objects_one_in_each_half():
    verdicts = [_verdict("fox dog / fox dog"), _verdict("fox hen / dog cow"), _verdict("fox dog / hen")]
    found = accuracies(verdicts, [Expected(("fox", "hen"))] * 3)
    assert found.both_objects == found.in_place == Rate(1 / 3, 3)


def test_exchanged_things_are_both_there_but_not_in_their_places():
    found = accuracies([_verdict("hen / fox")], [Expected(("fox", "hen"))])
    assert (found.both_objects, found.in_place) == (Rate(1.0, 1), Rate(0.0, 1))


def test_a_twin_is_as_good_in_its_style_only():
    verdicts = [_verdict("walker cat"), _verdict("walker cat")]
    expected = [Expected(("man",), "blob"), Expected(("man",), "flat")]
    found = accuracies(verdicts, expected, {("man", "blob"): ("walker",)})
    assert found.concept_top1 == found.concept_top5 == Rate(0.5, 2)


def test_as_many_verdicts_as_pictures():
    with pytest.raises(ValueError, match="1 verdicts for 0 pictures"):
        accuracies([_verdict("fox")], [])


def test_accuracies_survive_json():
    found = accuracies([_verdict("fox")], [Expected(("fox",), "3d")])
    assert Accuracies.from_dict(asdict(found)) == found


def test_an_icon_wants_neither_count_nor_background():
    assert Expected.of({"concept": "fox", "style": "3d", "kind": "icon"}) == Expected(("fox",), "3d")


def test_a_scene_wants_its_objects_count_and_background():
    meta = {"concept": "fox", "objects": ["fox"], "style": "3d", "kind": "count", "count": 3, "background": "blue"}
    assert Expected.of(meta) == Expected(("fox",), "3d", "3", "blue", "several")
    pair = {"concept": "fox+hen", "objects": ["fox", "hen"], "style": "3d", "kind": "pair", "count": 2}
    assert Expected.of({**pair, "background": "white"}) == Expected(("fox", "hen"), "3d", arrangement="beside")
    upright = Expected.of({**pair, "kind": "above", "background": "white"})
    assert upright == Expected(("fox", "hen"), "3d", arrangement="above")


def test_every_thing_is_looked_at_and_the_whole_first():
    for name, views in VIEWS.items():
        things = {thing for _, thing in views if thing is not None}
        assert views[0][0] is None
        assert things == ({0, 1} if name in ("beside", "above") else {0})


def _scores(n: int = 120) -> Scores:
    rate, close = Rate(0.8, n), Estimate(-0.12, 0.03, n)
    own = Accuracies(n, **{name: rate for name in COLUMNS})
    nearest = NearestScores(rate, rate, rate, close)
    sharpness = Sharpness(256, Estimate(0.9, 0.02, n), Estimate(12.4, 0.5, n), close, close, 0.4, 20.0)
    coded = Accuracies(n, **{name: Rate(0.55, n) for name in COLUMNS})
    part = PartScores(own, own, coded, Nearest(nearest, nearest, nearest), sharpness)
    return Scores(
        parts={name: part for name in PARTS},
        judge_known=own,
        judge_new=own,
        distance=Distance(31.0, 12.0, 77, 4000, 128),
        fidelity=Fidelity(66, {"64": 28.5}, 27.0, 24.0),
        model="tiny",
        steps=25,
        guidance_scale=4.0,
        seed=0,
        seconds_per_picture=None,
        folder="here",
        quick=True,
        drawings=12_345,
    )


@pytest.mark.parametrize("report", [Scores.to_table, Scores.to_markdown])
def test_reports_state_every_value_with_its_error_and_n(report: Callable[[Scores], str]):
    text = report(_scores())
    for piece in ("80.0±3.7 (80.0)", "-0.12±0.03", "0.90±0.02", "+12.4±0.5", "12345 real drawings", "120", "Quick"):
        assert piece in text
    text = " ".join(text.split())  # lines of prose are wrapped
    for piece in ("N = 77 against 4000 real: 31.0", "77 other real pictures: 12.0", "66 held-out pictures: 28.50 dB"):
        assert piece in text


def test_few_pictures_get_no_decimals():
    assert "80±8 (80)" in _scores(24).to_table()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_error_of_many_is_walds(share: float):
    assert Rate(share, 2000).error == pytest.approx((share * (1 - share) / 2000) ** 0.5, rel=0.02)


@pytest.mark.parametrize("n", [8, 24, 300])
def test_none_and_all_of_few_are_not_certain(n: int):
    """None of n is likely while the true share is small, and unlikely, but possible, where it is two errors."""
    error = Rate(0.0, n).error
    assert error == pytest.approx(Rate(1.0, n).error)
    assert 0.03 < (1 - 2 * error) ** n < 0.2


def test_a_terminal_of_80_columns_holds_the_table():
    lines = _scores(100).to_table().splitlines()
    assert max(map(len, lines)) <= 80
    labels = [text[:16] for text in lines if text.startswith(" ") and "±" in text]
    assert all(label.endswith(" ") for label in labels)  # cells do not touch their labels


def test_what_the_autoencoder_leaves_stands_below_what_was_drawn():
    group = _scores().to_table().split("The same for real pictures")[1].split("Nearest of")[0]
    assert "both objects   55.0±4.5 (80.0)" in group


def test_a_row_that_applies_to_nothing_is_left_out():
    scores = _scores()
    without = dataclasses.replace(scores.parts["seen"].generated, count=None)
    part = PartScores(without, scores.judge_known, dataclasses.replace(scores.parts["seen"].autoencoded, count=None))
    text = dataclasses.replace(scores, parts={"seen": part}).to_table()
    assert "concept top-1" in text
    assert not any(word in text for word in ("count", "Nearest", "Edge", "Closeness"))


def test_scores_become_json():
    content = json.loads(json.dumps(_scores().to_dict()))
    part = content["parts"]["held_out"]
    assert part["real"]["concept_top1"] == {"share": 0.8, "n": 120}
    assert part["nearest"]["generated"]["closeness"] == {"value": -0.12, "error": 0.03, "n": 120}
    assert part["sharpness"]["edge"] == {"value": 0.9, "error": 0.02, "n": 120}
    assert content["quick"] is True


def test_cross_entropy_equals_torch():
    logits, target = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 3])
    ours = cross_entropy(logits, target, 0.1)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1))


def test_an_unknown_name_is_no_loss():
    logits = torch.randn(2, 5)
    half = -logits.log_softmax(1)[0, 3] / 2
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([3, -1]), 0.0), half)
    assert cross_entropy(logits, torch.tensor([-1, -1]), 0.1) == 0
