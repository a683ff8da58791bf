"""How a drawing goes on when memory runs out: fewer pictures at a time, other networks off the GPU, tiles."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from autoencoder.tiles import Tiling
from autoencoder.views import Module
from conditioning.bundle import Conditioning
from ldm.engine.engine import Engine
from ldm.engine.memory import release_freed_memory
from ldm.engine.out_of_memory import NotEnoughMemory, is_out_of_memory, needed
from ldm.families.parts import ModelParts
from ldm.generation.memory import free_memory
from ldm.generation.vae_memory import VaeMemory
from ldm.io.disk.files import size_in_words
from ldm.networks.network import Backbone, Network
from ldm.networks.options import PLAIN, NetworkOptions
from ldm.networks.token_merging import MergedAttention

_log = logging.getLogger(__name__)


class Coding(Protocol):
    """What encodes and decodes pictures: `ldm.generation.components.Components`, where all of this is described."""

    device: torch.device
    vae_memory: float
    wraps: tuple[bool, bool]

    @property
    def parts(self) -> ModelParts:
        """All of the model."""

    def make_room(self) -> bool:
        """Leave only the network that is used on a GPU that is full."""


class WithinMemory:
    """An engine whose networks take a batch in parts from the first time on that all of it does not fit.

    Rows do not depend on one another, so only rounding changes. It is made for one drawing, and stays with what it
    found to fit. Calls with an attention hook, which may look at all rows (token merging does not),
    and those with a feature cache, which counts calls, are not cut.

    Args:
        engine: which runs the networks.
        device: where they run.
        make_room: frees memory there by other means, where one row does not fit; whether that was possible.
    """

    def __init__(self, engine: Engine, device: torch.device, make_room: Callable[[], bool]) -> None:
        self._engine, self._device, self._make_room = engine, device, make_room
        self._rows: int | None = None  # that fit at once, where not all do

    @property
    def name(self) -> str:
        """The engine's."""
        return self._engine.name

    @property
    def hosts(self) -> frozenset[str]:
        """The engine's."""
        return self._engine.hosts

    def view(self, module: Module) -> Module:
        """The engine's."""
        return self._engine.view(module)

    def weights_changed(self) -> None:
        """The engine's."""
        self._engine.weights_changed()

    def network(self, backbone: Backbone) -> Network:
        """The engine's network, in parts where they are needed."""
        network = self._engine.network(backbone)

        def run(
            x: Tensor,
            time: Tensor,
            conditioning: Conditioning | None = None,
            options: NetworkOptions = PLAIN,
        ) -> Tensor:
            def part(rows: slice) -> Tensor:
                own = None if conditioning is None else conditioning[rows]
                return network(x[rows], time[rows], own, options[rows])

            def whole() -> Tensor:
                return network(x, time, conditioning, options)

            by_rows = options.hook is None or isinstance(options.hook, MergedAttention)
            return self._in_parts(part, whole, x, cut=by_rows and options.reuse is None)

        return run

    def _in_parts(self, part: Callable[[slice], Tensor], whole: Callable[[], Tensor], x: Tensor, cut: bool) -> Tensor:
        count = len(x)
        rows = min(self._rows or count, count) if cut else count
        while True:
            slices = [slice(begin, begin + rows) for begin in range(0, count, rows)]
            made = attempt(whole if rows == count else partial(_joined, part, slices))
            if isinstance(made, Tensor):
                return made
            if not cut or rows == 1:
                if self._make_room():
                    continue
                what = f"a step with {rows} latent{'s' * (rows > 1)} of {x.shape[2]} x {x.shape[3]} cells"
                raise give_up(what, made, self._device, _SMALLER_STEP)
            rows = self._rows = (rows + 1) // 2
            _log.warning("a step of %d latents ran out of memory (%s); going on with %d at a time", count, made, rows)


def coded_within_memory(
    model: Coding, what: str, x: Tensor, cells: tuple[int, int], run: Callable[[Tiling | None, Tensor], Tensor]
) -> Tensor:
    """What an autoencoder makes of a batch x, in the largest way that fits: whole, one by one, in ever smaller tiles.

    What was found to fit is the model's `vae_memory` from then on; recipes record it. Where nothing that takes part
    wants gradients, none are prepared, so that engines run as they do in a drawing.

    Args:
        model: whose autoencoder and `vae_memory` it is.
        what: is done, for messages.
        x: (B, ...).
        cells: height and width of the latents.
        run: does it, in tiles or without.

    Raises:
        NotEnoughMemory: the smallest tile does not fit.
    """
    vae = VaeMemory(model.parts.autoencoder, model.parts.latent_format.factor, model.device, model.wraps)
    rows = len(x)
    trained = x.requires_grad or any(weight.requires_grad for weight in model.parts.autoencoder.parameters())
    while True:
        tiling = vae.tiling(cells, model.vae_memory)
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            made = attempt(partial(_joined, partial(run, tiling), x.split(rows)))
        if isinstance(made, Tensor):
            return made
        if tiling is None and rows > 1:
            rows = (rows + 1) // 2
            _log.warning("%s %d pictures ran out of memory (%s); going on with %d at a time", what, len(x), made, rows)
            continue
        if model.make_room():
            continue
        smaller = vae.smaller(cells, model.vae_memory)
        if smaller is None:
            raise give_up(f"{what} {cells[0]} x {cells[1]} cells in the smallest tiles", made, model.device, _SMALLER)
        model.vae_memory = smaller
        _log.warning("%s ran out of memory (%s); going on in tiles, --vae-memory %.2g", what, made, smaller)


_SMALLER = "a smaller --width and --height, or close other programs"
_SMALLER_STEP = "a smaller --width and --height, --tile-size, --offload, --dtype, or close other programs"


def attempt(run: Callable[[], Tensor]) -> Tensor | str:
    """What `run` gives; where memory ran out, what could not be had in a few words, and all that it held is free."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or isinstance(error, NotEnoughMemory):
            raise
        more = needed(error)
    release_freed_memory()  # out here, where no traceback holds what the attempt had made
    return more


def give_up(what: str, more: str, device: torch.device, helps: str) -> NotEnoughMemory:
    """The error at the end of the ladder.

    Args:
        what: did not fit.
        more: that could not be had.
        device: which was full.
        helps: options of the command line that make it smaller.
    """
    free = free_memory(device)
    left = "" if free is None else f", and {size_in_words(free)} are free"
    return NotEnoughMemory(f"{what} does not fit into the memory of {device}: it needs {more}{left}; use {helps}")


def _joined(run: Callable[[Any], Tensor], parts: Sequence[Any]) -> Tensor:
    made = [run(part) for part in parts]
    return made[0] if len(made) == 1 else torch.cat(made)  # one large picture is not copied
