"""Reading a transformers text tower in ways its own `forward` does not offer, without changing it."""

import copy
from typing import Any

from torch import Tensor, nn


def text_tower(model: nn.Module) -> Any:
    """The module that holds embeddings, encoder and final_layer_norm: the model itself since transformers 5.6."""
    return getattr(model, "text_model", model)


class RecordOutput(nn.Module):
    """A layer that keeps what it last gave."""

    states: Tensor

    def __init__(self, layer: nn.Module) -> None:
        """Wrap a layer of a transformers encoder."""
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **options: Any) -> Any:
        """The recorded output of the layer."""
        output = self.layer(*args, **options)
        self.states = output[0] if isinstance(output, tuple) else output
        return output


class GivenEmbeddings(nn.Module):
    """The tower's embeddings, reading vectors in place of the token table."""

    def __init__(self, embeddings: nn.Module, embedded: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.embedded = embedded

    def forward(self, input_ids: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        """The given embeddings in place of those of `input_ids`, plus those of the positions."""
        return self.embeddings(inputs_embeds=self.embedded, position_ids=position_ids)


def read_view(model: nn.Module, embedded: Tensor | None, watched: int) -> tuple[nn.Module, RecordOutput]:
    """A model with the weights of `model` that runs the same `forward`, and its layer number `watched`, seen.

    The view is a new object that shares every parameter: `model` is left alone, so threads may read it in different
    ways at the same time. (`output_hidden_states` hangs hooks into the shared layers, once for each view.)

    Args:
        model: a transformers text tower.
        embedded: (B, L, D) in place of the token table's vectors, or None.
        watched: number of the layer whose output is recorded.
    """
    view = _shallow(model)
    tower = view
    if isinstance(getattr(model, "text_model", None), nn.Module):
        tower = view._modules["text_model"] = _shallow(model.text_model)  # type: ignore[arg-type]
    if embedded is not None:
        tower._modules["embeddings"] = GivenEmbeddings(tower.embeddings, embedded)  # type: ignore[arg-type]
    encoder = tower._modules["encoder"] = _shallow(tower.encoder)  # type: ignore[arg-type]
    layers = list(encoder.layers)  # type: ignore[arg-type]
    seen = layers[watched] = RecordOutput(layers[watched])
    encoder._modules["layers"] = nn.ModuleList(layers)
    return view, seen


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
