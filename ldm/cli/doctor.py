"""`ldm doctor`: what this machine can do, and what is missing, a line each."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

OK, WARNING, FAULT = "ok", "warning", "fault"

OPTIONAL = {
    "xformers": "ldm[xformers]",
    "openvino": "ldm[openvino]",
    "onnxruntime": "ldm[onnx]",
    "onnx": "ldm[openvino] or ldm[onnx]",
    "resvg-py": "ldm[data]",
    "webdataset": "ldm[data]",
    "scikit-learn": "ldm[data]",
    "datasets": "ldm[data]",
    "tensorboard": "ldm[data]",
    "wandb": "ldm[wandb]",
    "s3fs": "ldm[s3]",
    "bitsandbytes": "bitsandbytes",
}
"""Packages that some commands need, each with what `pip install` takes to bring it."""

NEEDED = (
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "omegaconf",
    "pillow",
    "numpy",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: `state` is ok, warning or fault; `mend` says what to do where it is not ok."""

    name: str
    state: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.state:7}  {self.name:12}  {self.found}{f'; {self.mend}' if self.mend else ''}"


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """Look at this machine and installation; exit code 1 if something is broken."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    if any(finding.state == FAULT for finding in findings):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Every finding, as soon as it is known. A check that fails in an unforeseen way is a fault of its own name."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "torch": _torch,
        "cpu": _cpu,
        "gpu": _gpu,
        "attention": _attention,
        "engine": _engine,
        "packages": _packages,
        "folders": _folders,
        "model": _model,
        "picture": _picture,
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, FAULT, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _python() -> Iterator[Finding]:
    import ldm

    place = Path(ldm.__file__).parent
    yield Finding("ldm", OK, f"{ldm.__version__} in {place}")
    yield Finding("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Iterator[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", OK, f"{torch.__version__}, {build}")
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    if threads > cores:
        yield Finding("threads", WARNING, f"{threads} on {cores} cores", f"set OMP_NUM_THREADS={cores}")
    else:
        yield Finding("threads", OK, f"{threads} on {cores} cores")


def _cpu() -> Iterator[Finding]:
    from ldm.engine.placement import device_for, dtype_for, processor_features, processor_name
    from ldm.engine.precision import AUTO, best_dtype

    features = processor_features()
    yield Finding("cpu", OK, f"{', '.join(features) or 'no vector instructions that torch knows'} ({processor_name()})")
    place = device_for(None)
    usual, fastest, training = (
        _short(each) for each in (dtype_for(None, place), dtype_for(AUTO, place), best_dtype(place))
    )
    reason = "this machine is fast at it" if training == "bfloat16" else "bfloat16 is slower or not native here"
    generated = f"pictures are generated in {usual} (with --dtype auto in {fastest})"
    yield Finding("numbers", OK, f"{generated}, trainings run in {training}: {reason}")


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        # That a CPU build is installed where there is a GPU is the commonest reason for a slow start.
        driver = Path("/proc/driver/nvidia/version").exists()
        if driver and torch.version.cuda is None:
            yield Finding("gpu", WARNING, "NVIDIA driver found, but torch is a CPU build", "install torch with CUDA")
        else:
            yield Finding("gpu", OK, "none that torch can use; pictures are generated on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        name = f"{torch.cuda.get_device_name(index)}, {free:.1f} of {total:.1f} GiB free"
        if free < 2:
            yield Finding(f"gpu {index}", WARNING, name, "close what else uses it")
        else:
            yield Finding(f"gpu {index}", OK, name)


def _attention() -> Iterator[Finding]:
    from ldm.engine.placement import device_for, dtype_for
    from ldm.networks.attention import attention_backends

    place = device_for(None)
    for name, usable, reason in attention_backends(place, dtype_for(None, place)):
        yield Finding("attention", OK, f"--attention {name} runs here" if usable else f"{name} cannot run: {reason}")


def _engine() -> Iterator[Finding]:
    from ldm.engine.choose import best_engine, engine_failure
    from ldm.engine.names import AUTO, ENGINES
    from ldm.engine.placement import device_for

    best = best_engine(device_for(None))
    for name in ENGINES:
        if name != AUTO:
            failure = engine_failure(name)
            default = " and is the default" if name == best else ""
            yield Finding("engine", OK, f"{failure}" if failure else f"--engine {name} runs here{default}")


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            yield Finding("package", OK, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("package", FAULT, f"{name} is missing", "pip install ldm again")
    for name, source in OPTIONAL.items():
        try:
            yield Finding("optional", OK, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("optional", OK, f"{name} is not installed (pip install '{source}')")


def _folders() -> Iterator[Finding]:
    from ldm.engine.disk_cache import cache_folder

    for name, folder in (("cache", cache_folder()), ("output", Path("outputs").absolute())):
        place = next(each for each in (folder, *folder.parents) if each.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                yield Finding(name, OK, f"{folder} can be written")
        except OSError as error:
            mend = "set XDG_CACHE_HOME to another folder" if name == "cache" else "use --output with another folder"
            yield Finding(name, WARNING, f"{folder} cannot be written ({error.strerror})", mend)


def _model() -> Iterator[Finding]:
    from ldm.io.shipped import changed_files, shipped_models

    for name, folder in shipped_models().items():
        changed = changed_files(name)
        if changed:
            files = ", ".join(changed[:3]) + (" and more" if len(changed) > 3 else "")
            yield Finding("model", FAULT, f"{name}: {files} differ from what was shipped", "install ldm again")
        else:
            yield Finding("model", OK, f"{name} in {folder} is what was shipped")


def _picture() -> Iterator[Finding]:
    from ldm import LatentDiffusion

    result = LatentDiffusion.from_pretrained()("a red apple, 3d style", num_inference_steps=2, seed=0)
    width, height = result.images[0].size
    yield Finding("picture", OK, f"{width} x {height} px in 2 steps, {result.seconds:.1f} s")
