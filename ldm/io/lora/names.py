"""Names of layers and factors in adapter files, and which layer of a model each one means."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ldm.adapters.lora.layers import BIAS, TEXT, TEXT_2, TOWERS, UNET
from ldm.io.keys.rename import inverse, rename
from ldm.io.keys.unet_keys import UNetPlan, unet_modules
from ldm.networks.unet.config import UNetConfig

PEFT_PREFIX = "base_model.model."
KOHYA_PREFIXES = {UNET: ("lora_unet_", "lycoris_"), TEXT: ("lora_te_", "lora_te1_"), TEXT_2: ("lora_te2_",)}
"""kohya's prefixes of a network, and that of the LyCORIS library; with two text encoders the first is `te1`."""
COMFYUI_PREFIXES = {
    UNET: ("diffusion_model.",),
    TEXT: ("text_encoders.clip_l.transformer.", "text_encoders.clip_h.transformer."),
    TEXT_2: ("text_encoders.clip_g.transformer.",),
}
"""ComfyUI's prefixes of a network, behind which names keep their dots."""
BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<part>emb_params|clip_l|clip_g|string_to_param\.(?P<word>.+))")
"""A textual inversion that OneTrainer puts into the file of a LoRA, by the word that stands for it."""

_ENDINGS = {
    r"lora_down\.weight|lora_A(?:\.\w+)?\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight": "down",
    r"lora_up\.weight|lora_B(?:\.\w+)?\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight": "up",
    r"lora_mid\.weight": "mid",
    r"alpha": "alpha",
    r"diff|w_norm": "diff",
    r"diff_b|b_norm": "diff_b",
    r"dora_scale": "dora_scale",
    r"lora_magnitude_vector(?:\.\w+)*": "magnitude",
    **{rf"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{rf"lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_UNSUPPORTED = {
    r"lora_(?:B|up|A|down)(?:\.\w+)?\.bias": "a LoRA with biases of its own",
    r"bias_(?:indices|values|size)": "a sparse change of biases",
    r"oft_\w+|boft_\w+": "an OFT (rotations)",
    r"[ab][12]\.weight": "a GLoRA",
    r"on_input|ia3_\w+": "an IA3",
    r"lora_embedding_[AB]": "a LoRA of token embeddings",
    r"lokr_t1": "a LoKr with two kernels",
}
_KNOWN = re.compile("(?P<stem>.+?)\\.(?:" + "|".join(f"(?P<_{i}>{ending})" for i, ending in enumerate(_ENDINGS)) + ")")
_REFUSED = re.compile("(?:.+)\\.(?:" + "|".join(f"(?P<_{i}>{ending})" for i, ending in enumerate(_UNSUPPORTED)) + ")")
# diffusers before 0.22: the attention's processor held the factors of all four projections.
_OLD = re.compile(r"(?P<stem>.+?)(?:\.processor)?\.to_(?P<what>q|k|v|out)_lora\.(?P<part>down|up)\.weight")


@dataclass(frozen=True)
class Factor:
    """One key of a file, parsed: the `part` (down, up, mid, alpha, hada_*, ...) of the layer, norm or bias `stem`."""

    stem: str
    part: str


def parse_key(key: str) -> Factor | str | None:
    """A key of an adapter file; text for a factor of an unsupported kind of adapter (its name); None for anything else.

    `stem` is the layer's name as the file has it, in today's spelling and without PEFT's `base_model.model.`.
    """
    key = key.removeprefix(PEFT_PREFIX)
    if match := _OLD.fullmatch(key):
        stem, what = match["stem"], match["what"]
        if stem.endswith(".self_attn"):
            return Factor(f"{stem}.{what}_proj", match["part"])
        return Factor(f"{stem}.to_out.0" if what == "out" else f"{stem}.to_{what}", match["part"])
    if match := _KNOWN.fullmatch(key):
        stem, part = match["stem"].replace(".processor.", "."), _which(match, list(_ENDINGS.values()))
        return Factor(f"{stem}{BIAS}", "diff") if part == "diff_b" else Factor(stem, part)
    if match := _REFUSED.fullmatch(key):
        return _which(match, list(_UNSUPPORTED.values()))
    return None


def style_of(keys: Iterable[str]) -> str:
    """kohya, comfyui, diffusers or peft, by the first key that decides."""
    styles = {"kohya": KOHYA_PREFIXES, "comfyui": COMFYUI_PREFIXES}
    for key in keys:
        for style, prefixes in styles.items():
            if key.startswith(tuple(prefix for several in prefixes.values() for prefix in several)):
                return style
        if key.startswith(PEFT_PREFIX):
            return "peft"
    return "diffusers"


def known_names(addresses: Iterable[str], config: UNetConfig) -> dict[str, str]:
    """Every name that a file may have for a layer or norm -> its address, for the model whose these are.

    A text encoder's names without its prefix (PEFT's) are known only where there is one text encoder to mean.
    """
    addresses = list(addresses)
    towers = {address.partition(".")[0] for address in addresses}
    theirs = _single_file_names((address for address in addresses if address.startswith(f"{UNET}.")), config)
    names: dict[str, str] = {}
    for address in addresses:
        tower, _, name = address.partition(".")
        spellings = [name, theirs[address]] if address in theirs else [name]
        names |= {kohya_name(prefix, spelling): address for prefix in KOHYA_PREFIXES[tower] for spelling in spellings}
        if tower != UNET:
            spellings.append(name.removeprefix("text_model."))
        if tower == UNET or len(towers & set(TOWERS) - {UNET}) == 1:
            names |= dict.fromkeys(spellings, address)
        prefixes = (f"{tower}.", *COMFYUI_PREFIXES[tower])
        names |= {prefix + spelling: address for prefix in prefixes for spelling in spellings}
    return names


def kohya_name(prefix: str, name: str) -> str:
    """kohya's name of a module: flat."""
    return prefix + name.replace(".", "_")


def _single_file_names(addresses: Iterable[str], config: UNetConfig) -> dict[str, str]:
    """Address of a U-Net layer -> its name in CompVis' single files, after which kohya's SDXL files call it."""
    if not config.mid_transformer_layers:
        return {}  # there is no single-file layout for such a network
    modules = inverse(unet_modules(UNetPlan.of(config)))
    weights = {address: rename(f"{address.removeprefix(f'{UNET}.')}.weight", modules) for address in addresses}
    return {address: name.removesuffix(".weight") for address, name in weights.items() if name is not None}


def _which(match: re.Match[str], meanings: list[str]) -> str:
    return next(meaning for i, meaning in enumerate(meanings) if match[f"_{i}"] is not None)
