"""Imports of a command, in the time that they need."""

import gc
from importlib import import_module


def import_quickly(name: str) -> None:
    """Import a module, and whatever it imports, without looking for garbage meanwhile.

    Importing torch makes hundreds of thousands of objects that stay for good. Looking through them again and again for
    cycles to free takes as long as half of the import; afterwards they are left out of every later look.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        import_module(name)
    finally:
        gc.freeze()
        if looking:
            gc.enable()
