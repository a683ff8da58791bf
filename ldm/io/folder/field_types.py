"""What a field of a model's JSON files may hold: the type and the sane range of each field that is read.

The ranges are far beyond any model; they only keep a damaged or hostile file from asking for terabytes or for loops
that never end. What is possible together is for the readers to say.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ldm.io.disk.files import ModelFileError
from ldm.naming import shown


@dataclass(frozen=True)
class FieldType:
    """A set of JSON values.

    Attributes:
        words: what they are, for messages.
        holds: whether a value is one of them.
    """

    words: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "FieldType") -> "FieldType":
        return FieldType(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


def whole(least: int, most: int) -> FieldType:
    """Whole numbers from `least` to `most`."""
    return FieldType(
        f"a whole number from {least:,} to {most:,}", lambda value: type(value) is int and least <= value <= most
    )


def number(least: float = -1e12, most: float = 1e12) -> FieldType:
    """Finite numbers, whole or not."""
    words = f"a number from {least:g} to {most:g}"
    return FieldType(words, lambda value: type(value) in (int, float) and least <= value <= most)


def many(of: FieldType, most: int) -> FieldType:
    """Lists of at most `most` entries."""
    return FieldType(
        f"a list of at most {most:,}, each {of.words}",
        lambda value: isinstance(value, list | tuple) and len(value) <= most and all(map(of.holds, value)),
    )


FLAG = FieldType("true or false", lambda value: isinstance(value, bool))
TEXT = FieldType("a text", lambda value: isinstance(value, str))
NULL = FieldType("null", lambda value: value is None)

_LEVELS, _STEPS = 16, 10**6
_WIDTH = whole(1, 2**20)
_ENTRIES = whole(1, 2**24)
_TOKEN_ID = whole(0, 2**24)
_BLOCKS = whole(0, 64)
_CELLS = whole(1, 2**16)
_NUMBER = number()
_TYPE_OF_LEVELS = many(TEXT, _LEVELS)
_SIZE = NULL | _CELLS | many(_CELLS, 2)

_BOTH_NETWORKS: dict[str, FieldType] = {
    "sample_size": _SIZE,
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "down_block_types": _TYPE_OF_LEVELS,
    "up_block_types": _TYPE_OF_LEVELS,
    "block_out_channels": many(_WIDTH, _LEVELS),
    "layers_per_block": _BLOCKS,
    "norm_num_groups": _WIDTH,
}
UNET_TYPES: dict[str, FieldType] = {
    **_BOTH_NETWORKS,
    "mid_block_type": TEXT | NULL,
    "layers_per_block": _BLOCKS | many(_BLOCKS, _LEVELS),
    "cross_attention_dim": _WIDTH | many(_WIDTH, _LEVELS),
    "transformer_layers_per_block": _BLOCKS | many(_BLOCKS, _LEVELS),
    "attention_head_dim": _WIDTH | many(_WIDTH, _LEVELS),
    "use_linear_projection": FLAG,
    "only_cross_attention": FLAG | many(FLAG, _LEVELS),
    "addition_embed_type": TEXT | NULL,
    "addition_time_embed_dim": _WIDTH | NULL,
    "num_class_embeds": _ENTRIES | NULL,
    "ldm_class_tokens": FLAG,
    "projection_class_embeddings_input_dim": _WIDTH | NULL,
}
AUTOENCODER_TYPES: dict[str, FieldType] = {
    **_BOTH_NETWORKS,
    "latent_channels": _WIDTH,
    "scaling_factor": number(1e-6, 1e6),
    "shift_factor": _NUMBER | NULL,
    "latents_mean": NULL | many(_NUMBER, 2**20),
    "latents_std": NULL | many(number(1e-6, 1e6), 2**20),
    "use_quant_conv": FLAG,
    "use_post_quant_conv": FLAG,
    "mid_block_add_attention": FLAG,
    "num_vq_embeddings": _ENTRIES,
    "vq_embed_dim": _WIDTH | NULL,
    "force_upcast": FLAG | NULL,
}
SCHEDULER_TYPES: dict[str, FieldType] = {
    "num_train_timesteps": whole(1, _STEPS),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": TEXT,
    "trained_betas": NULL | many(_NUMBER, _STEPS),
    "prediction_type": TEXT,
    "rescale_betas_zero_snr": FLAG,
    "set_alpha_to_one": FLAG,
    "steps_offset": whole(0, _STEPS),
    "timestep_spacing": TEXT,
    "clip_sample": FLAG,
    "clip_sample_range": _NUMBER | NULL,
    "dynamic_thresholding_ratio": _NUMBER | NULL,
    "sample_max_value": _NUMBER | NULL,
    "thresholding": FLAG,
    "use_karras_sigmas": FLAG | NULL,
    "use_exponential_sigmas": FLAG | NULL,
    "use_beta_sigmas": FLAG | NULL,
    "use_flow_sigmas": FLAG | NULL,
    "use_lu_lambdas": FLAG | NULL,
    "euler_at_final": FLAG,
    "lower_order_final": FLAG,
    "final_sigmas_type": TEXT | NULL,
    "sigma_min": _NUMBER | NULL,
    "sigma_max": _NUMBER | NULL,
    "sigma_data": _NUMBER,
    "sigma_schedule": TEXT,
    "rho": number(0.01, 100),
    "shift": _NUMBER,
    "flow_shift": _NUMBER | NULL,
    "base_image_seq_len": whole(0, 2**31) | NULL,
    "max_image_seq_len": whole(0, 2**31) | NULL,
    "base_shift": _NUMBER | NULL,
    "max_shift": _NUMBER | NULL,
    "shift_terminal": _NUMBER | NULL,
    "time_shift_type": TEXT | NULL,
    "use_dynamic_shifting": FLAG,
    "invert_sigmas": FLAG,
    "stochastic_sampling": FLAG,
    "original_inference_steps": whole(1, _STEPS),
    "timestep_scaling": _NUMBER,
    "timestep_type": TEXT,
    "interpolation_type": TEXT,
    "variance_type": TEXT | NULL,
    "skip_prk_steps": FLAG,
    "solver_order": whole(1, 16),
    "solver_type": TEXT,
    "algorithm_type": TEXT,
    "solver_p": NULL | TEXT,
    "predict_x0": FLAG,
    "disable_corrector": many(whole(0, _STEPS), _STEPS),
    "lambda_min_clipped": TEXT | FieldType("a number", lambda value: type(value) in (int, float)),
    "noise_sampler_seed": NULL | whole(0, 2**64),
}
TEXT_ENCODER_TYPES: dict[str, FieldType] = {
    "vocab_size": _ENTRIES,
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "projection_dim": _WIDTH,
    "num_hidden_layers": whole(1, 512),
    "num_attention_heads": _WIDTH,
    "max_position_embeddings": _WIDTH,
    "layer_norm_eps": number(0, 1),
    "hidden_act": TEXT,
    "attention_dropout": number(0, 1),
    "initializer_range": _NUMBER,
    "initializer_factor": _NUMBER,
    "bos_token_id": _TOKEN_ID | NULL,
    "eos_token_id": _TOKEN_ID,
    "pad_token_id": _TOKEN_ID | NULL,
}
UPSCALER_TYPES: dict[str, FieldType] = {"width": _WIDTH, "blocks": whole(0, 1024), "factor": whole(1, 64)}
RESTORER_TYPES: dict[str, FieldType] = {
    "widths": many(_WIDTH, _LEVELS),
    "encoder_blocks": many(_BLOCKS, _LEVELS),
    "middle_blocks": _BLOCKS,
    "decoder_blocks": many(_BLOCKS, _LEVELS),
    "kinds": many(TEXT, 64),
}
DEFAULTS_TYPES: dict[str, FieldType] = {
    "num_inference_steps": whole(1, _STEPS),
    "guidance_scale": _NUMBER,
    "guidance_rescale": _NUMBER,
}
FEW_STEPS_TYPES: dict[str, FieldType] = {
    "num_inference_steps": whole(1, _STEPS),
    "sampler": TEXT,
    "schedule": TEXT,
    "by_default": FLAG,
}
DENOISING_ERRORS_TYPES: dict[str, FieldType] = {
    "pictures": whole(0, 2**31),
    "errors": many(number(1e-12, 1e3), 1024),
}
INDEX_TYPES: dict[str, FieldType] = {
    "force_zeros_for_empty_prompt": FLAG,
    "max_noise_level": whole(0, _STEPS),
}


def check_types(fields: Mapping[str, Any], types: Mapping[str, FieldType], where: str) -> None:
    """Raise ModelFileError, naming `where` (a file), field and value, for a field that does not hold what it may."""
    for name, kind in types.items():
        if name in fields and not kind.holds(fields[name]):
            raise ModelFileError(f"{where}: {name}={shown(fields[name])} is not {kind.words}")
