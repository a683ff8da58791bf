"""Which maps are made: a law of memory that no machine's allocator changes."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class FullMaps(TorchDispatchMode):
    """Counts the operators that give a map of at least so many numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.count = numbers, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        view = any(alias.alias_info is not None for alias in function._schema.returns)
        if isinstance(out, Tensor) and not view and out.numel() >= self.numbers:
            self.count += 1
        return out
