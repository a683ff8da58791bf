"""Names of other tools: every one of them leads to a sampler and a schedule that exist, with options that they have."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest

import ldm.samplers
from ldm.generation.recipe import Recipe
from ldm.generation.sampler_names import (
    _SAMPLERS,
    _SCHEDULES,
    SAMPLER_LABELS,
    SCHEDULE_LABELS,
    Names,
    a1111_names,
    resolve,
    stand_in,
)
from ldm.generation.sampling import sampling_for
from ldm.io.folder.scheduler import grid_options
from ldm.naming import check_options
from ldm.process import DiscreteVP
from ldm.samplers import INVERSIONS, SAMPLERS, make_sampler
from ldm.schedules import SCHEDULES, WRITTEN, make_grid

# The sampler menu of A1111's web UI 1.10 and, in brackets, the schedule of its "Automatic".
A1111_MENU = {
    "DPM++ 2M": ("dpmpp_2m", "karras"),
    "DPM++ SDE": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2S a": ("dpmpp_2s_ancestral", "karras"),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", "exponential"),
    "Euler a": ("euler_ancestral", "normal"),
    "Euler": ("euler", "normal"),
    "LMS": ("lms", "normal"),
    "Heun": ("heun", "normal"),
    "DPM2": ("dpm2", "karras"),
    "DPM2 a": ("dpm2_ancestral", "karras"),
    "DPM fast": ("dpm_fast", "exponential"),
    "Restart": ("restart", "karras"),
    "DDIM": ("ddim", "leading"),
    "PLMS": ("plms", "leading"),
    "UniPC": ("unipc", "leading"),
    "LCM": ("lcm", None),
}
A1111_SCHEDULES = {
    "Uniform": "normal",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "polyexponential",
    "SGM Uniform": "sgm_uniform",
    "KL Optimal": "kl_optimal",
    "Align Your Steps": "align_your_steps",
    "Simple": "simple",
    "Normal": "normal",
    "DDIM": "leading",
    "Beta": "beta",
}
# What Forge and reForge have beyond it.
FORGE_MENU = {
    "HeunPP2": "heunpp2", "IPNDM": "ipndm", "IPNDM_V": "ipndm_v", "DEIS": "deis", "DDPM": "ddpm", "ER SDE": "er_sde",
    "Res Multistep": "dpmpp_2m_sde", "Gradient Estimation": "gradient_estimation",
}  # fmt: skip
FORGE_SCHEDULES = {
    "Turbo": "trailing",
    "Align Your Steps GITS": "gits",
    "align_your_steps_GITS": "gits",
    "Align Your Steps 11": "align_your_steps",
    "Linear Quadratic": "linear_quadratic",
}
# A1111's aliases, which its API takes.
A1111_SHORT = {
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"), "k_dpmpp_sde_ka": ("dpmpp_sde", "karras"),
    "k_dpmpp_2s_a_ka": ("dpmpp_2s_ancestral", "karras"), "k_dpm_2_a_ka": ("dpm2_ancestral", "karras"),
    "k_lms_ka": ("lms", "karras"), "k_dpmpp_2m_sde_exp": ("dpmpp_2m_sde", "exponential"),
    "k_dpm_fast": ("dpm_fast", None), "k_dpmpp_2s_a": ("dpmpp_2s_ancestral", None),
}  # fmt: skip
# k-diffusion's functions.
K_DIFFUSION = {
    "sample_euler": "euler", "sample_euler_ancestral": "euler_ancestral", "sample_heun": "heun",
    "sample_dpm_2": "dpm2", "sample_dpm_2_ancestral": "dpm2_ancestral", "sample_lms": "lms",
    "sample_dpm_fast": "dpm_fast", "sample_dpmpp_2s_ancestral": "dpmpp_2s_ancestral",
    "sample_dpmpp_sde": "dpmpp_sde", "sample_dpmpp_2m": "dpmpp_2m", "sample_dpmpp_2m_sde": "dpmpp_2m_sde",
    "sample_dpmpp_3m_sde": "dpmpp_3m_sde",
}  # fmt: skip
# A1111 before 1.9 had the schedule in the sampler's name.
A1111_OLD = {
    "LMS Karras": ("lms", "karras"),
    "DPM2 a Karras": ("dpm2_ancestral", "karras"),
    "DPM++ 2S a Karras": ("dpmpp_2s_ancestral", "karras"),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 3M SDE Exponential": ("dpmpp_3m_sde", "exponential"),
    "Euler a SGM Uniform": ("euler_ancestral", "sgm_uniform"),
    "DPM++ 2M Automatic": ("dpmpp_2m", "karras"),
}
# ComfyUI's menu (`comfy/samplers.py` in 2025), as far as it is here.
COMFYUI_SAMPLERS = {
    "euler": "euler", "euler_ancestral": "euler_ancestral", "heun": "heun", "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_ancestral", "lms": "lms", "dpmpp_2s_ancestral": "dpmpp_2s_ancestral",
    "dpmpp_sde": "dpmpp_sde", "dpmpp_sde_gpu": "dpmpp_sde", "dpmpp_2m": "dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "dpmpp_2m_sde_heun": "dpmpp_2m_sde", "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde",
    "dpmpp_3m_sde": "dpmpp_3m_sde", "dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "ddpm": "ddpm", "lcm": "lcm", "deis": "deis",
    "ddim": "ddim", "uni_pc": "unipc", "uni_pc_bh2": "unipc", "heunpp2": "heunpp2", "dpm_fast": "dpm_fast",
    "ipndm": "ipndm", "ipndm_v": "ipndm_v", "res_multistep": "dpmpp_2m_sde", "er_sde": "er_sde",
    "gradient_estimation": "gradient_estimation",
}  # fmt: skip
COMFYUI_SCHEDULES = {
    "simple": "simple", "sgm_uniform": "sgm_uniform", "karras": "karras", "exponential": "exponential",
    "ddim_uniform": "leading", "beta": "beta", "normal": "normal", "kl_optimal": "kl_optimal",
    "linear_quadratic": "linear_quadratic",
}  # fmt: skip
# What they have and we have not, and what is nearest.
NEAREST = {
    "DPM adaptive": "dpm_fast", "dpm_adaptive": "dpm_fast", "k_dpm_adaptive": "dpm_fast",
    "sample_dpm_adaptive": "dpm_fast", "res_multistep_ancestral": "dpmpp_2m_sde_heun", "seeds_2": "dpmpp_sde",
    "seeds_3": "dpmpp_sde", "sa_solver": "dpmpp_2m_sde", "sa_solver_pece": "dpmpp_2m_sde",
    "exp_heun_2_x0": "heun", "exp_heun_2_x0_sde": "dpmpp_sde", "DPM++ 2s a RF": "dpmpp_2s_ancestral",
}  # fmt: skip
CFG_PLUS_PLUS = [
    "DDIM CFG++", "euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp",
    "res_multistep_cfg_pp", "res_multistep_ancestral_cfg_pp", "gradient_estimation_cfg_pp",
]  # fmt: skip


def test_our_own_names_are_all_labelled_and_mean_themselves() -> None:
    assert set(SAMPLER_LABELS) == {*SAMPLERS, *INVERSIONS}
    assert set(SCHEDULE_LABELS) == set(SCHEDULES)
    for name in SAMPLER_LABELS:
        assert resolve(name) == Names(name)
    for name in SCHEDULE_LABELS:
        assert resolve(None, name) == Names(None, name)


def test_every_alias_leads_to_something_that_exists() -> None:
    for spelling, (name, options) in _SAMPLERS.items():
        assert resolve(spelling) == Names(name, None, options)
        check_options(spelling, make_sampler(name), options)
        make_sampler(name, options)
    for spelling, name in _SCHEDULES.items():
        assert resolve(None, spelling) == Names(None, name)
        assert name in SCHEDULES or name in WRITTEN


@pytest.mark.parametrize("spelling", A1111_MENU)
def test_a1111s_menu(spelling: str) -> None:
    sampler, automatic = A1111_MENU[spelling]
    assert (resolve(spelling).sampler, resolve(spelling).schedule) == (sampler, None)
    assert resolve(spelling, "Automatic").schedule == automatic
    for schedule, name in A1111_SCHEDULES.items():
        assert resolve(spelling, schedule).schedule == name


@pytest.mark.parametrize("spelling", A1111_OLD)
def test_a1111s_older_names_hold_a_schedule(spelling: str) -> None:
    assert (resolve(spelling).sampler, resolve(spelling).schedule) == A1111_OLD[spelling]


@pytest.mark.parametrize("spelling", COMFYUI_SAMPLERS)
def test_comfyuis_menu(spelling: str) -> None:
    for schedule, name in COMFYUI_SCHEDULES.items():
        names = resolve(spelling, schedule)
        assert (names.sampler, names.schedule) == (COMFYUI_SAMPLERS[spelling], name)


def test_names_that_differ_by_an_option() -> None:
    assert resolve("dpmpp_2m_sde_heun").sampler_options == {"solver_type": "heun"}
    assert resolve("DPM++ 2M SDE Heun Karras").sampler_options == {"solver_type": "heun"}
    assert resolve("uni_pc").sampler_options == {"solver_type": "bh1"}
    assert resolve("uni_pc_bh2").sampler_options == resolve("UniPC").sampler_options == {}


def test_diffusers_classes_with_their_flags() -> None:
    assert resolve("DPMSolverMultistepScheduler", "use_karras_sigmas") == Names("dpmpp_2m", "karras")
    assert resolve("DPMSolverMultistepScheduler + use_karras_sigmas") == Names("dpmpp_2m", "karras")
    for spelling in _SAMPLERS:
        if spelling.endswith("Scheduler"):
            assert hasattr(diffusers, spelling)


def test_case_and_separators_do_not_matter() -> None:
    for spelling in ("dpm++ 2m karras", "DPMPP_2M-KARRAS", " DPM++  2M  Karras "):
        assert resolve(spelling) == Names("dpmpp_2m", "karras")
    assert resolve(None, "sgm uniform") == resolve(None, "SGMUniform") == Names(None, "sgm_uniform")


def test_an_explicit_schedule_wins() -> None:
    assert resolve("DPM++ 2M Karras", "exponential") == Names("dpmpp_2m", "exponential")
    assert resolve("DPM++ 2M Karras", "automatic") == Names("dpmpp_2m", "karras")
    assert resolve(None, "automatic") == resolve(None) == Names()


@pytest.mark.parametrize("spelling", NEAREST)
def test_what_is_not_here_is_refused_with_what_is_nearest(spelling: str) -> None:
    with pytest.raises(ValueError, match=f"unknown sampler '.*'; the nearest is '{NEAREST[spelling]}', "):
        resolve(spelling)
    known = stand_in("sampler", spelling)
    assert known is not None and known[0] == NEAREST[spelling] and resolve(known[0]).sampler in SAMPLERS


def test_a_finer_table_of_align_your_steps_is_refused_with_the_published_one() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'Align Your Steps 32'; the nearest is 'align_your_steps'"):
        resolve(None, "Align Your Steps 32")
    assert stand_in("schedule", "zzz") is None


@pytest.mark.parametrize("spelling", CFG_PLUS_PLUS)
def test_samplers_with_cfg_plus_plus_are_refused_with_the_guidance(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"unknown sampler '.*'; CFG\+\+ is a guidance here: combine it with 'euler'"):
        resolve(spelling)


@pytest.mark.parametrize("spelling", ["", "zzz", "Kohaku LoNyu Yog"])
def test_unknown_samplers_are_refused(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"unknown sampler .*; (did you mean|known: )"):
        resolve(spelling)


@pytest.mark.parametrize(("spelling", "sampler"), [*FORGE_MENU.items(), *K_DIFFUSION.items()])
def test_forges_menu_and_k_diffusions_functions(spelling: str, sampler: str) -> None:
    assert (resolve(spelling).sampler, resolve(spelling).schedule) == (sampler, None)
    for schedule, name in FORGE_SCHEDULES.items():
        assert resolve(spelling, schedule).schedule == name


@pytest.mark.parametrize("spelling", A1111_SHORT)
def test_a1111s_short_names(spelling: str) -> None:
    assert (resolve(spelling).sampler, resolve(spelling).schedule) == A1111_SHORT[spelling]


@pytest.mark.parametrize("n", [1, 4, 7, 20])
def test_forges_turbo_is_trailing(n: int) -> None:
    """Its formula: round(1000 i / n - 1) for i = n, ..., 1."""
    process = DiscreteVP()
    wanted = [round(i * 1000 / n - 1) for i in range(n, 0, -1)]
    assert make_grid(resolve(None, "Turbo").schedule or "", process, n)[:-1].tolist() == wanted


@pytest.mark.parametrize(
    ("sampler", "schedule", "message"),
    [
        ("DPM++ 2N Karras", None, "did you mean 'DPM\\+\\+ 2"),
        ("eulr", None, "unknown sampler 'eulr'; did you mean 'euler'"),
        (None, "karas", "unknown schedule 'karas'; did you mean 'karras'"),
        ("euler", "laplace", "unknown schedule 'laplace'"),
    ],
)
def test_unknown_names_offer_the_nearest(sampler: str | None, schedule: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(sampler, schedule)


def test_a1111s_text_leads_back() -> None:
    for sampler in SAMPLER_LABELS:
        for schedule in SCHEDULE_LABELS:
            assert resolve(*a1111_names(sampler, schedule)) == Names(sampler, schedule)


def test_the_names_in_a_picture_are_a1111s() -> None:
    fields = {"prompt": "p", "negative_prompt": "", "seed": 1, "num_inference_steps": 9, "guidance_scale": 1.0}
    fields |= {"guidance_rescale": 0.0, "width": 8, "height": 8, "upscale": False, "model": "m", "dtype": "float32"}
    recipe = Recipe(**fields, device="cpu", version="1", sampler="euler_ancestral", schedule="sgm_uniform")
    assert "Sampler: Euler a, Schedule type: SGM Uniform," in recipe.parameters()


def test_names_are_known_without_torch() -> None:
    modules = "ldm.generation.sampler_names, ldm.io.metadata.png, ldm.samplers"
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


DEFAULTS = SimpleNamespace(
    sampler="euler", schedule="karras", sampler_options={"s_churn": 3.0}, schedule_options={"spacing": "leading"}
)
"""As of a model whose scheduler file says so."""


def test_what_the_models_file_asks_holds_for_its_own_sampler_and_schedule() -> None:
    for how in (sampling_for(DEFAULTS), sampling_for(DEFAULTS, "Euler", "Karras")):
        assert (how.sampler, how.schedule) == ("euler", "karras")
        assert how.sampler_options == {"s_churn": 3.0} and how.schedule_options == {"spacing": "leading"}
    assert sampling_for(DEFAULTS, "heun").schedule_options == {}
    assert sampling_for(DEFAULTS, schedule="normal").sampler_options == {"s_churn": 3.0}
    assert sampling_for(DEFAULTS, schedule="normal").schedule_options == {}


def test_the_callers_options_come_last() -> None:
    how = sampling_for(DEFAULTS, "dpmpp_2m_sde_heun", sampler_options={"eta": 0.5}, schedule_options={"rho": 3.0})
    assert how.sampler_options == {"solver_type": "heun", "eta": 0.5} and how.schedule_options == {"rho": 3.0}
    assert sampling_for(DEFAULTS, sampler_options={"s_churn": 0.0}).sampler_options == {"s_churn": 0.0}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_pair_of_names_makes_a_grid(sampler: str) -> None:
    model = SimpleNamespace(sampler="ddim", schedule="trailing", sampler_options={}, schedule_options={})
    for schedule in SCHEDULES:
        how = sampling_for(model, sampler, schedule)
        process = how.process(DiscreteVP(final_alpha_one=False))
        assert (
            how.grid(process, 7).tolist() == make_grid(schedule, process, 7, grid_options(sampler, schedule)).tolist()
        )
        assert how.make() is not None


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="sampler 'euler' has no option 's_chrun'; did you mean 's_churn'"):
        sampling_for(DEFAULTS, sampler_options={"s_chrun": 1.0}).make()
    with pytest.raises(ValueError, match="schedule 'normal' has no option 'rho'"):
        sampling_for(DEFAULTS, schedule="normal", schedule_options={"rho": 1.0}).grid(DiscreteVP(), 3)


def test_no_module_hides_a_sampler() -> None:
    modules = {path.stem for path in Path(ldm.samplers.__file__).parent.glob("*.py")}
    assert not modules & set(SAMPLER_LABELS)
    for name, function in (SAMPLERS | INVERSIONS).items():
        assert getattr(ldm.samplers, name) is function


# InvokeAI's menu (`invokeai/backend/stable_diffusion/schedulers`), NovelAI's names, and InvokeAI 2's.
INVOKE_SAMPLERS = {
    "ddim": ("ddim", None), "ddpm": ("ddpm", None), "deis": ("deis", None), "deis_k": ("deis", "karras"),
    "lms": ("lms", None), "lms_k": ("lms", "karras"), "pndm": ("plms", None), "heun": ("heun", None),
    "heun_k": ("heun", "karras"), "euler": ("euler", None), "euler_k": ("euler", "karras"),
    "euler_a": ("euler_ancestral", None), "kdpm_2": ("dpm2", None), "kdpm_2_k": ("dpm2", "karras"),
    "kdpm_2_a": ("dpm2_ancestral", None), "kdpm_2_a_k": ("dpm2_ancestral", "karras"),
    "dpmpp_2s": ("dpmpp_2s", None), "dpmpp_2s_k": ("dpmpp_2s", "karras"),
    "dpmpp_2m": ("dpmpp_2m", None), "dpmpp_2m_k": ("dpmpp_2m", "karras"), "dpmpp_2m_sde": ("dpmpp_2m_sde", None),
    "dpmpp_2m_sde_k": ("dpmpp_2m_sde", "karras"), "dpmpp_3m": ("dpmpp_3m_sde", None),
    "dpmpp_3m_k": ("dpmpp_3m_sde", "karras"), "dpmpp_sde": ("dpmpp_sde", None),
    "dpmpp_sde_k": ("dpmpp_sde", "karras"), "unipc": ("unipc", None), "unipc_k": ("unipc", "karras"),
    "lcm": ("lcm", None), "tcd": ("tcd", None), "k_euler": ("euler", None), "k_euler_a": ("euler_ancestral", None),
    "k_euler_ancestral": ("euler_ancestral", None), "k_dpmpp_2m": ("dpmpp_2m", None), "k_lms": ("lms", None),
    "k_dpm_2": ("dpm2", None), "k_dpm_2_a": ("dpm2_ancestral", None), "k_heun": ("heun", None),
}  # fmt: skip


@pytest.mark.parametrize("spelling", INVOKE_SAMPLERS)
def test_invokeais_menu(spelling: str) -> None:
    names = resolve(spelling)
    assert (names.sampler, names.schedule) == INVOKE_SAMPLERS[spelling]


def test_names_without_noise_switch_it_off() -> None:
    assert resolve("dpmpp_3m_k").sampler_options == {"eta": 0.0}
    assert resolve("dpmpp_2s").sampler_options == {}
