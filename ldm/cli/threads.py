"""How the threads of a computation wait for each other."""

import os
from collections.abc import MutableMapping

_LOOKS = "3000"
"""A fraction of a millisecond, in place of libgomp's 300,000 looks: as fast on free cores, far below a time slice."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP's threads sleep after a short wait, unless the user says how they wait.

    By default they look again and again until the others are ready. Where another program holds a core, two of them
    share one, and each looks for a whole time slice of the thread that it waits for, at every parallel loop: a picture
    of half a second took 18 s. OpenMP reads its settings when it is loaded, with torch, so this comes before.

    Args:
        environment: of this process; a user's OMP_WAIT_POLICY or GOMP_SPINCOUNT is kept.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment):
        environment["GOMP_SPINCOUNT"] = _LOOKS
