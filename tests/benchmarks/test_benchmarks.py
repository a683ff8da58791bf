"""`python -m benchmarks`: what it compares, what it refuses to time, and what it writes. No test is about a time."""

import gc
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT

from benchmarks.__main__ import BENCHMARKS, OTHERS, benchmark_of, main
from benchmarks.decoding import decoding_sides
from benchmarks.measuring import Comparison, Options, Side, Timed, Unavailable, agreement, compare, fallbacks_refused
from benchmarks.networks import random_network
from benchmarks.tables import record, table
from benchmarks.unet import step_sides
from ldm.engine import disk_cache, packed
from ldm.engine.precision import best_dtype

QUICK = Options(torch.device("cpu"), (torch.float32,), repetitions=2, quick=True)
ONCE = ["--quick", "--dtype", "float32", "--repetitions", "1", "--rounds", "1"]
TWO_ENGINES = ["--engines", "eager", "packed"]  # converting a network for the others takes most of a minute
X = torch.arange(4.0)


@pytest.fixture(autouse=True)
def converted_networks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those of this process's tests alone: what an earlier version left in the user's cache is a note in a table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """Before each call that is timed garbage is collected: here, not among all that other tests have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_no_script_hides_a_package_from_the_others() -> None:
    """`python benchmarks/x.py` looks for modules in `benchmarks` first."""
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {"ldm", "autoencoder", "conditioning"} <= packages
    assert not names & (packages | sys.stdlib_module_names)


def side(name: str, output, **about) -> Side:
    return Side(name, lambda: lambda: output, **about)


def comparison(**seconds: list[float]) -> Comparison:
    sides = [Timed(name, name == "ldm", name != "ldm", each, each, memory=1) for name, each in seconds.items()]
    return Comparison("a step", "float32", "processor", sides)


def test_only_sides_that_give_the_same_are_timed() -> None:
    def missing():
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    def broken():
        raise RuntimeError("no such layout")

    sides = [side("first", X), side("near", X + 1e-3), side("shifted", X + 1), side("twice", 2 * X)]
    sides += [side("other shape", X[:3]), side("no numbers", X * float("nan"))]
    found = compare("a step", [*sides, Side("missing", missing), Side("broken", broken)], QUICK, torch.float32)
    by_name = {each.name: each for each in found.sides}
    assert [name for name, each in by_name.items() if each.seconds] == ["first", "near"]
    assert all(len(by_name[name].seconds) == QUICK.repetitions for name in ("first", "near"))
    for name in ("shifted", "twice", "other shape", "no numbers"):
        assert by_name[name].note.startswith("differs from first"), name
    assert by_name["missing"].note == "not installed (openvino)"
    assert by_name["broken"].note == "failed: RuntimeError: no such layout"
    assert "| shifted | differs from first" in table(found)


def test_a_fault_of_ours_lets_the_others_go_on_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken():
        raise RuntimeError("no such layout")

    def run(options: Options):
        yield compare("a step", [Side("ldm", broken, ours=True), side("other", X)], options, torch.float32)

    monkeypatch.setattr("benchmarks.batches.run", run)
    with pytest.raises(SystemExit, match="ldm: failed: RuntimeError: no such layout"):
        main(["batches", "--output", str(tmp_path)])
    assert "| other | " in capsys.readouterr().out


def test_a_side_that_fails_after_it_was_timed_has_no_time() -> None:
    calls = iter([X, X])
    found = compare("a step", [side("first", X), Side("tired", lambda: lambda: next(calls))], QUICK, torch.float32)
    assert found.sides[1].note.startswith("failed") and not found.sides[1].seconds
    assert found.sides[1].note in table(found)


def test_memory_that_runs_out_is_said_in_three_words() -> None:
    def large():
        return torch.empty(2**60)

    found = compare("a step", [side("first", X), Side("large", large, ours=True)], QUICK, torch.float32)
    assert found.sides[1].note == "out of memory"


def test_every_other_turn_is_in_reverse_order() -> None:
    calls: list[str] = []

    def taking_turns(name: str) -> Side:
        return Side(name, lambda: lambda: (calls.append(name), X)[1])

    compare("a step", [taking_turns("a"), taking_turns("b")], QUICK, torch.float32)
    assert calls == ["a", "b", "b", "a", "a", "b"]


def test_a_side_whose_output_cannot_agree_has_a_time_and_no_ratio_is_to_it() -> None:
    sides = [
        side("first", X),
        side("tiles", 2 * X, unlike="another noise", baseline=True),
        side("alike", X, unlike="tiles"),
    ]
    found = compare("a step", sides, QUICK, torch.float32)
    assert (
        not found.sides[2].unlike
        and len(found.sides[1].seconds) == QUICK.repetitions
        and found.baseline.name == "first"
    )
    assert "| tiles (not verified: another noise; agreement 0." in table(found)


def test_random_networks_have_the_same_numbers_at_every_call_and_no_row_twice() -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2000, 1000), torch.nn.LayerNorm(1000))

    a, b = (random_network(build, torch.device("cpu"), torch.bfloat16).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == torch.bfloat16 for name in a)
    weight = a["0.weight"].float()
    assert weight.std().item() == pytest.approx((3 * 2000) ** -0.5, rel=0.01)
    assert len(weight.unique(dim=0)) == 1000
    assert a["1.weight"].min() > 0.8 and a["1.bias"].abs().max() < 0.2


@pytest.mark.slow
@torch.inference_mode()
def test_an_engine_that_falls_back_to_eager_is_not_timed_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.engine.packed._SHARE", 0.0)
    options = replace(QUICK, repetitions=1, only=("eager", "packed"))
    sides = [each for each in step_sides("sd1", options, torch.float32) if each.name != "OpenVINO"]
    notes = {each.name: each.note for each in compare("a step", sides, options, torch.float32).sides}
    assert "using eager" in notes.pop("ldm, packed") and not any(notes.values())


def test_what_a_cache_says_of_its_file_is_no_fall_back() -> None:
    with fallbacks_refused():
        logging.getLogger(disk_cache.__name__).warning("x.onnx is damaged; converting the network anew")
    with pytest.raises(Unavailable, match="using eager"), fallbacks_refused():
        logging.getLogger(packed.__name__).warning("no room; using eager")


@pytest.mark.parametrize("engine", ["eager", "packed", "compiled"])
@torch.inference_mode()
def test_a_side_keeps_the_network_that_it_times(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.engine.compiled.torch.compile", lambda module, **options: module)
    made = [each.make() for each in step_sides("sd1", replace(QUICK, only=(engine,)), torch.float32) if each.ours]
    gc.collect()
    assert [isinstance(run(), torch.Tensor) for run in made] == [True]


def test_half_precision_may_differ_by_more() -> None:
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    far = noise + 0.07 * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    for dtype, is_timed in ((torch.float32, False), (torch.bfloat16, True)):
        found = compare("a step", [side("first", noise), side("far", far)], QUICK, dtype)
        assert bool(found.sides[1].seconds) == is_timed


def test_agreement_is_at_most_the_cosine_and_that_where_only_the_direction_differs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1000))
    a, b = ((each - each.mean()) / each.std() for each in (a, a + b))
    cosine = float(a @ b / 1000)
    assert agreement(b, a) == pytest.approx(cosine)
    assert agreement(2 * b, a) < cosine and agreement(b + 1, a) < cosine
    assert agreement(a, a) == 1


def test_ratios_are_of_the_same_round_and_to_the_fastest_baseline() -> None:
    found = comparison(slow=[4.0, 9.0, 4.0], fast=[2.0, 4.0, 3.0], ldm=[1.0, 1.0, 2.0])
    assert found.baseline.name == "fast"
    assert found.ratio(found.sides[-1]) == (2.0, 1.5, 4.0)
    assert "| ldm | 1 s | 2.00 (1.50 to 4.00) | 0 |" in table(found)


def test_losses_are_against_every_side_that_is_faster_or_smaller() -> None:
    found = comparison(fast=[1.0], slow=[3.0], ldm=[2.0])
    assert found.losses() == ["a step, float32: ldm takes 100% longer than fast"]
    found.sides[2].memory = 3
    assert found.losses()[1:] == [
        "a step, float32: ldm takes 200% more memory than fast",
        "a step, float32: ldm takes 200% more memory than slow",
    ]
    assert not comparison(fast=[3.0], ldm=[2.0]).losses()


def test_json_has_ratios_and_losses() -> None:
    content = json.loads(json.dumps(record({"processor": "x"}, [comparison(fast=[1.0, 1.0], ldm=[2.0, 4.0])])))
    assert content["machine"] == {"processor": "x"}
    (found,) = content["comparisons"]
    assert found["sides"][1]["ratio"] == {"median": 0.375, "least": 0.25, "most": 0.5}
    assert found["losses"] == ["a step, float32: ldm takes 200% longer than fast"]


@pytest.mark.slow
@torch.inference_mode()
def test_our_decoder_gives_what_diffusers_gives() -> None:
    sides = [side for side in decoding_sides(64, QUICK, torch.float32) if side.name != "OpenVINO"]
    found = {each.name: each for each in compare("decoding", sides, QUICK, torch.float32).sides}
    assert set(found) == {"diffusers, eager", "diffusers, eager, channels_last", "diffusers, eager, tiling on", "ldm"}
    assert all(each.seconds and not each.unlike for each in found.values())


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    names = ["unet_sd1", "unet_sdxl", "text_encoder"]
    main([*names, *ONCE, *TWO_ENGINES, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["machine"]["versions"]["torch"] == torch.__version__ and content["machine"]["quick"]
    assert content["machine"]["threads"] == torch.get_num_threads()
    for found in content["comparisons"]:
        timed = {each["name"]: each for each in found["sides"] if each["seconds"]}
        assert f"| {found['title']}, float32 |" in printed
        assert any(each["baseline"] for each in timed.values()) and any(each["ours"] for each in timed.values())
        assert all(each["agreement"] >= 0.999 and each["ratio"]["median"] > 0 for each in timed.values())
        assert {each["name"]: each["note"] for each in found["sides"] if not each["seconds"]} == {
            "OpenVINO": "not installed (openvino)"
        }
    assert len(content["comparisons"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_emoji", "decoding_512", "drawing_sd1", "batches", "memory", "pipeline_steps"])
def test_every_comparison_is_of_the_same_outputs(tmp_path: Path, name: str) -> None:
    main([name, *ONCE, *([] if name == "unet_emoji" else TWO_ENGINES), "--output", str(tmp_path)])
    for found in json.loads((tmp_path / "results.json").read_text())["comparisons"]:
        theirs = ("OpenVINO", "stable-diffusion.cpp")
        assert not any(each["note"] for each in found["sides"] if not each["name"].startswith(theirs))


def test_an_unknown_name_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["unet_sd15"])
    assert "unknown benchmark 'unet_sd15'; did you mean 'unet_sd1'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"python -m benchmarks\.samplers"):
        benchmark_of("samplers")


@pytest.mark.parametrize("name", ["unet_sdxl", "batches"])
def test_large_ones_are_in_the_number_format_that_this_processor_is_fastest_in(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[torch.dtype] = []

    def run(options: Options):
        found.extend(options.dtypes)
        yield compare("a step", [side("first", X)], options, options.dtypes[0])

    module, function = BENCHMARKS[name].place.split(":")
    monkeypatch.setattr(f"benchmarks.{module}.{function}", run)
    for dtype in ([], ["--dtype", "float16"]):
        main([name, *dtype, "--output", str(tmp_path)])
    cpu = torch.device("cpu")
    assert found == [best_dtype(cpu) if name == "unet_sdxl" else torch.float32, torch.float16]


@pytest.mark.parametrize("option", ["--repetitions", "--rounds", "--limit"])
def test_a_number_without_sense_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["unet_emoji", option, "0"])
    assert f"{option} 0 must be" in capsys.readouterr().err


def test_the_list_has_every_module(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    printed = capsys.readouterr().out
    folder = Path(__file__).parents[2] / "benchmarks"
    modules = {path.stem for path in folder.glob("*.py")} - {
        "__main__",
        "measuring",
        "networks",
        "processes",
        "tables",
        "training_cases",
    }
    assert modules == {each.place.split(":")[0] for each in BENCHMARKS.values()} | set(OTHERS)
    assert all(name in printed for name in (*BENCHMARKS, *OTHERS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_without_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["unet_emoji", "--gpu"])
    assert "--gpu needs a CUDA GPU" in capsys.readouterr().err
