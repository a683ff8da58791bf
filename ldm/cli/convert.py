"""`ldm convert SRC DST --to FORMAT`: the same weights in another file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

FORMATS = ("hf", "single", "fp16", "bf16", "safetensors", "lora")


def convert(
    source: Annotated[
        Path, typer.Argument(help="A single-file checkpoint, a model folder, a shipped name, or an autoencoder.")
    ],
    target: Annotated[Path, typer.Argument(help="The file or folder to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="hf: a folder that diffusers opens. single: one file that other programs open. "
            "fp16, bf16, safetensors: the same names in another type, or out of a pickle. "
            "lora: what a fine-tune changed of --base, as a LoRA. "
            "[default: single for a .safetensors of a folder, hf for a folder of a file, else safetensors]",
        ),
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="epsilon or v_prediction, where the file does not say it, or says it wrong.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="sd1, sd2, sdxl, sdxl-refiner, x4-upscaler: what to take the file for.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average of the U-Net beside it.")] = False,
    base: Annotated[
        str | None, typer.Option(help="With --to lora: the model that was fine-tuned, named as --model is.")
    ] = None,
    rank: Annotated[int, typer.Option(help="With --to lora: of the changes.")] = 64,
) -> None:
    """Write a model in another format: tensor by tensor, and whole or not at all."""
    from ldm.io.shipped import shipped_models
    from ldm.naming import look_up

    source = source if source.exists() else shipped_models().get(str(source), source)
    if to is None:
        single = target.suffix == ".safetensors"
        to = "safetensors" if source.is_dir() != single else "single" if single else "hf"
    look_up("format --to", to, dict.fromkeys(FORMATS))
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give a checkpoint file or a model folder")
    if source.is_dir() != target.is_dir() and target.exists() and to not in ("hf", "single"):
        raise ValueError(
            f"{target} is a {'folder' if target.is_dir() else 'file'}, and {source} is not; use another name"
        )
    if (base is None) == (to == "lora"):
        raise ValueError("--to lora needs --base MODEL, the model that was fine-tuned; other formats have no base")
    if base is not None:
        _extract_lora(source, target, base, rank)
    elif to in ("hf", "single"):
        _convert_model(source, target, to, prediction, family, ema)
    else:
        for option, value in (("--prediction", prediction), ("--family", family), ("--ema", ema)):
            if value:
                raise ValueError(f"{option} belongs to --to hf; --to {to} only changes how numbers are stored")
        _convert_numbers(source, target, to)
    print(target)


def _convert_model(source: Path, target: Path, to: str, prediction: str | None, family: str | None, ema: bool) -> None:
    from ldm.cli.byte_bar import ByteBar
    from ldm.io.single_file.checkpoint import read_checkpoint
    from ldm.io.single_file.from_folder import read_folder
    from ldm.io.single_file.save import save_single_file
    from ldm.io.single_file.to_folder import save_as_folder
    from ldm.io.vae import convert_autoencoder, is_autoencoder

    if source.is_dir() != (to == "single"):
        kind = "a folder already" if source.is_dir() else "a single file already"
        raise ValueError(f"{source} is {kind}; --to {'single' if source.is_dir() else 'hf'} changes that")
    if to == "single" and target.is_dir():
        raise ValueError(f"{target} is a folder; give the name of a .safetensors file")
    if is_autoencoder(source):
        for option, value in (("--prediction", prediction), ("--family", family), ("--ema", ema)):
            if value:
                raise ValueError(f"{option} is for whole models; {source} is an autoencoder")
        convert_autoencoder(source, target, to == "single")
        return
    if source.is_dir():
        for option, value in (("--prediction", prediction), ("--family", family), ("--ema", ema)):
            if value:
                raise ValueError(f"{option} is for single files; {source} says it in its own configs")
        checkpoint = read_folder(source)
    else:
        checkpoint = read_checkpoint(source, prediction_type=prediction, family=family, ema=ema)
    total = sum(weight.size for weights in checkpoint.networks().values() for weight in weights.values())
    with ByteBar(f"writing {target.name}", total) as bar:
        (save_single_file if to == "single" else save_as_folder)(checkpoint, target, None, bar.advance)
    said = checkpoint.prediction.prediction_type or "not known, and not needed for a U-Net alone"
    print(f"{checkpoint.title}; prediction: {said} ({checkpoint.prediction.source})", file=sys.stderr)
    for reason, names in checkpoint.ignored.items():
        print(f"left out {len(names)}: {reason}", file=sys.stderr)


def _extract_lora(source: Path, target: Path, base: str, rank: int) -> None:
    """Write what the U-Net and the text encoders of `source` have that those of the base have not."""
    import torch

    from ldm.adapters.lora.extract import low_rank_difference
    from ldm.generation.opened_model import OpenedModel
    from ldm.io.lora.write import save_lora

    if target.suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors; a LoRA is such a file")
    models = {name: OpenedModel.open(name, torch.float32, "cpu") for name in (base, str(source))}
    theirs, ours = (model.towers for model in models.values())
    if theirs.keys() != ours.keys():
        raise ValueError(f"{base} and {source} are not of one family, so neither is a fine-tune of the other")
    found = {tower: low_rank_difference(theirs[tower], ours[tower], tower, rank) for tower in theirs}
    deltas = {name: delta for each in found.values() for name, delta in each.deltas.items()}
    save_lora(target, deltas, "kohya", torch.float16)
    for tower, each in found.items():
        if each.deltas:
            print(f"{tower}: {each.kept:.1%} of the squared difference of {len(each.deltas)} weights", file=sys.stderr)


def _convert_numbers(source: Path, target: Path, to: str) -> None:
    import torch

    from ldm.cli.byte_bar import ByteBar
    from ldm.io.convert_dtype import convert_dtype, converted_size

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "safetensors": None}[to]
    with ByteBar(f"writing {target.name}", converted_size(source)) as bar:
        left_out = convert_dtype(source, target, dtype, bar.advance)
    if left_out:
        print(f"left out {len(left_out)} entries that are no weights: {', '.join(left_out[:5])}", file=sys.stderr)
