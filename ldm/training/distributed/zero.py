"""DeepSpeed's ZeRO 1 and 2: every process has all weights, but moments and averaged gradients of its part alone.

Rajbhandari et al. 2020, arXiv:1910.02054. accelerate starts the processes and reads the settings (`deepspeed_config`),
but its wrapper of the engine steps in every backward pass, so a bad step could not be skipped. Here the engine is told
which micro-batch is the last one, and between its backward pass and its step the gradient is looked at. Weights and
averages stay in fp32 and whole, so nothing but `Update` and `ForwardBackward` differs from replicas.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.optim import Optimizer

from ldm.training.config import LoopConfig
from ldm.training.distributed.forward_backward import ForwardBackward
from ldm.training.objectives.base import Batch
from ldm.training.optimization.optimizer_step import Update

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_BUCKET = 50_000_000  # gradients that are added up at once; DeepSpeed's own 500 million take 2 GB, and 4 GB on GPUs


@dataclass(frozen=True)
class Zero:
    """What is split: moments (stage 1), and gradients too (stage 2)."""

    stage: int

    @staticmethod
    def requested_by(accelerator: Accelerator, plugin: DeepSpeedPlugin | None) -> "Zero | None":
        """What accelerate's `deepspeed_config` asks for; `None` without one, and for a lone process.

        Raises:
            ValueError: a setting that is not done here.
        """
        if plugin is None or accelerator.num_processes == 1:
            return None
        file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        settings: dict[str, tuple[Any, tuple[Any, ...], str]] = {  # value, those that are done, mend
            "deepspeed_config_file": (file, ("none",), "zero_stage, as configs/accelerate/deepspeed-zero2.yaml does"),
            "zero_stage": (plugin.zero_stage, (1, 2), "1 or 2, or for 3 configs/accelerate/fsdp2.yaml"),
            "offload_optimizer_device": (plugin.offload_optimizer_device, ("none",), "none"),
            "offload_param_device": (plugin.offload_param_device, ("none",), "none"),
            "gradient_clipping": (plugin.gradient_clipping, ("auto",), "loop.clip_norm"),
            "gradient_accumulation_steps": (plugin.gradient_accumulation_steps, ("auto", 1), "loop.micro_batch_size"),
            "mixed_precision": (accelerator.mixed_precision, ("no", "bf16"), "bf16"),
        }
        for setting, (value, done, mend) in settings.items():
            if value not in done:
                raise ValueError(f"accelerate's {setting}: {value} is not supported with DeepSpeed; use {mend}")
        return Zero(plugin.zero_stage)

    def engine(self, loss: nn.Module, optimizer: Optimizer) -> "DeepSpeedEngine":
        """The engine of a `LossModule` on its device. The optimizer holds parts of the weights afterwards."""
        kinds = {parameter.device.type for parameter in loss.parameters()}
        os.environ.setdefault("DS_ACCELERATOR", kinds.pop())  # it would guess, and take a GPU where there is one
        from deepspeed import initialize
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False  # on CPUs it would be compiled now; gloo adds up as well
        trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # it counts samples by this, and nobody looks
            "gradient_accumulation_steps": 1,  # `ZeroPasses` says which micro-batch is the last
            "gradient_clipping": 0.0,  # `ZeroUpdate` clips
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": min(trained, _BUCKET),
                "compute_grad_norm": False,  # it knows the length already
            },
            "steps_per_print": None,
            "timers": {"throughput": {"enabled": False}},
        }
        return initialize(model=loss, optimizer=optimizer, config=settings)[0]


def require_deepspeed(trained_modules: dict[str, nn.Module], config: LoopConfig) -> None:
    """Raise ValueError where DeepSpeed is absent, or cannot take a weight or split what the optimizer keeps."""
    for name, module in trained_modules.items():
        for key, parameter in module.named_parameters():
            if parameter.ndim == 0:  # its engine sends weights around as bytes, which a single number is no list of
                raise ValueError(
                    f"{name}: {key} is a single number, which DeepSpeed refuses; use configs/accelerate/fsdp2.yaml"
                )
    if config.optimizer != "adamw":
        raise ValueError(
            f"loop.optimizer={config.optimizer} looks at whole tensors, and DeepSpeed cuts them anywhere; "
            "use adamw, or configs/accelerate/8-gpus.yaml"
        )
    if find_spec("deepspeed") is None:
        raise ValueError(
            "accelerate was launched with DeepSpeed, which is not here; pip install 'ldm[deepspeed]', or use "
            "configs/accelerate/fsdp2.yaml"
        )


class ZeroPasses(ForwardBackward):
    """The passes through DeepSpeed's engine, which adds up gradients over processes while the backward pass runs."""

    def __init__(self, accelerator: Accelerator, engine: "DeepSpeedEngine") -> None:
        super().__init__(accelerator, engine)
        self._engine = engine

    def forward(
        self, batch: Batch, generators: list[torch.Generator], samples_seen: int, last: bool
    ) -> dict[str, Tensor] | None:
        self._engine.set_gradient_accumulation_boundary(last)
        return self._engine(batch, generators, samples_seen)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)


@dataclass(frozen=True)
class _Piece:
    """Numbers `start` to `stop` of one flattened parameter, which this process has in `part` from `at` on. Maybe none.

    DeepSpeed lays the parameters of a group behind one another and cuts the line into equal parts, one a process.
    """

    part: Tensor
    at: int
    start: int
    stop: int

    def of(self, flat: Tensor) -> Tensor:
        """These numbers in a tensor of the length of `part`."""
        return flat[self.at : self.at + self.stop - self.start]


class ZeroUpdate(Update):
    """The update where a process has gradients and moments of its part of the weights, which all then gather."""

    def __init__(self, module: nn.Module, optimizers: list[Optimizer], engine: "DeepSpeedEngine", rank: int) -> None:
        super().__init__(module, optimizers)
        self._engine, self._zero = engine, engine.optimizer
        pieces = {}
        groups = (self._zero.bit16_groups, self._zero.bit16_groups_flat, self._zero.single_partition_of_fp32_groups)
        for parameters, line, part in zip(*groups, strict=True):
            first = rank * part.numel()
            for parameter in parameters:
                begin = parameter.storage_offset() - line.storage_offset()
                start, stop = (min(max(cut - begin, 0), parameter.numel()) for cut in (first, first + part.numel()))
                pieces[id(parameter)] = _Piece(part, max(begin - first, 0), start, stop)
        self._pieces = {name: pieces[id(p)] for name, p in module.named_parameters() if id(p) in pieces}

    def start(self, rate: float) -> None:
        super().start(rate)
        gradients = self._zero.averaged_gradients
        gradients.update(dict.fromkeys(gradients))

    def norm(self) -> Tensor:
        square = torch.nn.utils.get_total_norm(self._gradients()).double().square()
        all_reduce(square)
        return square.sqrt().float()

    def step(self, norm: Tensor, clip_norm: float) -> None:
        if clip_norm and norm > clip_norm:
            torch._foreach_mul_(self._gradients(), (clip_norm / (norm + 1e-6)).clamp(max=1))
        self._engine.step()

    def _gradients(self) -> list[Tensor]:
        return [part for group in self._zero.averaged_gradients.values() for part in group]

    @torch.no_grad()
    def moments(self, keep: bool) -> dict[str, Tensor]:
        (optimizer,), found = self.optimizers, {}
        parameters = dict(self.module.named_parameters())
        for name, piece in self._pieces.items():
            for moment, value in optimizer.state[piece.part].items():
                complete = value.clone()
                if value.ndim:
                    complete = torch.zeros_like(parameters[name], memory_format=torch.contiguous_format)
                    complete.view(-1)[piece.start : piece.stop] = piece.of(value)
                    all_reduce(complete)
                if keep:
                    found[f"{moment}.{name}"] = complete.cpu()
        return found

    @torch.no_grad()
    def go_on(self, moments: dict[str, Tensor]) -> None:
        (optimizer,) = self.optimizers
        self._zero.refresh_fp32_params()
        optimizer.state.clear()
        for key, value in moments.items():
            moment, name = key.split(".", 1)
            piece = self._pieces[name]
            state = optimizer.state[piece.part]
            if moment == "step":
                steps = state.setdefault(moment, value.to(piece.part.device))
                if steps.item() != value.item():
                    raise ValueError(
                        f"{name} took {value:g} steps there and others {steps:g}, which DeepSpeed cannot keep apart "
                        "but configs/accelerate/8-gpus.yaml can"
                    )
            else:
                flat = state.setdefault(moment, torch.zeros_like(piece.part))
                piece.of(flat).copy_(value.flatten()[piece.start : piece.stop])
