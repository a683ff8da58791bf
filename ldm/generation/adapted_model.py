"""A model with what was loaded on top of it: LoRAs and textual inversions, and how its pictures' recipes name them."""

import copy
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from autoencoder.seamless import seamless
from autoencoder.tiny import TinyAutoencoder
from ldm.adapters.lora.layers import TEXT, TEXT_2, UNET
from ldm.adapters.lora.view import with_weights
from ldm.families.few_step_loras import FewStepLora, few_step_lora
from ldm.families.parts import FewSteps, ModelParts
from ldm.generation.components import Components
from ldm.generation.request import Request
from ldm.io.folder.text_encoder import towers_by_folder

if TYPE_CHECKING:
    from conditioning.clip.textual_inversion import Embedding
    from ldm.adapters.lora.adapter_set import AdapterWeight, LoraSet
    from ldm.io.lora.load import LoraReport

_log = logging.getLogger(__name__)
_FEW_STEPS = "few-steps"
"""The name of the model's own LoRA for few steps in its `LoraSet`."""


class AdaptedModel(Components):
    """The networks of a model, with adapters and further words of prompts.

    Attributes:
        attention: the backend of the denoising network.
        vae_source: where the autoencoder is from, if it is not the model's own.
        preview_autoencoder: a TAESD that decodes previews.
        load_options: what the caller said of a single file against what it says itself.
        few_step_loras: the published LoRAs for few steps among those that were loaded, by name.
    """

    attention: str
    vae_source: str | None
    preview_autoencoder: TinyAutoencoder | None
    load_options: dict[str, Any]

    def _begin_without_adapters(self) -> None:
        self.embeddings: dict[str, Embedding] = {}
        self._embedding_files: dict[str, str] = {}
        self._lora_files: dict[str, str] = {}
        self.few_step_loras: dict[str, FewStepLora] = {}
        self._allow_unmatched = False
        self._finding = threading.Lock()
        self._few_steps_view: list[tuple[Any, ModelParts]] = []  # the last one, shared by the views of this model

    def load_embedding(self, path: str | Path, name: str | None = None) -> str:
        """Make a textual inversion a word of prompts.

        Args:
            path: of the file, or its name in the library.
            name: the word; by default the file's name without suffix.

        Returns:
            The word.

        Raises:
            ValueError: as `ldm.io.embedding.load_embedding`.
            FileNotFoundError: there is no such file.
            OSError: the file cannot be read.
        """
        from ldm.io.embedding import load_embedding
        from ldm.io.library import known_path

        path = known_path("embeddings", path)
        if self.parts.text is None:
            raise ValueError(f"{path}: this model has no text encoder, so it reads no embeddings")
        embedding = load_embedding(path, self._text_widths, name)
        self.embeddings[embedding.name] = embedding
        self._embedding_files[str(path)] = embedding.name
        return embedding.name

    @property
    def _text_widths(self) -> list[int]:
        return [] if self.parts.text is None else [tower.width for tower in self.parts.text.towers]

    @cached_property
    def loras(self) -> "LoraSet":
        """The adapters of this model: change their weights, unload them."""
        from ldm.adapters.lora.adapter_set import LoraSet

        towers = self.towers
        return LoraSet(self.parts.unet, towers.get(TEXT), towers.get(TEXT_2), self.engine.weights_changed)

    @property
    def towers(self) -> dict[str, nn.Module]:
        """The networks that adapters are made for, by the words of `ldm.adapters.lora.layers.TOWERS`."""
        text = {} if self.parts.text is None else towers_by_folder(self.parts.text)
        return {UNET: self.parts.unet, **{place: tower.model for place, tower in text.items()}}

    def load_lora(
        self, path: str | Path, weight: "AdapterWeight" = 1.0, name: str | None = None, allow_unmatched: bool = False
    ) -> "LoraReport":
        """Merge a LoRA (kohya, ComfyUI, diffusers or PEFT file) into the model: `ldm.io.lora.load.load_lora`.

        Several add up. In a prompt `<lora:name:0.8>` gives a loaded one another weight for that picture. Embeddings
        that the file brings along become words of prompts. A published one for few steps brings its settings, which
        hold where a request leaves them open (`ldm.families.few_step_loras`); a line in the log says so.
        """
        from ldm.io.library import known_path
        from ldm.io.lora.load import load_lora

        path = known_path("loras", path)
        report = load_lora(self.loras, path, weight, name, allow_unmatched, self._text_widths)
        self._lora_files[str(path)] = report.name
        self._take(report)
        return report

    def _take(self, report: "LoraReport") -> None:
        """Note what a loaded file brings along."""
        self._allow_unmatched |= bool(report.unmatched)
        self.embeddings |= {embedding.name: embedding for embedding in report.embeddings}
        self.few_step_loras.pop(report.name, None)  # another file had that name
        if (lora := few_step_lora(report.path, report.metadata)) is not None:
            self.few_step_loras[report.name] = lora
            _log.warning("%s is %s, where nothing else is given", report.name, lora)

    def find_loras(self, names: Iterable[str], allow_unmatched: bool = False) -> None:
        """Load, without any effect, those of the names in tags that are not loaded yet but in the library.

        Args:
            names: as tags have them.
            allow_unmatched: as in `load_lora`.
        """
        from ldm.io.library import find
        from ldm.io.lora.load import load_lora

        with self._finding:  # two drawings may look for one name
            for name in names:
                if name not in self.loras.weights and (path := find("loras", name)) is not None:
                    self._take(load_lora(self.loras, path, 0.0, name, allow_unmatched, self._text_widths))

    def parts_with_loras(self, weights: "Mapping[str, AdapterWeight]", few_steps: bool = False) -> ModelParts:
        """The model's parts with other weights of loaded LoRAs, for one drawing; the model itself stays as it is.

        Args:
            weights: by name.
            few_steps: with the model's LoRA for few steps, too.
        """
        if few_steps and self.parts.few_steps is not None:
            weights = {**weights, self._loaded_few_steps(self.parts.few_steps): 1.0}
            # Most calls of such a model want the same; merging it anew would cost as much as some steps.
            state = self.parts.unet, self.device, self.dtype, str(self.loras.weights), str(weights)
            for known, view in self._few_steps_view:
                if known[0] is state[0] and known[1:] == state[1:]:
                    return replace(self.parts, unet=view.unet, text=view.text)
            merged = self._merged_view(weights)
            self._few_steps_view[:] = [(state, merged)]
            return merged
        return self._merged_view(weights)

    def _merged_view(self, weights: "Mapping[str, AdapterWeight]") -> ModelParts:
        merged = self.loras.merged_at(weights)
        text = None if self.parts.text is None else with_weights(self.parts.text, merged)
        return replace(self.parts, unet=with_weights(self.parts.unet, merged), text=text)

    def _loaded_few_steps(self, few_steps: FewSteps) -> str:
        """The name of the LoRA for few steps, which is loaded now if it was not, without any effect."""
        from ldm.io.lora.load import load_lora

        with self._finding:
            if _FEW_STEPS not in self.loras.weights:
                load_lora(self.loras, few_steps.lora, 0.0, _FEW_STEPS, False, self._text_widths)
        return _FEW_STEPS

    def _for(self, request: Request) -> Self:
        """This model as a request needs it, for edges that meet and in the memory that it may take.

        It shares all weights with this one, which is left alone.
        """
        model = copy.copy(self)
        if request.vae_memory is not None:
            model.vae_memory = request.vae_memory
        if request.seamless is None:
            return model
        parts, model.loras = self.parts, self.loras  # which belong to the layers as they are
        model.wraps = wraps = "y" in request.seamless, "x" in request.seamless
        model.parts = replace(
            parts,
            unet=seamless(parts.unet, wraps),
            autoencoder=seamless(parts.autoencoder, wraps),
            upscaler=None if parts.upscaler is None else seamless(parts.upscaler, wraps),
        )
        if self.preview_autoencoder is not None:
            model.preview_autoencoder = seamless(self.preview_autoencoder, wraps)
        return model

    def loaded(self) -> dict[str, Any]:
        """How the model was loaded, by the fields of `Request`: what recipes of its pictures say of it."""
        weights = self.loras.weights if self._lora_files else {}
        return {
            "model": self.name,
            "vae": self.vae_source,
            "dtype": str(next(self.parts.unet.parameters()).dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": self.attention,
            "engine": self.engine.name,
            "loras": {path: weights[name] for path, name in self._lora_files.items() if name in weights},
            "allow_unmatched": self._allow_unmatched,
            "embeddings": dict(self._embedding_files),
            **self.load_options,
        }
