"""Fixtures of the tests of engines that convert networks."""

import pytest
import torch

from ldm.engine import graph


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))  # of this process's tests
    with torch.inference_mode():
        yield


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each conversion."""
    made, export = [], graph.export
    monkeypatch.setattr(graph, "export", lambda *given: made.append("one") or export(*given))
    return made
