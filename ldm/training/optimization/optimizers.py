"""Optimizers by name, all from kept libraries, and the rule of what they decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ldm.training.config import LoopConfig


def build_optimizers(module: nn.Module, config: LoopConfig) -> list[Optimizer]:
    """The optimizers that together train every parameter of `module` that requires a gradient.

    Matrices and kernels are decayed by `weight_decay`, norms and biases are not. Muon (Jordan et al. 2024) takes the
    matrices between layers; embeddings, convolutions, norms and biases stay with AdamW, and Muon's step is scaled to
    AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so one learning rate serves both.

    Raises:
        ValueError: adamw8bit without bitsandbytes, or muon for a module without matrices.
    """
    if config.optimizer == "adamw8bit":
        return [_adamw8bit(module, config)]
    if config.optimizer == "adafactor":
        # Its second moment follows the step count (Shazeer & Stern 2018, section 7.2); there is no beta to set.
        return [torch.optim.Adafactor(_groups(_trainable(module), config), lr=config.learning_rate)]
    if config.optimizer == "muon":
        return _muon(module, config)
    return [_adamw(_trainable(module), config)]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _groups(parameters: Iterable[nn.Parameter], config: LoopConfig) -> list[dict[str, Any]]:
    parameters = list(parameters)
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim == 1]
    single = [
        parameter for parameter in parameters if parameter.ndim == 0
    ]  # never sharded, see ldm.training.distributed.fsdp
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    groups += [{"params": each, "weight_decay": 0.0} for each in (plain, single)]
    return [group for group in groups if group["params"]]


def _adamw(parameters: Iterable[nn.Parameter], config: LoopConfig) -> Optimizer:
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(_groups(parameters, config), lr=config.learning_rate, betas=betas, fused=True)


def _adamw8bit(module: nn.Module, config: LoopConfig) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "loop.optimizer=adamw8bit needs bitsandbytes; pip install bitsandbytes, or use loop.optimizer=adamw"
        ) from None
    betas = (config.beta1, config.beta2)
    return AdamW8bit(_groups(_trainable(module), config), lr=config.learning_rate, betas=betas)


def _muon(module: nn.Module, config: LoopConfig) -> list[Optimizer]:
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in _trainable(module) if p.ndim == 2 and id(p) not in embeddings]
    if not matrices:
        raise ValueError("loop.optimizer=muon trains matrices, and this network has none; use loop.optimizer=adamw")
    taken = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in _trainable(module) if id(parameter) not in taken]
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, _adamw(rest, config)] if rest else [muon]
