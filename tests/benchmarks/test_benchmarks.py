"""`python -m benchmarks`: what it compares, what it refuses to time, and what it writes. No test is about a time."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT

from benchmarks.__main__ import BENCHMARKS, OTHERS, benchmark_of, main
from benchmarks.decoding import decoding_sides
from benchmarks.measuring import (
    Comparison,
    Options,
    Outcome,
    Side,
    Timed,
    agreement,
    apart,
    compare,
    peak_memory,
    record,
    table,
)
from benchmarks.networks import family_of, unets
from benchmarks.unet import step_sides

QUICK = Options(torch.device("cpu"), (torch.float32,), repetitions=2, quick=True)
X = torch.arange(4.0)


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


def test_our_own_fault_is_no_line_of_a_table() -> None:
    def broken():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        compare("a step", [side("first", X), Side("ldm", broken, ours=True)], QUICK, torch.float32)


@torch.inference_mode()
def test_an_engine_that_falls_back_to_eager_is_not_timed_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.engine.packed._SHARE", 0.0)
    ours, theirs = unets(family_of("sd1", quick=True).unet, QUICK, torch.float32)
    sides = [each for each in step_sides(ours, theirs, 8, QUICK, torch.float32) if each.name != "OpenVINO"]
    notes = {each.name: each.note for each in compare("a step", sides, QUICK, torch.float32).sides}
    assert "using eager" in notes.pop("ldm, packed") and not any(notes.values())


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


def test_a_side_that_times_itself_counts_from_its_first_call() -> None:
    calls = []

    def run() -> Outcome:
        calls.append(1)
        return Outcome(X.numpy(), wall=float(len(calls)), processor=float(len(calls)), memory=7)

    found = compare("a step", [Side("itself", lambda: run)], QUICK, torch.float32)
    assert found.sides[0].seconds == [1.0, 2.0] and found.sides[0].memory == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = np.ones(2**27)  # 1 GB
    assert apart(peak_memory) < held.nbytes < peak_memory()


@torch.inference_mode()
def test_our_decoder_gives_what_diffusers_gives() -> None:
    sides = [side for side in decoding_sides(64, QUICK, torch.float32) if side.name != "OpenVINO"]
    assert [bool(each.seconds) for each in compare("decoding", sides, QUICK, torch.float32).sides] == [True] * 3


def test_the_command_prints_tables_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["unet_sd1", "unet_sdxl", "text_encoder"]
    main([*names, "--quick", "--repetitions", "1", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["machine"]["versions"]["torch"] == torch.__version__ and content["machine"]["quick"]
    assert content["machine"]["threads"] == torch.get_num_threads()
    for found in content["comparisons"]:
        timed = {each["name"]: each for each in found["sides"] if each["seconds"]}
        assert f"| {found['title']}, float32 |" in printed
        assert any(each["baseline"] for each in timed.values()) and any(each["ours"] for each in timed.values())
        assert all(each["agreement"] >= 0.999 and each["ratio"]["median"] > 0 for each in timed.values())
        assert {each["name"] for each in found["sides"]} - set(timed) <= {"OpenVINO"}
    assert len(content["comparisons"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_emoji", "decoding_512", "drawing_sd1", "batches", "memory"])
def test_every_comparison_is_of_the_same_outputs(tmp_path: Path, name: str) -> None:
    main([name, "--quick", "--repetitions", "1", "--output", str(tmp_path)])
    for found in json.loads((tmp_path / "results.json").read_text())["comparisons"]:
        assert [each["note"] for each in found["sides"] if each["name"] != "OpenVINO"] == [""] * sum(
            each["name"] != "OpenVINO" for each in found["sides"]
        )


def test_an_unknown_name_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["unet_sd15"])
    assert "unknown benchmark 'unet_sd15'; did you mean 'unet_sd1'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"python -m benchmarks\.samplers"):
        benchmark_of("samplers")


def test_the_list_has_every_module(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    printed = capsys.readouterr().out
    folder = Path(__file__).parents[2] / "benchmarks"
    modules = {path.stem for path in folder.glob("*.py")} - {"__main__", "measuring", "networks"}
    assert modules == {each.place.split(":")[0] for each in BENCHMARKS.values()} | set(OTHERS)
    assert all(name in printed for name in (*BENCHMARKS, *OTHERS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_without_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["unet_emoji", "--gpu"])
    assert "--gpu needs a CUDA GPU" in capsys.readouterr().err
