"""The tokenizer and the text tower against transformers and diffusers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from conditioning.clip.bpe import train_bpe
from conditioning.clip.clip_text import ClipText
from conditioning.text_encoder import TextEncoder
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.load import load_text
from ldm.io.folder.text_encoder import save_text_encoder

CAPTIONS = ["a red apple, 3d style", "three bananas, noto style", "a fox left of a rocket", "the digit 7"] * 3
PROMPTS = ["a Red  apple,\n3d STYLE", "", "un été 日本語 🚀 don't 123!?", "the fox's bananas " * 9]

ABSENT = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer folder and a text_encoder folder of a tiny random tower, as transformers writes it."""
    root = tmp_path_factory.mktemp("clip")
    size = train_bpe(CAPTIONS, 600, root / "tokenizer", max_tokens=14)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    torch.manual_seed(0)
    model = CLIPTextModel(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.save_pretrained(root / "text_encoder")
    return root / "tokenizer", root / "text_encoder"


@pytest.fixture(scope="module")
def text(folders):
    return load_text(folders[0].parent)


def test_training_the_vocabulary_is_deterministic(tmp_path):
    train_bpe(CAPTIONS, 580, tmp_path / "a")
    train_bpe(CAPTIONS[::-1], 580, tmp_path / "b")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_vocabulary_is_no_larger_than_requested(tmp_path):
    assert train_bpe(CAPTIONS, 530, tmp_path) == 530
    assert len(json.loads((tmp_path / "vocab.json").read_text())) == 530
    with pytest.raises(ValueError, match="vocab_size=514"):
        train_bpe(CAPTIONS, 514, tmp_path)
    with pytest.raises(ValueError, match="captions are empty"):
        train_bpe([" "], 600, tmp_path)


def test_every_text_has_tokens_and_none_is_unknown(text):
    for prompt in PROMPTS:
        ids = text.tokenizer(prompt).input_ids
        assert text.tokenizer.eos_token_id not in ids[:-1]
        spoken = text.tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(spoken.split()) == "".join(prompt.lower().split())


def test_frequent_words_are_one_token(text):
    assert text.tokenizer.convert_ids_to_tokens(text.tokenizer("style").input_ids)[1:-1] == ["style</w>"]


def test_a_word_means_the_same_alone_and_in_a_sentence(text):
    alone, inside = text.tokenizer("rocket").input_ids[1:-1], text.tokenizer("a rocket, 3d").input_ids
    assert inside[2 : 2 + len(alone)] == alone


def test_ids_are_those_of_transformers(text, folders):
    theirs = CLIPTokenizer.from_pretrained(folders[0])
    expected = theirs(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(text.tokenize(PROMPTS)[0], expected)


def test_a_cut_prompt_is_reported(text):
    ids, reports = text.tokenize(PROMPTS)
    assert ids.shape == (4, 16) and text.max_tokens == 14
    assert [report.cut for report in reports[:2]] == [False, False]
    assert reports[1].total == 0 and reports[1].used == 0
    assert reports[3].used == 14 and reports[3].total == text.count_tokens(PROMPTS[3]) > 14
    assert reports[3].prompt == PROMPTS[3]


def test_states_are_those_of_transformers(text, folders):
    theirs = CLIPTextModel.from_pretrained(folders[1]).eval()
    ids = text.tokenize(PROMPTS)[0]
    ours = text.encode(PROMPTS)
    expected = theirs(ids)
    torch.testing.assert_close(ours.tokens, expected.last_hidden_state)
    torch.testing.assert_close(ours.pooled, expected.pooler_output)
    assert ours.tokens.shape == (4, 16, text.width)


def diffusers_pipeline(folders):
    from diffusers import StableDiffusionPipeline

    encoder = CLIPTextModel.from_pretrained(folders[1]).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folders[0])
    return StableDiffusionPipeline(text_encoder=encoder, tokenizer=tokenizer, requires_safety_checker=False, **ABSENT)


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_states_are_those_of_the_diffusers_pipeline(text, folders, clip_skip):
    pipeline = diffusers_pipeline(folders)
    encoder = pipeline.text_encoder
    # diffusers 0.42 looks for the layer norm below `text_model`, which transformers >= 5.6 took away.
    if not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)
    prompts = PROMPTS[:3]
    negative = [""] * 3
    expected = pipeline.encode_prompt(prompts, "cpu", 1, True, negative, clip_skip=clip_skip or None)
    torch.testing.assert_close(text.encode(prompts, clip_skip=clip_skip).tokens, expected[0])
    if not clip_skip:  # diffusers skips layers for the prompt only
        torch.testing.assert_close(text.encode(negative).tokens, expected[1])


def test_a_skip_of_every_layer_is_refused(text):
    with pytest.raises(ValueError, match="clip_skip=3 is out of range for 3 layers; use 0 to 2"):
        text.encode(["a cat"], clip_skip=3)


def test_nested_and_flat_keys_open_alike(text, folders, tmp_path):
    tensors = load_file(folders[1] / "model.safetensors")
    bare = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    nested = {f"text_model.{name}": value for name, value in bare.items()}
    nested["text_model.embeddings.position_ids"] = torch.arange(16).unsqueeze(0)
    for state, name in ((bare, "model.safetensors"), (nested, "model.fp16.safetensors")):
        folder = tmp_path / name / "text_encoder"
        shutil.copytree(folders[0], tmp_path / name / "tokenizer")
        folder.mkdir()
        (folder / "config.json").write_bytes((folders[1] / "config.json").read_bytes())
        save_file(state, folder / name)
        other = load_text(tmp_path / name)
        assert torch.equal(other.encode(PROMPTS).tokens, text.encode(PROMPTS).tokens)


def test_what_is_saved_opens_in_transformers(text, tmp_path):
    save_text_encoder(text, tmp_path, None)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer(PROMPTS).input_ids == text.tokenizer(PROMPTS).input_ids
    assert tokenizer.model_max_length == 16
    model, report = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(model.eval()(text.tokenize(PROMPTS)[0]).last_hidden_state, text.encode(PROMPTS).tokens)
    assert (tmp_path / "tokenizer" / "vocab.json").is_file() and (tmp_path / "tokenizer" / "merges.txt").is_file()


def test_what_is_saved_opens_in_the_diffusers_pipeline(text, folders, tmp_path):
    from diffusers import StableDiffusionPipeline

    diffusers_pipeline(folders).save_pretrained(tmp_path)
    for part in ("tokenizer", "text_encoder"):
        shutil.rmtree(tmp_path / part)
    save_text_encoder(text, tmp_path, None)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, requires_safety_checker=False, **ABSENT)
    states, _ = pipeline.encode_prompt(PROMPTS[:3], "cpu", 1, False)
    torch.testing.assert_close(states, text.encode(PROMPTS[:3]).tokens)


def test_saving_and_opening_keeps_half_precision(folders, tmp_path):
    text = load_text(folders[0].parent, torch.float16)
    save_text_encoder(text, tmp_path, None)
    again = load_text(tmp_path, torch.float16)
    assert all(torch.equal(a, b) for a, b in zip(text.parameters(), again.parameters(), strict=True))
    assert json.loads((tmp_path / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert again.model.dtype == torch.float16


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of the folders, to be damaged."""
    return shutil.copytree(folders[0].parent, tmp_path / "model")


def test_missing_files_are_named(copied):
    (copied / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors is missing"):
        load_text(copied)
    (copied / "text_encoder" / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json is missing"):
        load_text(copied)


def test_a_missing_tokenizer_is_named(copied):
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(ModelFileError, match=r"holds neither tokenizer\.json nor vocab\.json"):
        load_text(copied)


def test_damaged_files_are_named(copied):
    weights = copied / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is truncated"):
        load_text(copied)
    (copied / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match="not valid JSON"):
        load_text(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, name: state.pop(name), "the weights lack"),
        (lambda state, name: state.update({name: torch.zeros(3)}), r"is \(3,\) where its config.json asks for"),
        (lambda state, name: state.update({"stray": torch.zeros(3)}), "stray has no place in a CLIPTextModel"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copied, change, message):
    file = copied / "text_encoder" / "model.safetensors"
    state = load_file(file)
    change(state, next(name for name in state if "final_layer_norm.weight" in name))
    save_file(state, file)
    with pytest.raises(ModelFileError, match=message):
        load_text(copied)


def test_it_is_a_text_encoder(text, folders):
    assert isinstance(text, TextEncoder)
    encoded = text.encode(PROMPTS)
    assert (text.widths.tokens, text.widths.pooled, text.length) == (
        encoded.tokens.shape[2],
        encoded.pooled.shape[1],
        encoded.tokens.shape[1],
    )
    assert text.count_tokens("a fox") == len(text.tokenizer("a fox").input_ids) - 2
    assert text.to(torch.device("cpu")) is text


def test_the_fingerprint_is_that_of_what_it_gives(text, folders):
    same, other = load_text(folders[0].parent), load_text(folders[0].parent)
    assert same.fingerprint == text.fingerprint
    assert ClipText(same.tokenizer, same.model, penultimate=True).fingerprint != text.fingerprint
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    assert other.fingerprint != text.fingerprint
