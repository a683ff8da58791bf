"""The engines of OpenVINO and ONNX Runtime compute what the network does, and say what they cannot do."""

import logging
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters import low_ranks, unet_layers
from torch import Tensor, nn
from torch.nn import functional as F
from unet_twins import SD1, inputs

from autoencoder.seamless import seamless
from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.denoiser import NetworkDenoiser
from ldm.engine import converted, disk_cache, graph
from ldm.engine.choose import engine_failure, engine_for
from ldm.engine.converted import ConvertedEngine
from ldm.networks.attention import set_attention
from ldm.networks.feature_cache import CacheSettings, FeatureCache
from ldm.networks.options import NetworkOptions, Residuals
from ldm.networks.unet import UNet, UNetConfig
from ldm.process import DiscreteVP

CPU = torch.device("cpu")
INSTALLED = {
    name: pytest.param(name, marks=pytest.mark.skipif(bool(engine_failure(name)), reason=engine_failure(name)))
    for name in ("openvino", "onnx")
}
OPENVINO = pytest.mark.skipif(bool(engine_failure("openvino")), reason=engine_failure("openvino"))
BOTH = pytest.mark.parametrize("name", INSTALLED.values())
ONNX = pytest.mark.parametrize(
    "name", [INSTALLED["onnx"]]
)  # for what is the same code in both, and slower in the other
SMALL = replace(SD1, widths=(8, 16), transformer_layers=(1, 0), num_heads=(1, 2), blocks_per_level=1)
CONFIGS = {
    "sd1": SMALL,
    "sd2": replace(SMALL, linear_projection=True),  # v-prediction
    "sdxl": UNetConfig(
        widths=(8, 16),
        transformer_layers=(0, 2),
        mid_transformer_layers=2,
        num_heads=(1, 2),
        blocks_per_level=1,
        context_dim=12,
        linear_projection=True,
        norm_groups=4,
        pooled_dim=10,
        size_embedding_dim=6,
    ),
    "upscaler": replace(SMALL, num_classes=11, only_cross_attention=(True, False)),
    "classes": replace(SMALL, num_classes=11, class_tokens=True, mid_transformer_layers=0),
    "inpainting": replace(SMALL, in_channels=9),
}


@pytest.fixture(autouse=True)
def drawing(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))  # of this process's tests
    with torch.inference_mode():
        yield


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ldm" / "graphs"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each conversion."""
    made, export = [], graph.export
    monkeypatch.setattr(graph, "export", lambda *given: made.append("one") or export(*given))
    return made


@torch.inference_mode(False)
def network(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(config).requires_grad_(False).eval()


def engine(name: str) -> ConvertedEngine:
    made = engine_for(name, CPU)
    assert isinstance(made, ConvertedEngine)
    return made


def inputs_of(
    config: UNetConfig, size: tuple[int, int] = (8, 8), batch: int = 2
) -> tuple[Tensor, Tensor, Conditioning]:
    x, time, conditioning = inputs(config, size, batch)
    extra = config.in_channels - config.out_channels
    return x[:, extra:], time, replace(conditioning, concat=x[:, :extra] if extra else None)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) >= 0.9999


def check(run, unet: nn.Module, config: UNetConfig = SMALL, **size) -> None:
    given = inputs_of(config, **size)
    close(run(*given), unet(*given))


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *(pytest.param("onnx", config, marks=INSTALLED["onnx"].marks) for config in CONFIGS),
        pytest.param("openvino", "sd1", marks=OPENVINO),
        pytest.param("openvino", "sdxl", marks=[OPENVINO, pytest.mark.slow]),
        pytest.param("openvino", "inpainting", marks=[OPENVINO, pytest.mark.slow]),
    ],
)
def test_it_computes_what_the_network_does_for_all_shapes(name, config, caplog):
    unet = network(CONFIGS[config])
    run = engine(name).network(unet)
    check(run, unet, CONFIGS[config], batch=2)
    check(run, unet, CONFIGS[config], batch=3, size=(13, 10))
    assert not lines(caplog)


@pytest.mark.slow
@BOTH
def test_it_computes_what_the_shipped_model_does(name, caplog):
    model = LatentDiffusion.from_pretrained("emoji", device="cpu", dtype=torch.float32, engine="eager")
    unet, config = model.parts.unet, model.parts.unet.config
    run = engine(name).network(unet)
    check(run, unet, config, batch=2, size=(16, 16))
    check(run, unet, config, batch=1, size=(24, 16))
    assert not lines(caplog)


@ONNX
def test_words_may_be_masked(name, caplog):
    unet = network()
    x, time, conditioning = inputs_of(SMALL)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    masked = replace(conditioning, mask=mask)
    close(engine(name).network(unet)(x, time, masked), unet(x, time, masked))
    assert (unet(x, time, masked) - unet(x, time, conditioning)).abs().max() > 1e-3
    assert not lines(caplog)


@ONNX
def test_one_time_is_that_of_all_pictures_and_fields_that_the_network_does_not_read_do_not_matter(name, caplog):
    unet = network()
    x, _, conditioning = inputs_of(SMALL)
    given = x, torch.tensor(321.0), replace(conditioning, pooled=torch.zeros(2, 3))
    close(engine(name).network(unet)(*given), unet(*given))
    assert not lines(caplog)


@OPENVINO
def test_openvino_computes_in_the_type_of_the_network(monkeypatch, caplog):
    exact, unet, made = network(), network().to(torch.bfloat16), engine("openvino")
    exact.load_state_dict(unet.state_dict())
    x, time, conditioning = inputs_of(SMALL, size=(16, 16))
    half = x.bfloat16(), time, conditioning.to(dtype=torch.bfloat16)
    if torch.bfloat16 in made.dtypes:
        ours = made.network(unet)(*half)
        truth = exact(half[0].float(), time, half[2].to(dtype=torch.float32))
        assert ours.dtype is torch.bfloat16
        assert F.cosine_similarity(ours.float().flatten(), truth.flatten(), dim=0) >= 0.999
        assert (ours.float() - truth).abs().max() > 1e-3
    monkeypatch.setattr(type(made), "dtypes", [torch.float32])  # an older CPU
    assert torch.equal(made.network(unet)(*half), unet(*half))
    assert lines(caplog) == ["the openvino engine does not compute in bfloat16 on this CPU; using eager"]


@OPENVINO
def test_openvino_leaves_sizes_in_bf16_to_eager(monkeypatch):
    monkeypatch.setattr("ldm.engine.openvino.OpenVinoEngine.dtypes", [torch.float32, torch.bfloat16])
    x, _, conditioning = inputs_of(CONFIGS["sdxl"])
    made = engine("openvino")
    assert "float32" in made.refusal(x.bfloat16(), conditioning)
    assert not made.refusal(x, conditioning)
    assert not made.refusal(x.bfloat16(), Conditioning())


@OPENVINO
def test_openvino_is_not_begun_where_it_crashes(monkeypatch, caplog):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert engine_for("openvino", CPU).name == "eager"
    (line,) = lines(caplog)
    assert "ONEDNN_MAX_CPU_ISA" in line and line.endswith("unset it; using eager")


@BOTH
def test_a_type_that_the_library_does_not_compute_in_is_a_line(name, caplog):
    unet = network().to(torch.float16)
    x, time, conditioning = inputs_of(SMALL)
    given = x.half(), time, conditioning.to(dtype=torch.float16)
    run = engine(name).network(unet)
    for _ in range(2):
        assert torch.equal(run(*given), unet(*given))
    (line,) = lines(caplog)
    assert line.startswith(f"the {name} engine does not compute in float16 on ") and line.endswith("; using eager")


@BOTH
def test_changed_weights_are_noticed(name, exports, caplog):
    unet, made = network(), engine(name)
    run = made.network(unet)
    check(run, unet)
    before = run(*inputs_of(SMALL))
    with torch.inference_mode(False):
        unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
        unet.conv_in.weight = nn.Parameter(unet.conv_in.weight * 1.5, requires_grad=False)
    check(run, unet)
    assert (run(*inputs_of(SMALL)) - before).abs().max() > 1e-3
    unet.conv_out = network(seed=1).conv_out
    check(made.network(unet), unet)
    assert len(exports) <= 1
    assert not lines(caplog)


@ONNX
def test_weights_without_a_version_are_given_anew_by_weights_changed(name):
    unet, made = network(), engine(name)
    for parameter in unet.parameters():
        parameter.data = parameter.data.clone()  # made in inference mode, which counts no versions
    run = made.network(unet)
    check(run, unet)
    unet.conv_out.weight.mul_(1.5)
    made.weights_changed()
    check(run, unet)


@BOTH
@torch.inference_mode(False)
def test_adapters_come_and_go(name, tiny_folder, caplog):
    options = {"prompt": "a red apple", "seed": 0, "num_inference_steps": 1, "output_type": "pt"}
    pictures = []
    for each in (name, "eager"):
        model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine=each)
        drawn = [model(**options)]
        model.loras.add(low_ranks(unet_layers(model.parts.unet)), "ink")
        drawn.append(model(**options))
        model.loras.unload()
        drawn.append(model(**options))
        assert drawn[0].recipes[0].engine == each
        pictures.append(torch.cat([result.images for result in drawn]))
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=0)
    assert (pictures[0][0] - pictures[0][1]).abs().max() > 0.01
    torch.testing.assert_close(pictures[0][0], pictures[0][2], atol=1e-4, rtol=0)
    assert not lines(caplog)


@ONNX
def test_a_network_is_converted_once_and_later_engines_read_it(name, fresh_cache, exports, caplog):
    caplog.set_level(logging.INFO, "ldm")
    unet = network()
    check(engine(name).network(unet), unet)
    assert lines(caplog, logging.INFO) == ["converting the network, which takes a few seconds once"]
    other = network(seed=5)  # of other weights
    check(engine(name).network(other), other)
    set_attention(other, "math")
    check(engine(name).network(other), other)
    assert len(exports) == 1
    wider = network(replace(SMALL, widths=(16, 16)))
    check(engine(name).network(wider), wider)
    assert len(exports) == 2
    assert len(list(fresh_cache.glob("*.onnx"))) == 2
    assert not [path for path in fresh_cache.iterdir() if path.name.startswith(".")]


@ONNX
def test_what_the_layers_do_is_part_of_what_is_converted(name, exports):
    unet = network()
    check(engine(name).network(unet), unet)
    patterns = seamless(unet, (True, False)), seamless(unet, (True, True))
    made = engine(name)
    for pattern in patterns:
        check(made.network(pattern), pattern)
        check(made.network(pattern), pattern, size=(12, 16))
    for ours, theirs in zip((unet, *patterns), (*patterns, unet), strict=True):
        assert (ours(*inputs_of(SMALL)) - theirs(*inputs_of(SMALL))).abs().max() > 1e-3


@ONNX
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-9], "is damaged"),
        (lambda content: b"", "is damaged"),
        (lambda content: content.replace(content.split()[2], b"0" * 32, 1), "was made by another version"),
    ],
)
def test_a_kept_graph_that_is_damaged_or_of_another_version_is_made_anew(name, damage, words, fresh_cache, caplog):
    unet = network()
    check(engine(name).network(unet), unet)
    (path,) = fresh_cache.glob("*.onnx")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    check(engine(name).network(unet), unet)
    assert lines(caplog) == [f"{path} {words}; converting the network anew"]
    assert disk_cache._read(path, graph.versions())[0] is not None
    caplog.clear()
    check(engine(name).network(unet), unet)
    assert not lines(caplog)


@ONNX
def test_a_cache_that_cannot_be_written_is_a_line(name, monkeypatch, tmp_path, caplog):
    (tmp_path / "ldm").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unet = network()
    run = engine(name).network(unet)
    check(run, unet)
    check(run, unet, size=(16, 8))
    (line,) = lines(caplog)
    assert "cannot be written" in line and line.endswith("the converted network is not kept")


@ONNX
def test_a_full_disk_is_a_line_and_leaves_no_half_file(name, fresh_cache, nearly_full_disk, caplog):
    unet = network()
    with nearly_full_disk(10_000):
        check(engine(name).network(unet), unet)
    (line,) = lines(caplog)
    assert "cannot be written" in line
    assert not list(fresh_cache.glob("*.onnx")) and not list(fresh_cache.glob(".*"))


@pytest.mark.parametrize(("name", "package"), [("openvino", "openvino"), ("openvino", "onnx"), ("onnx", "onnxruntime")])
def test_a_package_that_is_not_installed_is_a_line(name, package, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, package, None)
    assert engine_for(name, CPU).name == "eager"
    (line,) = lines(caplog)
    if not engine_failure(name).startswith(f"the {name} engine needs the package {package} "):
        pytest.skip("another one is missing before it")
    assert line.endswith(f"; pip install 'ldm[{name}]'; using eager")


@ONNX
def test_too_little_memory_is_a_line(name, monkeypatch, caplog):
    monkeypatch.setattr(converted, "_SHARE", 0.0)
    unet = network()
    run = engine(name).network(unet)
    for _ in range(2):
        check(run, unet)
    (line,) = lines(caplog)
    assert line.startswith(f"the {name} engine lacks memory") and line.endswith("; using eager")


@OPENVINO
def test_a_shape_that_openvino_was_not_compiled_for_is_a_line_once(caplog):
    caplog.set_level(logging.INFO, "ldm")
    unet = network()
    run = engine("openvino").network(unet)
    for size in ((8, 8), (8, 16), (8, 8), (8, 16)):
        check(run, unet, size=size)
    said = [line for line in lines(caplog, logging.INFO) if "OpenVINO" in line]
    assert said == [
        "OpenVINO compiles a step of shape 2 x 4 x 8 x 8",
        "OpenVINO compiles a step of shape 2 x 4 x 8 x 16",
    ]


@ONNX
def test_what_it_cannot_do_is_refused_or_runs_eagerly_by_name(name, caplog):
    unet, made = network(), engine(name)
    x, time, conditioning = inputs_of(SMALL)
    denoise = NetworkDenoiser(unet, DiscreteVP(), "epsilon", conditioning, engine=made)
    with pytest.raises(ValueError, match=f"the {name} engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(hook=lambda layer, q, k, v, mask: v)])
    residuals = Residuals((), torch.zeros(1))
    with pytest.raises(ValueError, match=f"the {name} engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(residuals)])
    run = made.network(unet)
    cache = FeatureCache(CacheSettings(deepcache=2))
    for _ in range(2):
        out = run(x, time, conditioning, NetworkOptions(reuse=cache.call([(conditioning,)], 500.0)))
    assert torch.equal(out, unet(x, time, conditioning)) and cache.deep_runs == 1
    assert lines(caplog) == [f"the {name} engine takes no feature caches; using eager"]


@ONNX
def test_gradients_are_computed_eagerly(name, caplog):
    unet = network()
    with torch.inference_mode(False), torch.enable_grad():
        x, time, conditioning = inputs_of(SMALL)
        engine(name).network(unet)(x.requires_grad_(), time, conditioning).sum().backward()
        ours, x.grad = x.grad, None
        unet(x, time, conditioning).sum().backward()
    assert torch.equal(ours, x.grad)
    assert lines(caplog) == [f"the {name} engine gives no gradients; using eager"]


@ONNX
def test_memory_that_runs_out_is_left_to_the_drawing_which_goes_on_in_a_smaller_way(name, monkeypatch, caplog):
    unet, made = network(), engine(name)

    def short(inputs: dict[str, Tensor]) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(made, "converted", lambda *given: short)
    with pytest.raises(MemoryError):
        made.network(unet)(*inputs_of(SMALL))
    assert not lines(caplog)


@ONNX
def test_a_failure_is_a_line_and_the_network_runs_as_it_is_written(name, monkeypatch, caplog):
    def broken(*given):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(graph, "export", broken)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    unet = network(replace(SMALL, widths=(24, 24)))
    run = engine(name).network(unet)
    for _ in range(2):
        assert torch.equal(run(*inputs_of(SMALL)), unet(*inputs_of(SMALL)))
    assert lines(caplog)[-1] == f"the {name} engine failed (no such operator); using eager"
    assert len([line for line in lines(caplog) if "using eager" in line]) == 1


@ONNX
def test_a_network_without_what_it_needs_says_so_as_ever(name, caplog):
    (x, time, conditioning), unet = inputs_of(SMALL), network()
    run = engine(name).network(unet)
    with pytest.raises(ValueError, match=r"conditioning\.tokens is missing"):
        run(x, time)
    close(run(x, time, conditioning), unet(x, time, conditioning))
    assert not lines(caplog)


@BOTH
def test_threads_may_share_it(name):
    unet, made = network(), engine(name)
    given = [inputs_of(SMALL, batch=batch) for batch in (1, 2)]
    expected, found = [unet(*each) for each in given], {}

    @torch.inference_mode()
    def draw(k: int) -> None:
        run = made.network(unet)
        found[k] = [run(*given[k % 2]) for _ in range(5)]

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, outputs in found.items():
        for output in outputs:
            close(output, expected[k % 2])
    assert len(found) == 4


@ONNX
def test_a_network_is_forgotten_with_its_model(name):
    unet, made = network(), engine(name)
    check(made.network(unet), unet)
    assert made.network(unet) is made.network(unet)
    assert len(made._networks) == 1
    del unet
    assert len(made._networks) == 0
