"""Imports point downwards between packages, and `autoencoder` and `conditioning` know nothing of `ldm`."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest
from checkout import ROOT

LAYERS = (
    ("ldm.cli",),
    ("ldm.evaluation",),
    ("ldm.training",),
    ("ldm.pipeline",),
    ("ldm.tasks",),
    ("ldm.generation",),
    ("ldm.data",),
    ("ldm.io", "ldm.degradation"),
    ("ldm.families",),
    ("ldm.adapters", "ldm.guidance"),
    ("ldm.samplers",),
    ("ldm.schedules",),
    ("ldm.denoiser",),
    ("ldm.process", "ldm.noise", "ldm.operators"),
    ("ldm.engine",),
    ("ldm.networks",),
    ("ldm.naming", "ldm.progress"),
    ("conditioning",),
    ("autoencoder",),
)
"""From the faces down to the networks, as in the README; packages of one line do not know each other."""
RANK = {package: rank for rank, packages in enumerate(LAYERS) for package in packages}
SOURCES = sorted(path for package in ("ldm", "autoencoder", "conditioning") for path in (ROOT / package).rglob("*.py"))


def package_of(module: str) -> str | None:
    """The package of `LAYERS` that a dotted name lies in; None for other people's modules and for `ldm` itself."""
    return next((package for package in RANK if module == package or module.startswith(f"{package}.")), None)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that is imported, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", RANK)
def test_imports_point_downwards(package: str) -> None:
    upwards = []
    for path in SOURCES:
        place = path.relative_to(ROOT)
        if package_of(".".join(place.with_suffix("").parts)) != package:
            continue
        for line, name in imports(ast.parse(path.read_text(encoding="utf-8"))):
            target = package_of(name)
            if target is not None and target != package and RANK[target] <= RANK[package]:
                upwards.append(f"{place}:{line} imports {name}")
    assert not upwards, "\n".join(upwards)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not for types either: such files are one thing in several places, and cannot be read one after the other."""
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    graph = {}
    for module, path in dotted.items():
        names = [name for _, name in imports(ast.parse(path.read_text(encoding="utf-8")))]
        targets = {name if name in dotted else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & dotted.keys()) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_has_its_place() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}
    assert {module for module in modules if package_of(module) is None} == {"ldm"}
