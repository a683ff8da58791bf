"""Adapters merged into the weights of a model, several at once, and taken out again to the last bit."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ldm.adapters.lora.deltas import Delta, accumulate, check_shape
from ldm.adapters.lora.layers import TEXT, TEXT_2, TOWERS, UNET, Place, changeable_parameters
from ldm.naming import look_up, nearest
from ldm.networks.unet.model import UNet

AdapterWeight = float | Mapping[str, float]
"""How strongly an adapter acts: one number, or numbers for parts of the model, `{"unet": 0.8, "unet.mid_block": 0}`.

A part is an address or its beginning up to a dot. The longest that fits a layer counts; where none does, it is 1."""


class LoraSet:
    """The adapters of one model, by name.

    A merged weight is rounded once: base + weight * delta + ... is summed in fp32, in the order of the names, and then
    stored in the weight's own type. It is always computed from the base, so changing weights never adds up errors, the
    order of loading does not matter, and at weight 0 the base tensors themselves are back, bit for bit. A DoRA counts
    as the difference that it makes to the base, so that it adds up with others.

    Memory: of every layer that an adapter changes, the base is kept, in main memory. For a model on the CPU these are
    the very tensors that it was loaded with (nothing is copied, so a memory-mapped base costs nothing), and the merged
    layers are new. On a GPU nothing is added: there the base waits outside.

    Threads: changes exclude each other. A layer is swapped whole, so a picture drawn by another thread meanwhile sees
    old and new layers, but none half written; wait for it if it matters. Until an adapter is unloaded, its layers'
    weights belong to this set: loading other weights into the model in between would be undone.

    If a change is interrupted (memory, Ctrl-C), the model has its base weights and every adapter weight 0.
    """

    def __init__(
        self,
        unet: UNet,
        text_encoder: nn.Module | None = None,
        text_encoder_2: nn.Module | None = None,
        weights_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Adapt these networks.

        Args:
            unet: the denoising network.
            text_encoder: our ClipTextModel, or transformers' CLIPTextModel or CLIPTextModelWithProjection.
            text_encoder_2: the same, of SDXL's second tower.
            weights_changed: called after each change of weights, for an engine that keeps copies of them.
        """
        self._weights_changed = weights_changed
        towers = {UNET: unet, TEXT: text_encoder, TEXT_2: text_encoder_2}
        self.unet_config = unet.config
        self._places = changeable_parameters({tower: each for tower, each in towers.items() if each is not None})
        self._deltas: dict[str, dict[str, Delta]] = {}
        self._weights: dict[str, AdapterWeight] = {}
        self._base: dict[str, Tensor] = {}
        self._merged: dict[str, tuple[tuple[str, float], ...]] = {}
        self._lock = threading.RLock()

    @property
    def weights(self) -> dict[str, AdapterWeight]:
        """The weight of every loaded adapter, by name."""
        return dict(self._weights)

    def deltas(self, name: str) -> dict[str, Delta]:
        """The deltas of a loaded adapter, by address; `ldm.io.lora.write.save_lora` writes it.

        Raises:
            ValueError: an unknown name.
        """
        return dict(look_up("LoRA", name, self._deltas))

    @property
    def places(self) -> Mapping[str, Place]:
        """The parameters that adapters can change, by address."""
        return self._places

    def add(self, deltas: Mapping[str, Delta], name: str, weight: AdapterWeight = 1.0) -> None:
        """Merge an adapter that is in memory: deltas by address.

        Raises:
            ValueError: the name is taken, the weight is none, or an address or a shape is not the model's.
        """
        with self._lock:
            if name in self._deltas:
                raise ValueError(f"a LoRA named {name!r} is loaded already; unload it, or give this one another name")
            weight = self._checked(name, weight)
            for layer, delta in deltas.items():
                place = look_up("layer", layer, self._places)
                try:
                    check_shape(delta, tuple(place.parameter.shape))
                except ValueError as error:
                    raise ValueError(f"{layer}: {error}") from None
            self._deltas[name], self._weights[name] = dict(deltas), weight
            self._merge()

    def set_weights(self, weights: Mapping[str, AdapterWeight]) -> None:
        """Give some of the loaded adapters other weights.

        Raises:
            ValueError: unknown names and parts.
        """
        with self._lock:
            for name in weights:
                look_up("LoRA", name, self._deltas)
            self._weights |= {name: self._checked(name, weight) for name, weight in weights.items()}
            self._merge()

    @torch.inference_mode(False)
    @torch.no_grad()
    def merged_at(self, weights: Mapping[str, AdapterWeight]) -> dict[nn.Module, dict[str, Tensor]]:
        """The weights of layers as if some of the loaded adapters had other ones, as tags of one prompt say.

        The model stays as it is: `ldm.adapters.lora.view.with_weights` makes networks that have them.

        Returns:
            Weights and biases by module and name, for every one that differs from the model's own.

        Raises:
            ValueError: an unknown name or part.
        """
        with self._lock:
            for name in weights:
                look_up("LoRA", name, self._deltas)
            checked = {name: self._checked(name, weight) for name, weight in weights.items()}
            sums = self._sums({**self._weights, **checked})
            changed = [
                layer for layer in sums.keys() | self._merged.keys() if sums.get(layer) != self._merged.get(layer)
            ]
            views: dict[nn.Module, dict[str, Tensor]] = {}
            for layer in changed:
                place = self._places[layer]
                views.setdefault(place.module, {})[place.name] = self._merged_weight(layer, sums.get(layer, ()))
            return views

    def unload(self, name: str | None = None) -> None:
        """Take one adapter out, or all.

        Raises:
            ValueError: an unknown name.
        """
        with self._lock:
            if name is not None:
                look_up("LoRA", name, self._deltas)
            for gone in [name] if name is not None else list(self._deltas):
                del self._deltas[gone], self._weights[gone]
            self._merge()

    def _checked(self, name: str, weight: AdapterWeight) -> AdapterWeight:
        """The weight as a float or a dict of our own. Raises ValueError."""
        numbers = weight.values() if isinstance(weight, Mapping) else [weight]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"LoRA {name!r}: weight={number!r} is no weight; use a number such as 0.8")
        if not isinstance(weight, Mapping):
            return float(weight)
        parts = {part for layer in self._places for part in _beginnings(layer)} | set(TOWERS)
        for part in weight:
            if part not in parts:
                raise ValueError(f"LoRA {name!r}: the model has no part {part!r}; {nearest(part, parts)}")
        return {part: float(number) for part, number in weight.items()}

    @torch.inference_mode(False)
    @torch.no_grad()
    def _merge(self) -> None:
        """Bring every layer to what the adapters and weights of now say."""
        sums = self._sums(self._weights)
        try:
            for layer in self._merged.keys() - sums.keys():
                self._restore(layer)
            for layer, terms in sums.items():
                if self._merged.get(layer) != terms:
                    merged = self._merged_weight(layer, terms)
                    parameter = self._places[layer].parameter
                    self._base.setdefault(layer, parameter.data.cpu())
                    parameter.data = merged
                    self._merged[layer] = terms
        except BaseException:
            for layer in list(self._base):
                self._restore(layer)
            self._weights = dict.fromkeys(self._weights, 0.0)
            raise
        finally:
            self._weights_changed()

    def _sums(self, weights: Mapping[str, AdapterWeight]) -> dict[str, tuple[tuple[str, float], ...]]:
        """The deltas of each changed layer: names and weights of adapters, in the order of the names."""
        sums: dict[str, tuple[tuple[str, float], ...]] = {}
        for name in sorted(self._deltas):
            for layer in self._deltas[name]:
                if number := _weight_of(weights[name], layer):
                    sums[layer] = (*sums.get(layer, ()), (name, number))
        return sums

    def _merged_weight(self, layer: str, terms: tuple[tuple[str, float], ...]) -> Tensor:
        """The layer's base plus the terms, a tensor of its own."""
        weight = self._places[layer].parameter
        # Not the base's device: on a GPU bases wait in main memory.
        base = self._base.get(layer, weight.data).to(weight.device, torch.float32)
        merged = base.clone()
        for name, number in terms:
            accumulate(merged, self._deltas[name][layer], number, base)
        return merged.to(weight.dtype)

    def _restore(self, layer: str) -> None:
        weight = self._places[layer].parameter
        weight.data = self._base[layer].to(weight.device, weight.dtype)
        del self._base[layer]
        self._merged.pop(layer, None)


def _beginnings(layer: str) -> Iterator[str]:
    words = layer.split(".")
    return (".".join(words[:count]) for count in range(1, len(words) + 1))


def _weight_of(weight: AdapterWeight, layer: str) -> float:
    if not isinstance(weight, Mapping):
        return weight
    return next((weight[part] for part in reversed(list(_beginnings(layer))) if part in weight), 1.0)
