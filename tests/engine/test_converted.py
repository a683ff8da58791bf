"""The engines of OpenVINO and ONNX Runtime compute what the network does, and say what they cannot do."""

import logging
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engines import (
    BOTH,
    CPU,
    INSTALLED,
    ONNX,
    OPENVINO,
    SMALL,
    check,
    check_adapters,
    close,
    engine,
    inputs_of,
    lines,
    network,
)
from torch.nn import functional as F

from autoencoder.seamless import seamless
from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.engine import converted, disk_cache, graph
from ldm.engine.choose import engine_for
from ldm.networks.attention import set_attention
from ldm.networks.unet import UNetConfig

pytestmark = pytest.mark.usefixtures("drawing")
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


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ldm" / "graphs"


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


@OPENVINO
def test_ctrl_c_is_heard_after_engines_came_and_went():
    """Each `Core` brings a stack for signals, and leaves one that is freed where it is not the last: SIGSEGV."""
    program = (
        "import gc, os, signal, torch\n"
        "from ldm.engine.choose import engine_for\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "engines = [engine_for('openvino', torch.device('cpu')) for _ in range(3)]\n"
        "assert all(engine.dtypes for engine in engines)  # which loads what sets the stack\n"
        "while engines:\n"
        "    del engines[0]\n"
        "    gc.collect()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('heard')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr


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
@torch.inference_mode(False)
def test_adapters_come_and_go(name, tiny_folder, caplog):
    check_adapters(name, tiny_folder)
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
    named = line.removeprefix(f"the {name} engine needs the package ").split()[0]
    assert named == package or find_spec(named) is None, "it, or another one that is missing before it"
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
