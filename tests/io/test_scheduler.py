"""diffusers' scheduler files <-> our settings: each field is honoured or refused by name, and survives the way back."""

import json
from typing import Any

import pytest
import torch

from ldm.families.parts import SchedulerSettings
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.scheduler import process_for, scheduler_fields, scheduler_settings
from ldm.io.folder.scheduler.classes import CLASSES, SIGMA_FLAGS
from ldm.process import EDM, DiscreteVP, Flow
from ldm.samplers import make_sampler

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
NEEDED: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "EDMEulerScheduler": {"sigma_data": 1.0, "prediction_type": "v_prediction"},
    "EDMDPMSolverMultistepScheduler": {"sigma_data": 1.0, "prediction_type": "v_prediction"},
}
"""What a class must say so that we have its equal."""


def test_table_of_betas_is_taken_as_it_is() -> None:
    betas = torch.linspace(0.001, 0.02, 20).tolist()
    process = scheduler_settings(
        {"_class_name": "DDIMScheduler", "num_train_timesteps": 20, "trained_betas": betas}, "x"
    ).process
    assert isinstance(process, DiscreteVP) and process.betas == tuple(betas)
    assert scheduler_settings(scheduler_fields(process, "epsilon", "ddim", "leading"), "x").process == process


# As Stable Diffusion 1.5, 2.1 and XL ship it, leftovers of other classes included.
SHIPPED = {
    "sd1": ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False}, "plms", "leading"),
    "sd2": ({"_class_name": "DDIMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False}, "ddim", "leading"),
    "sdxl": (
        {
            "_class_name": "EulerDiscreteScheduler",
            "interpolation_type": "linear",
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
        },
        "euler",
        "leading",
    ),
}


@pytest.mark.parametrize("family", SHIPPED)
def test_scheduler_files_of_the_families_are_read(family: str, caplog: pytest.LogCaptureFixture) -> None:
    fields, sampler, schedule = SHIPPED[family]
    settings = scheduler_settings({**SD, "clip_sample": False, "trained_betas": None, **fields}, "x")
    assert (settings.sampler, settings.schedule) == (sampler, schedule)
    assert isinstance(settings.process, DiscreteVP) and settings.process.final_alpha_one == (sampler == "euler")
    assert not caplog.text


SOLVER_FIELDS = [
    ("DPMSolverMultistepScheduler", {}, "dpmpp_2m", {}),
    ("DPMSolverMultistepScheduler", {"lower_order_final": False}, "dpmpp_2m", {"lower_order_final": False}),
    ("DPMSolverMultistepScheduler", {"euler_at_final": True}, "dpmpp_2m", {}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.0}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", {}),
    (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        "dpmpp_2m_sde",
        {"solver_type": "heun"},
    ),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "dpmpp_2s", {}),
    (
        "DPMSolverSinglestepScheduler",
        {"solver_order": 3, "solver_type": "heun"},
        "dpmpp_2s",
        {"order": 3, "solver_type": "heun"},
    ),
    ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}, "unipc", {"order": 3, "solver_type": "bh1"}),
    ("UniPCMultistepScheduler", {"lower_order_final": False}, "unipc", {"lower_order_final": False}),
    ("DEISMultistepScheduler", {"solver_order": 3}, "deis", {"order": 3}),
]


@pytest.mark.parametrize(("name", "fields", "sampler", "options"), SOLVER_FIELDS)
def test_solver_fields_become_options(name: str, fields: dict[str, Any], sampler: str, options: dict[str, Any]) -> None:
    settings = scheduler_settings({"_class_name": name, **fields}, "x")
    assert (settings.sampler, settings.sampler_options) == (sampler, options)
    make_sampler(settings.sampler, settings.sampler_options)


def written_and_read(settings: SchedulerSettings) -> SchedulerSettings:
    fields = scheduler_fields(
        settings.process,
        settings.prediction_type,
        settings.sampler,
        settings.schedule,
        settings.sampler_options,
        settings.schedule_options,
    )
    return scheduler_settings(json.loads(json.dumps(fields)), "x")


@pytest.mark.parametrize("name", CLASSES)
def test_settings_survive_the_round_trip(name: str) -> None:
    known = CLASSES[name]
    variants: list[dict[str, Any]] = [{}]
    if known.spacing is not None:
        variants = [{"timestep_spacing": s, "num_train_timesteps": 400} for s in ("leading", "trailing", "linspace")]
        if known.sigmas:
            variants += [{**variant, flag: True} for variant in variants for flag in SIGMA_FLAGS]
    if known.zero_snr:
        variants.append({"rescale_betas_zero_snr": True, "prediction_type": "sample"})
    variants += [fields for other, fields, *_ in SOLVER_FIELDS if other == name]
    for fields in variants:
        settings = scheduler_settings({"_class_name": name, **NEEDED.get(name, {}), **fields}, "x")
        assert written_and_read(settings) == settings, fields


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "VQDiffusionScheduler"}, "_class_name='VQDiffusionScheduler' is not supported"),
    (
        {
            "_class_name": "DPMSolverSinglestepScheduler",
            "lower_order_final": True,
            "final_sigmas_type": "sigma_min",
        },
        "lower_order_final=True is not supported together with final_sigmas_type='sigma_min'",
    ),
    ({"_class_name": "DPMSolverSinglestepScheduler", "algorithm_type": "dpmsolver"}, "algorithm_type='dpmsolver'"),
    ({"_class_name": None}, "_class_name=None is not supported; only DDIMScheduler"),
    ({"thresholding": True}, "thresholding=True is not supported; only False"),
    ({"timestep_spacing": "quadratic"}, "timestep_spacing='quadratic'"),
    ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
    ({"beta_schedule": "sigmoid"}, "x: .*'sigmoid'"),
    ({"beta_end": 3.0}, "x: beta_end=3.0 is not"),
    ({"beta_start": "small"}, "x: "),
    ({"snr_shift": 2}, "snr_shift=2 is unknown"),
    ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type='learned'"),
    ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "skip_prk_steps=False is not supported; only True"),
    ({"_class_name": "PNDMScheduler"}, "skip_prk_steps=False"),
    ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "interpolation_type='log_linear'"),
    ({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "half"}, "final_sigmas_type='half'"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "prediction_type=None"),
    (
        {"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
        "use_karras_sigmas and use_beta_sigmas are both true",
    ),
    ({"_class_name": "DPMSolverSDEScheduler", "noise_sampler_seed": 0}, "noise_sampler_seed=0"),
    ({"_class_name": "LCMScheduler", "timestep_scaling": 5.0}, "timestep_scaling=5.0"),
    ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "predict_x0=False"),
    ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}, r"disable_corrector=\[0\]"),
    ({"_class_name": "UniPCMultistepScheduler", "solver_order": 4}, "solver_order=4 .*; only 2 or 1 or 3 is"),
    ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "prediction_type='epsilon'"),
    ({"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas=True"),
    ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "sigma_data=0.5 .* only 1.0"),
    ({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0}, "prediction_type='epsilon'"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}, "stochastic_sampling=True"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, "use_karras_sigmas=True"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0.0}, "shift=0.0"),
] + [
    ({"_class_name": "DPMSolverMultistepScheduler", **fields}, message)
    for fields, message in (
        ({"algorithm_type": "dpmsolver"}, "algorithm_type='dpmsolver' is not supported"),
        ({"algorithm_type": "sde-dpmsolver"}, "algorithm_type='sde-dpmsolver'"),
        ({"solver_order": 3}, "solver_order=3 is not supported; only 2"),
        ({"solver_type": "rk4"}, "solver_type='rk4'"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"variance_type": "learned"}, "variance_type='learned'"),
        ({"lambda_min_clipped": -5.1}, "lambda_min_clipped=-5.1"),
        ({"euler_at_final": True, "final_sigmas_type": "sigma_min"}, "euler_at_final=True"),
    )
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_unsupported_fields_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as error:
        scheduler_settings({"_class_name": "DDIMScheduler", **fields}, "x")
    assert str(error.value).startswith("x: ")


VP, LEFT, ZERO_SNR = DiscreteVP(), DiscreteVP(final_alpha_one=False), DiscreteVP(zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Flow(), "epsilon", "ddim", "leading"), "process=Flow; use one of unipc, euler, heun"),
        ((Flow(3.0), "flow", "euler", "linspace"), "schedule_options={} has no words.*'last': 1.99"),
        ((Flow(), "flow", "unipc", "karras"), "schedule='karras' has no words"),
        ((Flow(), "v_prediction", "unipc", "linspace"), "prediction_type='v_prediction' has no words"),
        ((EDM(), "sample", "euler", "karras"), "prediction_type='sample' has no words"),
        ((EDM(), "v_prediction", "euler", "linspace"), "sigma_schedule='linspace' is not supported"),
        ((VP, "flow", "ddim", "leading"), "prediction_type='flow'"),
        ((VP, "epsilon", "restart", "leading"), "sampler='restart' has no scheduler"),
        ((VP, "epsilon", "dpmpp_3m_sde", "leading"), "sampler='dpmpp_3m_sde' has no scheduler"),
        ((VP, "epsilon", "ddim", "karras"), "schedule='karras' has no words in diffusers' DDIMScheduler"),
        ((VP, "epsilon", "euler", "kl_optimal"), "schedule='kl_optimal' has no words"),
        ((VP, "epsilon", "lcm", "leading"), "schedule='leading' has no words"),
        ((VP, "epsilon", "ddim", "leading", {"eta": 0.5}), "sampler_options={'eta': 0.5} has no words"),
        ((VP, "epsilon", "dpmpp_2m_sde", "linspace", {"eta": 0.5}), "sampler_options={'eta': 0.5} has no words"),
        ((VP, "epsilon", "euler", "karras", {}, {"rho": 5.0}), "schedule_options={'rho': 5.0} has no words"),
        ((VP, "epsilon", "deis", "linspace"), "process=.*final_alpha_one=True.* has no words"),
        ((LEFT, "epsilon", "heun", "linspace"), "process=.*final_alpha_one=False.* has no words"),
        ((ZERO_SNR, "v_prediction", "heun", "linspace"), "zero_terminal_snr=True would be ignored .*; use one of ddim"),
    ],
)
def test_what_diffusers_has_no_words_for_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheduler_fields(*arguments)


def test_noise_at_the_end_is_for_the_samplers_that_read_the_field() -> None:
    left = DiscreteVP(final_alpha_one=False)
    for own, kept in (("ddim", "plms"), ("plms", "ddim"), ("euler", "dpmpp_2m"), ("deis", "deis")):
        assert process_for(kept, left, own) is left
    for own, other in (("ddim", "euler"), ("dpmpp_2m", "ddim"), ("deis", "unipc"), ("plms", "heun"), ("lms", "dpm2")):
        assert process_for(other, left, own) == DiscreteVP()
    assert process_for("euler", Flow(), "ddim") == Flow()
