"""The scale of a LoKr whose factors are both whole, so that no rank is left in the file to divide its alpha by."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def scale_of_whole(alpha: float, w2: Tensor, metadata: Mapping[str, str]) -> tuple[float, str]:
    """The scale, by the rank that the training wrote into the file's header, and a note where that was needed.

    LyCORIS trains such factors at scale 1 and stores their rank as alpha (with rs_lora: its product with the scale).
    Others scale them by alpha / rank like the rest.

    Args:
        alpha: that the file stores for the layer.
        w2: its second factor.
        metadata: `ss_network_module`, `ss_network_dim` and `ss_network_args`, as kohya's trainers write them.
    """
    arguments = _arguments(metadata.get("ss_network_args", ""))
    field = "conv_dim" if w2.ndim == 4 and w2.shape[2:].numel() > 1 and "conv_dim" in arguments else "ss_network_dim"
    rank = _number(arguments.get(field, metadata.get(field)))
    scaled = str(arguments.get("rs_lora", "")).lower() == "true"
    if alpha == rank:
        return 1.0, ""
    if metadata.get("ss_network_module", "").startswith("lycoris") and not scaled:
        return 1.0, f"whole LoKr factors at scale 1, as LyCORIS trains them, whatever their alpha {alpha:g}"
    if rank is None:
        return 1.0, f"whole LoKr factors at scale 1, for want of ss_network_dim to divide their alpha {alpha:g} by"
    return alpha / rank, f"whole LoKr factors at scale {alpha / rank:g}, alpha {alpha:g} / {field} {rank:g}"


def _arguments(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
