"""Laws of the Conditioning record and of class labels."""

import pytest
import torch

from conditioning.bundle import Conditioning
from conditioning.labels import Labels

WIDE = {
    "tokens": torch.randn(3, 5, 8),
    "pooled": torch.randn(3, 4),
    "concat": torch.randn(3, 2, 6, 6),
    "labels": torch.tensor([2, 0, 1]),
    "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5]),
    "sizes": torch.tensor([[1025.0, 513, 0, 0, 1025, 513]]).expand(3, 6),
}


def same(a: Conditioning, b: Conditioning) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in WIDE]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def test_cutting_and_joining_are_inverse():
    whole = Conditioning(**WIDE)
    assert whole.batch_size == 3
    assert same(Conditioning.cat([whole[:1], whole[1:]]), whole)


@pytest.mark.parametrize("name", WIDE)
def test_joining_a_field_that_only_one_part_has_names_it(name):
    other = "pooled" if name != "pooled" else "tokens"
    whole, part = Conditioning(**{other: WIDE[other], name: WIDE[name]}), Conditioning(**{other: WIDE[other]})
    with pytest.raises(ValueError, match=f"{name} is in 1 of 2 parts"):
        Conditioning.cat([whole, part])


def test_repeat_keeps_the_samples_of_a_prompt_together():
    twice = Conditioning(**WIDE).repeat(2)
    assert twice.labels.tolist() == [2, 2, 0, 0, 1, 1]
    assert torch.equal(twice.tokens[::2], twice.tokens[1::2])


def test_casting_leaves_labels_mask_and_pixel_sizes_exact():
    half = Conditioning(**WIDE).to(dtype=torch.bfloat16)
    assert {half.tokens.dtype, half.pooled.dtype, half.concat.dtype} == {torch.bfloat16}
    assert half.labels.dtype == torch.int64 and half.mask.dtype == torch.bool
    assert half.sizes[0, 0].item() == 1025


def test_moving_reaches_every_field():
    moved = Conditioning(**WIDE).to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in WIDE)


def test_fields_of_different_batch_size_are_refused():
    with pytest.raises(ValueError, match="tokens 3, labels 2"):
        Conditioning(tokens=WIDE["tokens"], labels=WIDE["labels"][:2])


def test_an_empty_record_has_no_batch_size():
    with pytest.raises(ValueError, match="no field"):
        _ = Conditioning().batch_size


def test_a_single_number_is_no_way_to_cut():
    with pytest.raises(TypeError, match=r"use \[i : i \+ 1\]"):
        Conditioning(**WIDE)[0]


def test_the_null_class_is_one_more_than_the_names():
    digits = Labels(("zero", "one", "two"))
    assert digits.num_embeddings == 4
    assert digits.null(2).labels.tolist() == [3, 3]
    assert digits.encode(["two", 0]).labels.tolist() == [2, 0]


def test_an_unknown_class_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="label='thre' is no class name; nearest: three"):
        Labels(("one", "two", "three")).encode(["thre"])


def test_the_null_class_is_no_label_a_user_can_ask_for():
    with pytest.raises(ValueError, match="label=2 is no class number; use 0 to 1"):
        Labels(("one", "two")).encode([2])


def test_tokens_of_two_encoders_join_along_their_length_with_a_mask():
    draw = torch.Generator().manual_seed(0)
    first = Conditioning(tokens=torch.randn(2, 3, 4, generator=draw), pooled=torch.randn(2, 5, generator=draw))
    mask = torch.tensor([[True, False], [True, True]])
    second = Conditioning(tokens=torch.randn(2, 2, 4, generator=draw), mask=mask)
    joined = Conditioning.join_tokens([first, second])
    assert torch.equal(joined.tokens, torch.cat([first.tokens, second.tokens], 1))
    assert joined.mask.tolist() == [[True] * 4 + [False], [True] * 5]
    assert joined.pooled is first.pooled
    assert Conditioning.join_tokens([first, first]).mask is None


@pytest.mark.parametrize("other", [{}, {"tokens": torch.zeros(2, 3, 5)}, {"tokens": torch.zeros(1, 3, 4)}], ids=str)
def test_tokens_that_do_not_fit_are_not_joined(other):
    with pytest.raises(ValueError, match=r"cannot be joined along L"):
        Conditioning.join_tokens([Conditioning(tokens=torch.zeros(2, 3, 4)), Conditioning(**other)])
