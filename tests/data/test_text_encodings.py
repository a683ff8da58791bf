"""Captions as people's editors save them: every encoding is read, doubts are said, one bad record spoils no other."""

import logging
from pathlib import Path

import pytest
from picture_files import captions, opened, png, put, tar

from ldm.data.check import check
from ldm.data.sources.text_encodings import decode_text

TEXT = "Ein Café für Zoë – 20 €"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_texts_and_utf8_are_read_without_a_word(encoding: str) -> None:
    assert decode_text(TEXT.encode(encoding)) == (TEXT, "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_known_by_its_zeros(encoding: str) -> None:
    text, note = decode_text(TEXT.encode(encoding))
    assert text == TEXT and "UTF-16" in note


def test_cp1252_is_read_and_said() -> None:
    text, note = decode_text(TEXT.encode("cp1252"))
    assert text == TEXT and "0xe9" in note and "cp1252" in note


def test_a_stray_byte_costs_no_other_letter() -> None:
    text, note = decode_text("Zoë and ".encode() + b"caf\xe9")
    assert text == "Zoë and café" and note


def test_any_bytes_are_some_text() -> None:
    for content in (b"", b"\x81", b"\x00", b"\xff\xfea", bytes(range(256)), b"\x00\xd8" * 3):
        assert isinstance(decode_text(content)[0], str)


def test_folders_and_shards_read_all_and_say_what_was_odd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = {"a.txt": "café".encode("cp1252"), "b.txt": "été".encode("utf-16"), "c.txt": b"plain"}
    pictures = {f"{name}.png": png(seed) for seed, name in enumerate("abc")}
    put(tmp_path / "folder", {**odd, **pictures})
    members = {name: {**odd, **pictures}[name] for name in sorted({**odd, **pictures})}
    (tmp_path / "shards").mkdir()
    tar(tmp_path / "shards" / "0.tar", members)
    for place in ("folder", "shards"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert list(captions(opened(tmp_path / place)).values()) == [["café"], ["été"], ["plain"]]
        assert "1 of 3 records are odd" in caplog.text and "cp1252" in caplog.text
        assert ["cp1252" in problem.what for problem in check(tmp_path / place)] == [True]


def test_sidecars_are_found_whatever_the_case(tmp_path: Path) -> None:
    put(tmp_path, {"IMG_1.JPG": png(1), "IMG_1.TXT": "one", "img_2.png": png(2), "Img_2.Caption": "two"})
    put(tmp_path, {"x.png": png(3), "x.txt": "mine", "X.TXT": "of another"})
    assert captions(opened(tmp_path)) == {"IMG_1.JPG": ["one"], "img_2.png": ["two"], "x.png": ["mine"]}


@pytest.mark.parametrize(
    "table",
    [
        "image,prompt\n1.png,a fox\n",
        "file;text\n1.png;a fox\n",
        "path\tcaption\n1.png\ta fox\n",
        '"filename","prompt"\n1.png,a fox\n',
    ],
)
def test_tables_name_pictures_and_captions_in_the_usual_ways(tmp_path: Path, table: str) -> None:
    put(tmp_path, {"metadata.csv": table, "1.png": png(1)})
    assert captions(opened(tmp_path)) == {"1.png": ["a fox"]}


def test_a_table_without_a_known_column_names_those_it_has(tmp_path: Path) -> None:
    put(tmp_path, {"metadata.csv": "photo,words\n1.png,a fox\n", "1.png": png(1)})
    with pytest.raises(ValueError, match=r"metadata.csv has the columns photo, words; name the one .* file_name"):
        opened(tmp_path)


def test_bad_rows_are_passed_over_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "lines", {"metadata.jsonl": '{"file_name": "1.png", "text": "one"}\n{oh\n[1]\n{"text": "whose?"}\n'})
    put(tmp_path / "cells", {"metadata.csv": "file_name,text\n1.png,one\n2.png,two, and more\n"})
    for place, count in (("lines", 3), ("cells", 1)):
        put(tmp_path / place, {"1.png": png(1)})
        caplog.clear()
        assert captions(opened(tmp_path / place)) == {"1.png": ["one"]}
        assert f"{count} rows passed over ({tmp_path / place}" in caplog.text
        assert sum("passed over" in problem.what for problem in check(tmp_path / place)) == count


def test_a_table_in_cp1252_is_read_and_said(tmp_path: Path) -> None:
    put(tmp_path, {"metadata.csv": "file_name,text\n1.png,café\n".encode("cp1252"), "1.png": png(1)})
    assert captions(opened(tmp_path)) == {"1.png": ["café"]}
    (problem,) = check(tmp_path)
    assert "cp1252" in str(problem)
