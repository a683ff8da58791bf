"""Chunks, weights and padding of prompts, against direct computation with the text tower."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_text import tiny_text

from conditioning.clip.clip_text import ClipText
from conditioning.prompt.chunks import Token, pack_at_commas, pack_words
from conditioning.prompt.emphasis import blend_with_empty, scale_states
from conditioning.prompt.encoder import PromptEncoder
from conditioning.prompt.fragments import BREAK
from conditioning.prompt.syntax import MODES

SHORT = ["", "a red apple, 3d style", "un été 🚀 don't 123!?", "Two  spaces\nand a line"]
COMMA, WORD = 1, (Token(9),)


@pytest.fixture(scope="module", params=[75, 30])
def text(request, tmp_path_factory):
    """The room of Stable Diffusion's tower, and of the shipped one."""
    return tiny_text(tmp_path_factory.mktemp("tokenizer"), request.param)


def weights_at(text: ClipText, weights: dict[int, float]) -> torch.Tensor:
    row = torch.ones(text.max_tokens + 2, 1)
    for position, weight in weights.items():
        row[position] = weight
    return row


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", SHORT)
def test_without_weights_a_short_prompt_reads_bit_for_bit_as_before(text, mode, clip_skip, prompt):
    ours = PromptEncoder(text, mode, clip_skip).encode([prompt])
    plain = text.encode([prompt], clip_skip)
    assert torch.equal(ours.tokens, plain.tokens) and torch.equal(ours.pooled, plain.pooled)


@pytest.mark.parametrize("mode", ["a1111", "comfy"])
def test_a_weight_of_one_is_no_weight(text, mode):
    encoder = PromptEncoder(text, mode)
    assert torch.equal(encoder.encode(["a (red:1.0) apple"]).tokens, text.encode(["a red apple"]).tokens)


def test_plain_reads_brackets_as_text(text):
    prompt = "a (red:1.2) [apple] BREAK"
    assert torch.equal(PromptEncoder(text, "plain").encode([prompt]).tokens, text.encode([prompt]).tokens)


@pytest.mark.parametrize("clip_skip", [0, 2])
def test_a1111_scales_states_and_restores_the_mean(text, clip_skip):
    z = text.encode(["a red apple"], clip_skip).tokens
    scaled = z * weights_at(text, {2: 1.3, 3: 0.5})
    ours = PromptEncoder(text, "a1111", clip_skip).encode(["a (red:1.3) (apple:0.5)"])
    torch.testing.assert_close(ours.tokens, scaled * (z.mean() / scaled.mean()))
    torch.testing.assert_close(ours.tokens.mean(), z.mean())
    free = PromptEncoder(text, "a1111", clip_skip, restore_mean=False).encode(["a (red:1.3) (apple:0.5)"])
    torch.testing.assert_close(free.tokens, scaled)


@pytest.mark.parametrize("clip_skip", [0, 2])
def test_comfy_moves_states_from_those_of_the_empty_prompt(text, clip_skip):
    z, empty = (text.encode([prompt], clip_skip).tokens for prompt in ("a red apple", ""))
    ours = PromptEncoder(text, "comfy", clip_skip).encode(["a (red:1.3) (apple:0.5)"]).tokens
    torch.testing.assert_close(ours, empty + weights_at(text, {2: 1.3, 3: 0.5}) * (z - empty))
    assert torch.equal(ours[:, [0, 1, *range(4, ours.shape[1])]], z[:, [0, 1, *range(4, ours.shape[1])]])


def test_weights_hold_in_their_own_chunk(text):
    """The mean is restored chunk by chunk, as A1111 reads one after the other."""
    both = PromptEncoder(text, "a1111").encode(["a (fox:1.4) BREAK a rocket"]).tokens
    alone = PromptEncoder(text, "a1111").encode(["a (fox:1.4)"]).tokens
    assert torch.equal(both, torch.cat([alone, text.encode(["a rocket"]).tokens], dim=1))


def test_states_without_a_mean_are_not_divided_by_it():
    states = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    assert torch.equal(scale_states(states, torch.tensor([1.0, 2.0])), states * torch.tensor([[1.0], [2.0]]))


def test_weighing_is_done_in_fp32_and_keeps_the_dtype():
    states, empty = torch.randn(2, 5, 8).bfloat16()
    weights = torch.tensor([1.0, 1.3, 0.7, 2.0, 1.0])
    for ours, exact in (
        (scale_states(states, weights), scale_states(states.double(), weights.double()).float()),
        (blend_with_empty(states, empty, weights), blend_with_empty(states.float(), empty.float(), weights)),
    ):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), exact.bfloat16().float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_word_of_300_tokens_counts(text, mode):
    encoder = PromptEncoder(text, mode)
    start = "the cat and the fox " * 60
    assert text.count_tokens(start) >= 300
    cat, fox = encoder.encode([start + "cat", start + "fox"]).tokens
    length = text.max_tokens + 2
    chunks = encoder.report(start + "cat").chunks
    assert cat.shape[0] == chunks * length and chunks >= 300 / text.max_tokens
    assert torch.equal(cat[:-length], fox[:-length])
    assert not torch.allclose(cat[-length:], fox[-length:])


@pytest.mark.parametrize("mode", MODES)
def test_each_chunk_is_read_alone(text, mode):
    """Words of one token without commas fill chunk after chunk in every mode."""
    room = text.max_tokens
    ours = PromptEncoder(text, mode).encode(["fox " * (room + 5)])
    expected = torch.cat([text.encode(["fox " * room]).tokens, text.encode(["fox " * 5]).tokens], dim=1)
    assert torch.equal(ours.tokens, expected)
    assert torch.equal(ours.pooled, text.encode(["fox " * room]).pooled)


def test_pooled_is_of_the_first_chunk_without_weights(text):
    ours = PromptEncoder(text).encode(["a (fox:1.4) BREAK a rocket"])
    assert torch.equal(ours.pooled, text.encode(["a fox"]).pooled)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_are_padded_with_chunks_of_the_empty_prompt(text, mode):
    encoder = PromptEncoder(text, mode)
    long = "fox " * (2 * text.max_tokens + 1)
    ours = encoder.encode(["a cat", long, ""])
    empty = text.encode([""]).tokens
    assert ours.tokens.shape == (3, 3 * (text.max_tokens + 2), text.width)
    assert torch.equal(ours[:1].tokens, torch.cat([text.encode(["a cat"]).tokens, empty, empty], dim=1))
    assert torch.equal(ours[2:].tokens, torch.cat([empty] * 3, dim=1))


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_reads_the_same_in_any_company(text, mode):
    encoder = PromptEncoder(text, mode)
    prompts = ["a (cat:1.3)", "(the) fox " * text.max_tokens, "a (cat:1.3)", "three bananas"]
    together = encoder.encode(prompts)
    chunks = max(encoder.report(prompt).chunks for prompt in prompts)
    for number, prompt in enumerate(prompts):
        alone = encoder.encode([prompt], chunks)
        assert torch.equal(together[number : number + 1].tokens, alone.tokens)
        assert torch.equal(together[number : number + 1].pooled, alone.pooled)


def test_too_few_chunks_are_refused(text):
    with pytest.raises(ValueError, match="chunks=1 is too few for a prompt that fills 2; use 2 or more"):
        PromptEncoder(text).encode(["a BREAK b"], chunks=1)


def test_tokens_and_chunks_are_reported(text):
    prompt = "a (red:1.2) apple BREAK a fox"
    report = PromptEncoder(text, "a1111").report(prompt)
    assert (report.prompt, report.used, report.total, report.chunks, report.cut) == (prompt, 5, 5, 2, False)
    assert PromptEncoder(text, "a1111").report("").chunks == 1
    total = text.count_tokens("fox " * 200)
    assert PromptEncoder(text, "comfy").report("fox " * 200).total == total == 200


def test_unknown_modes_and_skips_are_refused(text):
    with pytest.raises(ValueError, match="mode='webui' is unknown"):
        PromptEncoder(text, "webui")
    with pytest.raises(ValueError, match="clip_skip=3 is out of range for 3 layers"):
        PromptEncoder(text, clip_skip=3).encode(["a"])


def test_threads_that_skip_layers_do_not_meet(text):
    prompts = [f"a fox {number} " * 9 for number in range(6)]
    encoders = [PromptEncoder(text, "a1111", clip_skip) for clip_skip in (0, 1, 2)] * 4
    serial = [encoder.encode(prompts).tokens for encoder in encoders]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda encoder: encoder.encode(prompts).tokens, encoders))
    assert all(torch.equal(a, b) for a, b in zip(serial, threaded, strict=True))


def test_reading_leaves_the_tower_as_it_was(text):
    modules = [*text.model.modules()]
    hooks = [len(module._forward_hooks) for module in modules]
    PromptEncoder(text, "comfy", clip_skip=1).encode(["a (fox:1.3)"])
    assert [*text.model.modules()] == modules
    assert [len(module._forward_hooks) for module in modules] == hooks


def test_a_pad_token_of_its_own_fills_the_row(tmp_path):
    """Stable Diffusion 2 pads with "!" behind one EOS."""
    text = tiny_text(tmp_path, 10)
    text.tokenizer.pad_token = "!"
    assert text.tokenizer.pad_token_id not in (text.tokenizer.eos_token_id, text.tokenizer.bos_token_id)
    row = text.row(text.ids("a fox"))
    assert row[3:] == [text.tokenizer.eos_token_id] + [text.tokenizer.pad_token_id] * 8
    assert torch.equal(PromptEncoder(text).encode(["a fox"]).tokens, text.encode(["a fox"]).tokens)


def test_the_old_eos_id_still_finds_the_pooled_state(tmp_path):
    """configs from before transformers 4.31 say eos_token_id=2; the pooled state is then at the largest id."""
    text = tiny_text(tmp_path, 10, eos_token_id=2)
    ours = PromptEncoder(text, clip_skip=1).encode(["a fox"])
    assert torch.equal(ours.pooled, text.encode(["a fox"]).pooled)
    last = text.model(text.tokenize(["a fox"])[0]).last_hidden_state
    assert torch.equal(ours.pooled, last[:, 3])


def comma_list(*runs: int) -> list:
    """Words with a comma between the runs: [3, 2] is w w w , w w."""
    units: list = []
    for number, run in enumerate(runs):
        units += [(Token(COMMA),)] * (number > 0) + [WORD] * run
    return units


@pytest.mark.parametrize(
    ("units", "sizes"),
    [
        ([], [0]),
        ([WORD] * 75, [75]),
        ([WORD] * 80, [75, 5]),
        ([WORD, (Token(COMMA),)] * 35 + [WORD] * 12, [70, 12]),
        ([WORD, (Token(COMMA),)] * 25 + [WORD] * 30, [75, 5]),
        ([WORD, (Token(COMMA),)] * 40, [75, 5]),
        (comma_list(54, 30), [75, 10]),
        (comma_list(55, 30), [56, 30]),
        (comma_list(75, 3), [75, 4]),
        ([WORD] * 60 + [(Token(0),) * 30] + [WORD] * 3, [60, 33]),
        ([WORD] * 2 + [BREAK] + [WORD] * 3 + [BREAK], [2, 3]),
        ([BREAK, WORD], [0, 1]),
        ([BREAK], [0]),
    ],
)
def test_chunks_end_where_the_webui_ends_them(units, sizes):
    """Sizes that `tokenize_line` of modules/sd_hijack_clip.py gives for these tokens, backtracking 20."""
    chunks = pack_at_commas(units, 75, COMMA)
    assert [len(chunk) for chunk in chunks] == sizes
    assert [token for chunk in chunks for token in chunk] == [t for unit in units if unit is not BREAK for t in unit]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ([], [0]),
        ([1] * 75, [75]),
        ([1] * 76, [75, 1]),
        ([1] * 74 + [3], [74, 3]),
        ([1] * 74 + [8], [75, 7]),
        ([70, 7, 7], [70, 14]),
        ([200], [75, 75, 50]),
    ],
)
def test_words_are_kept_together_as_in_comfyui(words, sizes):
    """Sizes that `tokenize_with_weights` of comfy/sd1_clip.py (2024) gives for words of these lengths."""
    assert [len(chunk) for chunk in pack_words([WORD * length for length in words], 75)] == sizes


def test_words_longer_than_a_chunk_are_cut():
    assert [len(chunk) for chunk in pack_words([WORD * 7], 3)] == [3, 3, 1]


def test_the_reach_for_a_comma_shrinks_with_the_chunk():
    assert [len(chunk) for chunk in pack_at_commas(comma_list(22, 20), 30, COMMA)] == [23, 20]
    assert [len(chunk) for chunk in pack_at_commas(comma_list(20, 20), 30, COMMA)] == [30, 11]
