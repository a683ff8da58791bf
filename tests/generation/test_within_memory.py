"""When memory runs out, the same picture comes out of a smaller way, or one line with the numbers."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.cli.errors import describe
from ldm.engine.out_of_memory import NotEnoughMemory, is_out_of_memory, needed
from ldm.generation import within_memory
from ldm.networks.options import NetworkOptions, Residuals

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "3221225472 bytes. Error code 12 (Cannot allocate memory)"
)
CALL = {"num_inference_steps": 2, "seed": 0, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture
def model(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> LatentDiffusion:
    monkeypatch.setattr(within_memory, "free_memory", lambda device: 10**9)
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="eager")


def fails_above(network: torch.nn.Module, size: Callable[[Tensor], int], most: int, error: Exception) -> list[int]:
    """Let a network run out of memory for larger inputs. Returns the sizes of all calls, filled in as they come."""
    sizes: list[int] = []

    def check(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(size(inputs[0]))
        if sizes[-1] > most:
            raise error

    network.register_forward_pre_hook(check)
    return sizes


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_errors_of_memory_are_known_by_their_words() -> None:
    assert [is_out_of_memory(each) for each in (GPU, CPU, MemoryError(), RuntimeError("shape"))] == [*[True] * 3, False]
    assert [needed(each) for each in (GPU, CPU, MemoryError())] == ["2.00 GiB", "3.00 GiB", "more"]


@pytest.mark.parametrize("error", [GPU, CPU], ids=["gpu", "cpu"])
def test_a_step_is_cut_until_it_fits_and_stays_so(
    model: LatentDiffusion, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    wanted = model(["apple"] * 3, **CALL).images
    sizes = fails_above(model.unet, len, 2, error)
    made = model(["apple"] * 3, **CALL)
    assert sizes == [6, 3, 2, 2, 2, 2, 2, 2]  # with a negative prompt each; the second step begins with what fits
    assert (made.images - wanted).abs().max() <= 1 / 255
    amount = needed(error)
    assert lines(caplog) == [
        f"a step of 6 latents ran out of memory ({amount}); going on with {rows} at a time" for rows in (3, 2)
    ]


def test_residuals_are_cut_with_the_rows() -> None:
    def hook(*given: object) -> torch.Tensor:
        raise AssertionError

    options = NetworkOptions(Residuals((torch.arange(3.0)[:, None],), torch.arange(3.0)), hook=hook)
    cut = options[1:2]
    assert cut.residuals is not None and cut.hook is hook
    assert [cut.residuals.down[0].item(), cut.residuals.mid.item()] == [1, 1]


def test_pictures_are_decoded_one_by_one_before_they_are_cut(
    model: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = model(["apple"] * 3, **CALL)
    sizes = fails_above(model.vae.decoder, len, 1, GPU)
    made = model(["apple"] * 3, **CALL)
    assert sizes == [3, 2, 1, 1, 1]
    assert (made.images - wanted.images).abs().max() <= 1 / 255
    assert made.recipes == wanted.recipes
    assert lines(caplog) == [
        f"decoding 3 pictures ran out of memory (2.00 GiB); going on with {rows} at a time" for rows in (2, 1)
    ]


def test_a_picture_is_decoded_in_the_tiles_that_fit_which_its_recipe_repeats(
    tiny_folder: Path, model: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    call = {**CALL, "width": 256, "height": 256}  # 64 x 64 cells
    whole = model("apple", **call)
    fails_above(model.vae.decoder, lambda z: z.shape[-1], 40, CPU)
    made = model("apple", **call)
    assert -10 * math.log10((made.images - whole.images).square().mean()) > 30  # random weights
    recipe = made.recipes[0]
    assert len(lines(caplog)) == 1 and model.vae_memory == whole.recipes[0].vae_memory > recipe.vae_memory
    assert lines(caplog)[0].startswith("decoding ran out of memory (3.00 GiB); going on in tiles, --vae-memory ")
    other = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="eager")
    repeated = other.steps(recipe.request(), output_type="pt").result
    assert torch.equal(repeated.images, made.images) and repeated.recipes == made.recipes


def test_pictures_are_encoded_in_smaller_ways_too(model: LatentDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    pictures = torch.rand(2, 3, 64, 64)
    wanted = model.encode(pictures, torch.Generator().manual_seed(0))
    fails_above(model.vae.encoder, len, 1, GPU)
    torch.testing.assert_close(model.encode(pictures, torch.Generator().manual_seed(0)), wanted)
    assert lines(caplog) == ["encoding 2 pictures ran out of memory (2.00 GiB); going on with 1 at a time"]


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("unet", len, "a step with 1 latent of 64 x 64 cells"),
        ("vae.decoder.up_blocks.0.resnets.0", lambda z: z.shape[-1], "decoding 64 x 64 cells in the smallest tiles"),
    ],
)
def test_the_end_is_one_line_with_the_numbers(model: LatentDiffusion, network: str, size, message: str) -> None:
    fails_above(_at(model, network), size, 0, GPU)
    with pytest.raises(NotEnoughMemory) as caught:
        model("apple", **{**CALL, "width": 256, "height": 256})
    text, code = describe(caught.value, "generate") or ("", 0)
    start = f"{message} does not fit into the memory of cpu: it needs 2.00 GiB, and 1 GB are free; use a smaller "
    assert text.startswith(start + "--width and --height") and "\n" not in text and code == 1


def _at(model: LatentDiffusion, path: str) -> torch.nn.Module:
    first, _, rest = path.partition(".")
    return getattr(model, first).get_submodule(rest)


def test_a_hook_sees_the_whole_batch_or_nothing(model: LatentDiffusion) -> None:
    seen: list[int] = []

    def hook(layer, q, k, v, mask=None):
        seen.append(len(q))
        return layer.attend(q, k, v, mask)

    fails_above(model.unet, len, 1, GPU)
    with pytest.raises(NotEnoughMemory, match="a step with 4 latents"):
        model(["apple"] * 2, **CALL, attention_hook=hook)
    assert not seen


def test_other_errors_pass_through(model: LatentDiffusion) -> None:
    fails_above(model.unet, len, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        model("apple", **CALL)


def test_other_networks_leave_the_device_before_a_picture_is_given_up(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, calls = model("apple", **CALL), []

    def make_room(self: LatentDiffusion) -> bool:
        calls.append(self.name)
        for handle in handles:
            handle.remove()
        return len(calls) == 1

    def full(*_) -> None:
        raise GPU

    monkeypatch.setattr(LatentDiffusion, "make_room", make_room)
    for network in (model.unet, model.vae.decoder):
        calls.clear()
        handles = [network.register_forward_pre_hook(full)]
        assert (model("apple", **CALL).images - wanted.images).abs().max() <= 1 / 255
        assert len(calls) == 1


def test_room_is_made_once_and_only_on_a_gpu(model: LatentDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    assert not model.make_room()
    model.device = torch.device("cuda")  # nothing goes there before it is used
    assert model.make_room()
    assert model.offload == "model"
    assert not model.make_room()
    assert lines(caplog) == ["cuda is full; going on with one network at a time on it, as --offload model"]
