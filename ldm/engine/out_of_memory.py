"""Errors of memory that ran out, as PyTorch raises them and as we do; light to import, for command lines."""

import re

_CPU_ALLOCATORS = ("DefaultCPUAllocator", "unable to mmap", "annot allocate memory", "an't allocate memory")
_NEEDED = re.compile(r"ried to allocate ([\d.]+ \w+)")


class NotEnoughMemory(MemoryError):
    """Memory ran out, and there is no smaller way to go on; the message has the numbers and what helps."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short: PyTorch has a class for it on GPUs only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATORS)


def needed(error: Exception) -> str:
    """What could not be had, e.g. `2.00 GiB`, or "more" where the error does not say it."""
    found = _NEEDED.search(str(error))
    if found is None:
        return "more"
    count, unit = found[1].split()
    return f"{float(count) / 2**30:.2f} GiB" if unit == "bytes" else found[1]
