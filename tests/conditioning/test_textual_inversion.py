"""Textual inversions: files that are read and refused, and words that stand for vectors."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_text import tiny_text

from conditioning.clip.textual_inversion import Embedding
from conditioning.prompt.encoder import PromptEncoder
from ldm.io.embedding import load_embedding

VECTORS = torch.arange(48, dtype=torch.float32).reshape(3, 16) / 10


def webui_file(vectors, container=dict):
    """What A1111 saves; CompVis's container is a ParameterDict."""
    return {"string_to_token": {"*": 265}, "string_to_param": container({"*": vectors}), "name": "x", "step": 10}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_text(tmp_path_factory.mktemp("tokenizer"), 30)


@pytest.fixture
def spelled(text):
    """Embeddings whose vectors are those of ordinary words, so that prompts with and without them must read alike."""

    def spell(**names: str) -> dict[str, Embedding]:
        ids = {name: torch.tensor([text.ids(words)]) for name, words in names.items()}
        return {name: Embedding(name, text.embed(row)[0].float()) for name, row in ids.items()}

    return spell


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", {"emb_params": VECTORS}),
        ("a.safetensors", {"<cat-toy>": VECTORS}),
        ("a.safetensors", {"emb_params": VECTORS.half()}),
        ("a.safetensors", {"clip_l": VECTORS, "clip_g": torch.zeros(3, 32)}),
        ("a.pt", webui_file(VECTORS)),
        ("a.pt", webui_file(torch.nn.Parameter(VECTORS.clone()))),
        ("a.pt", webui_file(torch.nn.Parameter(VECTORS.clone()), torch.nn.ParameterDict)),
        ("a.bin", {"<cat-toy>": VECTORS}),
    ],
)
def test_every_kind_of_file_gives_its_vectors(tmp_path, name, content):
    (save_file if name.endswith("safetensors") else torch.save)(content, tmp_path / name)
    embedding = load_embedding(tmp_path / name, 16)
    assert embedding.name == "a" and load_embedding(tmp_path / name, 16, name="<x>").name == "<x>"
    assert embedding.vectors.dtype == torch.float32 and not embedding.vectors.requires_grad
    torch.testing.assert_close(embedding.vectors, VECTORS, rtol=1e-3, atol=1e-3)


def test_a_single_vector_is_one_row(tmp_path):
    torch.save({"<x>": VECTORS[0]}, tmp_path / "a.bin")
    assert torch.equal(load_embedding(tmp_path / "a.bin", 16).vectors, VECTORS[:1])


def test_old_pickles_without_an_archive_are_read(tmp_path):
    torch.save(webui_file(VECTORS), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_embedding(tmp_path / "a.pt", 16).vectors, VECTORS)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_never_runs(tmp_path, zipped):
    content = webui_file(VECTORS) | {"extra": Payload(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(OSError, match=r"a\.pt asks to run .* was not opened.*get the \.safetensors") as caught:
        load_embedding(tmp_path / "a.pt", 16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "the payload of this test would do nothing anyway"


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_damaged_files_are_named_in_one_line(tmp_path, name, part):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)({"emb_params": VECTORS}, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(OSError, match=name.replace(".", r"\.")) as caught:
        load_embedding(path, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"emb_params": torch.zeros(2, 768)}, r"a\.bin is an embedding of width 768; this text tower has width 16"),
        ({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, "width 768 and 1280; .* width 16"),
        ({"<a>": VECTORS, "<b>": VECTORS}, r"holds several embeddings \(<a>, <b>\)"),
        ({"a": torch.zeros(2, 2, 16)}, "holds no embedding"),
        ({"a": torch.zeros(2, 16, dtype=torch.long)}, "holds no embedding"),
        ({"a": torch.zeros(0, 16)}, "holds no embedding"),
        ([VECTORS], "holds no embedding"),
        ({}, "holds no embedding"),
    ],
)
def test_what_is_no_embedding_for_this_tower_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=message):
        load_embedding(tmp_path / "a.bin", 16)


def test_missing_files_and_other_suffixes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.pt is missing"):
        load_embedding(tmp_path / "a.pt", 16)
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(ValueError, match=r"a\.ckpt is no embedding file; use one of \.safetensors, \.pt, \.bin"):
        load_embedding(tmp_path / "a.ckpt", 16)


@pytest.mark.parametrize("clip_skip", [0, 2])
@pytest.mark.parametrize(("mode", "call"), [("a1111", "my-emb"), ("comfy", "embedding:my-emb")])
def test_an_embedding_made_of_words_reads_bit_for_bit_as_the_words(text, spelled, mode, call, clip_skip):
    encoder = PromptEncoder(text, mode, clip_skip, spelled(**{"my-emb": "red apple left"}))
    plain = PromptEncoder(text, mode, clip_skip)
    for form in ("a {}, 3d style", "{}", "a ({}:1.3), (fox) {}"):
        ours, words = encoder.encode([form.format(call, call)]), plain.encode([form.replace("{}", "red apple left")])
        assert torch.equal(ours.tokens, words.tokens) and torch.equal(ours.pooled, words.pooled)
    assert encoder.report(f"a {call} fox").total == 5


def test_other_vectors_give_other_states(text):
    encoder = PromptEncoder(text, embeddings={"my-emb": Embedding("my-emb", VECTORS)})
    with_it, without = encoder.encode(["a my-emb"]).tokens, text.encode(["a my-emb"]).tokens
    assert torch.equal(with_it[:, :2], without[:, :2]), "the tower is causal"
    assert not torch.allclose(with_it[:, 2], without[:, 2])


def test_the_vectors_of_one_embedding_stay_in_one_chunk(text, spelled):
    encoder = PromptEncoder(text, embeddings=spelled(ten="fox " * 10))
    assert [encoder.report("cat " * words + "ten").chunks for words in (20, 21)] == [1, 2]
    report = encoder.report("cat " * 21 + "ten cat")
    assert (report.total, report.chunks) == (32, 2)
    expected = torch.cat([text.encode(["cat " * 21]).tokens, text.encode(["fox " * 10]).tokens], dim=1)
    assert torch.equal(encoder.encode(["cat " * 21 + "ten"]).tokens, expected)


def test_the_longest_name_is_meant(text, spelled):
    encoder = PromptEncoder(text, embeddings=spelled(my="red", **{"my-emb": "fox"}))
    assert torch.equal(encoder.encode(["my-emb my"]).tokens, text.encode(["fox red"]).tokens)


def test_commas_behind_a_name_are_read(text, spelled):
    encoder = PromptEncoder(text, "comfy", embeddings=spelled(x="fox", **{"y,": "cat"}))
    assert torch.equal(encoder.encode(["embedding:x, red"]).tokens, text.encode(["fox , red"]).tokens)
    assert torch.equal(encoder.encode(["embedding:y, red"]).tokens, text.encode(["cat red"]).tokens)


def test_each_mode_has_its_own_way_to_call(text, spelled):
    for mode, prompt in (("comfy", "a xyz"), ("plain", "a xyz"), ("plain", "a embedding:xyz")):
        ours = PromptEncoder(text, mode, embeddings=spelled(xyz="fox")).encode([prompt])
        assert torch.equal(ours.tokens, text.encode([prompt]).tokens)


@pytest.mark.parametrize(
    ("mode", "prompt", "message"),
    [
        ("comfy", "embedding:mi-emb,", "embedding:mi-emb is unknown; there are: my-emb"),
        ("comfy", "embedding:wide", "embedding wide has width 20; the text tower has 16"),
        ("a1111", "a wide", "embedding wide has width 20; the text tower has 16"),
        ("a1111", "a long", "embedding long has 31 vectors; a chunk has 30 places"),
    ],
)
def test_what_cannot_be_put_into_a_prompt_is_named(text, mode, prompt, message):
    sizes = {"my-emb": (1, 16), "wide": (1, 20), "long": (31, 16)}
    embeddings = {name: Embedding(name, torch.zeros(size)) for name, size in sizes.items()}
    with pytest.raises(ValueError, match=message):
        PromptEncoder(text, mode, embeddings=embeddings).encode([prompt])


def test_tokenizer_and_tower_stay_as_they_were(text, spelled):
    before = {name: value.clone() for name, value in text.state_dict().items()}
    modules, words = [*text.modules()], len(text.tokenizer)
    PromptEncoder(text, clip_skip=1, embeddings=spelled(xyz="fox")).encode(["a xyz"])
    assert [*text.modules()] == modules and len(text.tokenizer) == words
    assert all(torch.equal(value, before[name]) for name, value in text.state_dict().items())


def test_threads_with_other_embeddings_do_not_meet(text, spelled):
    words = ["red", "fox", "apple", "cat"] * 4
    encoders = [PromptEncoder(text, "a1111", n % 3, spelled(xyz=word)) for n, word in enumerate(words)]
    expected = [text.encode([f"a {word}"], n % 3).tokens for n, word in enumerate(words)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda encoder: encoder.encode(["a xyz"]).tokens, encoders))
    assert all(torch.equal(a, b) for a, b in zip(read, expected, strict=True))
