"""A kill during a save leaves a verified checkpoint: a few here, fifty with `kill_while_saving.py`."""

import os
import subprocess
import sys

import pytest
from checkout import ROOT, SUPPORT

pytestmark = pytest.mark.slow

_KILLS = "8"


def test_kills_while_saving_leave_a_verified_checkpoint(tmp_path):
    script = str(SUPPORT / "kill_while_saving.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path), _KILLS],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{_KILLS} kills, each left a verified checkpoint")
