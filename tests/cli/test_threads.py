"""OpenMP's threads are told to sleep soon before torch loads it, and a user's word on it counts."""

import os
import subprocess
import sys

import pytest

from ldm.cli.threads import wait_briefly

WATCHED = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch finds", os.environ.get("GOMP_SPINCOUNT"), file=sys.stderr)

sys.meta_path.insert(0, Watch())
from ldm.cli import main
main(["doctor"])
"""


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_a_users_setting_is_kept(own: dict[str, str]):
    environment = dict(own)
    wait_briefly(environment)
    assert environment == own


@pytest.mark.slow
def test_a_command_says_it_before_torch_is_imported():
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    result = subprocess.run(
        [sys.executable, "-c", WATCHED], env=clean, capture_output=True, text=True, timeout=120, check=False
    )
    assert "torch finds 3000" in result.stderr, result.stderr
