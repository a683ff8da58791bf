"""OpenMP's threads are told to sleep soon before torch loads it, and a user's word on it counts."""

import os
import subprocess
import sys

import pytest

from ldm.cli.threads import wait_briefly


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_a_users_setting_is_kept(own: dict[str, str]):
    environment = dict(own)
    wait_briefly(environment)
    assert environment == own


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's OpenMP")
def test_openmp_knows_it_when_torch_loads_it():
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    program = "from ldm.cli import main; main(['doctor'])"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "GOMP_SPINCOUNT" not in result.stderr:
        pytest.skip("this torch has another OpenMP")
    assert "GOMP_SPINCOUNT = '3000'" in result.stderr
