"""The memory allocators of this process: what they keep, and what they give back."""

import ctypes
import gc
import mmap
import os
import platform

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30
_NEVER = -1
_LARGE_PAGE = 2**21
_COMPILED_KERNELS = 256


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for its next allocation, where the C library is glibc.

    By default glibc hands large blocks back to the system and fetches them anew, and every page of them (4 KiB) is then
    a fault that the system answers by zeroing it: 50,000 faults, 7 % of the time, in a step of the shipped model's
    training, whose tensors have the same sizes in every step. The process's memory stays at its peak, and this cannot
    be taken back: it is for a process that does nothing else, as `ldm train` is. Memory also comes in large pages (2
    MiB), where Linux has them: a step walks through gigabytes, and the processor remembers the places of some thousand
    pages only. Settings of the environment (`MALLOC_…`, `GLIBC_TUNABLES`) are overruled; anywhere else nothing is
    changed. See mallopt(3), madvise(2).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            _ask_for_large_pages(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2)


def _ask_for_large_pages(size: int) -> None:
    """Let the next `size` bytes of the heap be large pages: they are reserved, marked and freed, never touched."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = _LARGEST - 2 * _LARGE_PAGE
    held: list[ctypes.c_void_p] = []
    while len(held) * block < size and (place := libc.malloc(ctypes.c_size_t(block))):
        held.append(ctypes.c_void_p(place))
        start = -(-place // _LARGE_PAGE) * _LARGE_PAGE
        length = (place + block - start) // _LARGE_PAGE * _LARGE_PAGE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    for place in held:
        libc.free(place)


def release_freed_memory() -> None:
    """Give back to the system what this process, or PyTorch for a GPU, keeps of memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def lack_of_memory(needed: int, share: float) -> str:
    """Why weights should not be held a second time, in words; empty where they fit.

    Args:
        needed: bytes.
        share: of the free memory that they may take; a step needs some for its maps.
    """
    import psutil

    free = psutil.virtual_memory().available
    if needed <= share * free:
        return ""
    return f"{needed / 1e9:.1f} GB of packed weights do not fit well into {free / 1e9:.1f} GB of free memory"


def bound_compiled_kernels() -> None:
    """Let oneDNN, PyTorch's library for CPUs, keep fewer of the kernels that it compiles for every shape anew.

    By default it keeps 1,024, of about 0.2 MB each, so that a process that draws pictures of ever other sizes grows by
    some 200 MB. 256 are enough for all shapes of one size of the largest networks here. It reads its setting once,
    before its first kernel; one that the environment has already stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_COMPILED_KERNELS))
