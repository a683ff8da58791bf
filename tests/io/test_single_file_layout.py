"""The published layout of single files: what diffusers reads, and files of the published sizes are recognised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from single_files import (
    PUBLISHED,
    State,
    disk_names,
    file_open_clip,
    file_vae,
    make_text,
    make_unet,
    make_vae,
    prefixed,
    unet_kwargs,
    unet_part,
    whole_file,
)

from ldm.families.stable_diffusion import FAMILIES
from ldm.io.single_file.checkpoint import Checkpoint, sort_out
from ldm.io.single_file.save import check_whole, single_file_weights
from ldm.io.tensors.tensor_file import TensorFile
from ldm.io.tensors.weights import LazyTensor


def shapes_only(state: State) -> dict[str, LazyTensor]:
    """Weights that nobody may read."""

    def read(dtype: torch.dtype | None) -> torch.Tensor:
        raise AssertionError("a weight was read")

    return {name: LazyTensor(tuple(value.shape), value.dtype, read) for name, value in state.items()}


def recognised(state: State, metadata: dict[str, str] | None = None, **options: Any) -> Checkpoint:
    return sort_out(TensorFile(Path("x.safetensors"), "safetensors", shapes_only(state), metadata or {}), **options)


def count(weights: dict[str, LazyTensor]) -> int:
    return sum(weight.count for weight in weights.values())


@pytest.mark.parametrize("family", PUBLISHED)
def test_diffusers_reads_the_layout_of_the_unet(family: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = make_unet(family)
    read = convert_ldm_unet_checkpoint(prefixed("model.diffusion_model.", unet_part(family, unet)), dict(unet.config))
    state = unet.state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("family", ["sd1", "x4-upscaler"])
def test_diffusers_reads_the_layout_of_the_autoencoder(family: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = make_vae(family)
    levels = len(vae.config.block_out_channels)
    file = prefixed("first_stage_model.", file_vae(dict(vae.state_dict()), levels))
    assert file["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    read = convert_ldm_vae_checkpoint(file, dict(vae.config))
    state = vae.state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name].reshape(state[name].shape), state[name]) for name in state)


def test_diffusers_reads_the_layout_of_open_clip() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    text = make_text(3, 64, "gelu", True)
    file = prefixed("conditioner.embedders.1.model.", file_open_clip(disk_names(text), 3))
    read = convert_open_clip_checkpoint(text, file, prefix="conditioner.embedders.1.model.")
    read.pop("text_model.embeddings.position_ids", None)
    state = disk_names(text)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


# The keys by which diffusers knows the families, with the shapes of the published files.
SIGNATURES = {
    "sd1": ("model.diffusion_model.output_blocks.11.0.skip_connection.weight", (320, 640, 1, 1)),
    "sd2": ("model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024)),
    "sdxl": ("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", (1280,)),
    "sdxl-refiner": ("conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias", (1280,)),
    "x4-upscaler": ("model.diffusion_model.input_blocks.10.0.skip_connection.bias", (1024,)),
}
UNETS = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
TEXTS = {"sd1": [123_060_480], "sd2": [340_387_840], "sdxl": [123_060_480, 694_659_840], "sdxl-refiner": [694_659_840]}
KINDS = [
    *((family, 4, "text to image") for family in ("sd1", "sd2", "sdxl", "sdxl-refiner")),
    *((family, 9, "inpainting") for family in ("sd1", "sd2", "sdxl")),
    *((family, 8, "InstructPix2Pix") for family in ("sd1", "sdxl")),
    ("sd2", 5, "depth"),
    ("x4-upscaler", 7, "upscaling"),
]


@pytest.fixture(scope="module")
def published() -> dict[str, State]:
    """Whole files of the published sizes, without numbers."""
    return {family: whole_file(family, tiny=False)[0] for family in PUBLISHED}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "channels", "kind"), KINDS)
def test_files_of_the_published_sizes_are_recognised(
    published: dict[str, State], family: str, channels: int, kind: str
) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    width = published[family][first].shape[0]
    found = recognised({**published[family], first: torch.empty(width, channels, 3, 3, device="meta")})
    assert (found.family.name, found.kind, found.missing) == (family, kind, [])
    assert found.unet_config == replace(FAMILIES[family].unet, in_channels=channels) and found.published
    assert found.autoencoder_config == FAMILIES[family].autoencoder
    check_whole(found)


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_files_have_their_signature(published: dict[str, State], family: str) -> None:
    key, shape = SIGNATURES[family]
    assert tuple(published[family][key].shape) == shape


@pytest.mark.parametrize("family", UNETS)
def test_networks_have_the_published_numbers_of_parameters(published: dict[str, State], family: str) -> None:
    found = recognised(published[family])
    assert count(found.unet) == UNETS[family]
    assert count(found.autoencoder) == 83_653_863
    assert [count(text.weights) for text in found.texts] == TEXTS[family]


def test_sd15_inpainting_has_the_published_number_of_parameters() -> None:
    state = prefixed("model.diffusion_model.", unet_part("sd1", make_unet("sd1", tiny=False, in_channels=9)))
    assert count(recognised(state).unet) == 859_535_364


@pytest.mark.parametrize("family", PUBLISHED)
def test_what_is_written_has_the_published_names(published: dict[str, State], family: str) -> None:
    found = recognised(published[family], prediction_type="epsilon" if family == "sd2" else None)
    written = single_file_weights(found)
    missing = published[family].keys() - written.keys()
    assert written.keys() <= published[family].keys()
    assert all(written[name].shape == tuple(published[family][name].shape) for name in written)
    left_out = {name for names in found.ignored.values() for name in names}
    assert missing == left_out


@pytest.mark.parametrize("family", PUBLISHED)
def test_tiny_models_are_recognised_by_their_structure(family: str) -> None:
    state, _ = whole_file(family)
    found = recognised(state)
    assert (found.family.name, found.missing, found.published) == (family, [], False)
    check_whole(found)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_unet_alone_is_recognised(family: str, prefix: str) -> None:
    found = recognised(prefixed(prefix, unet_part(family, make_unet(family))))
    assert found.family.name == family and found.missing and list(found.networks()) == ["unet"]
    check_whole(found)


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_unet_with_the_names_of_diffusers_is_recognised(family: str) -> None:
    unet = make_unet(family)
    found = recognised(dict(unet.state_dict()))
    assert found.family.name == family
    config: Any = unet_kwargs(family, tiny=True)
    assert found.unet_config.widths == config["block_out_channels"]
    check_whole(found)
