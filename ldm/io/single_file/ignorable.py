"""Names in single files that may be left out, each with its reason. Any other name that has no place is an error."""

import re

_TABLES = (
    "betas|alphas_cumprod(_prev)?|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod|log_one_minus_alphas_cumprod|"
    "sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod|posterior_variance|posterior_log_variance_clipped|"
    "posterior_mean_coef[12]|logvar|lvlb_weights"
)
_CLIP = r"(cond_stage_model|conditioner\.embedders\.\d)"

_REASONS: tuple[tuple[str, str], ...] = (
    (_TABLES, "the table of noise, which the family's formula gives"),
    (r"denoiser\.(sigmas|log_sigmas)", "the table of noise, which the family's formula gives"),
    (r"low_scale_model\..+", "the table of noise for the small picture, which a formula gives"),
    (r"v_pred|ztsnr", "a marker that has been read"),
    (r"model_ema\.(decay|num_updates)", "training: how the moving average is kept"),
    (r"model_ema\..+", "the moving average of the U-Net beside the U-Net itself; --ema takes it"),
    (r"first_stage_model\.(loss|model_ema)\..+", "training: the autoencoder's losses and their networks"),
    (_CLIP + r"\..*position_ids", "a constant: 0, 1, 2, ..."),
    (_CLIP + r"\..*logit_scale", "training: the scale of CLIP's comparison with pictures"),
    (_CLIP + r"\.model\.attn_mask", "a constant: tokens see only what is before them"),
    (_CLIP + r"\.(model\.visual|transformer\.vision_model)\..+", "CLIP's half for pictures"),
    (_CLIP + r"\.transformer\.(visual|text)_projection\.weight", "a projection that this family does not use"),
    (r"cond_stage_model\.model\.text_projection", "a projection that this family does not use"),
    (r"embedding_manager\..+", "training: an empty table of new words"),
    (r"depth_model\..+", "the network that estimates depth; give the depth map instead"),
    (r"(global_step|epoch|iteration)", "training: a counter"),
)
_COMPILED = tuple((re.compile(pattern), reason) for pattern, reason in _REASONS)
BESIDE_EMA = "the U-Net beside its moving average, which was requested"
LAST_LAYER = "the last layer of the text encoder, which this family does not run"


def why_ignorable(name: str) -> str | None:
    """The reason why a name may be left out, None if there is none."""
    return next((reason for pattern, reason in _COMPILED if pattern.fullmatch(name)), None)
