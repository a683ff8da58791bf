"""Names of the ways to compute attention; light to import, for command lines and configs."""

DEFAULT = "sdpa"
OWN = ("sdpa", "math")
"""Those of this package: PyTorch's choice of kernel, and two matrix products."""
THROUGH_DIFFUSERS = {
    "xformers": ("xformers", "xformers"),
    "flash": ("flash", "flash_attn"),
    "flash3": ("_flash_3", "flash_attn_interface"),
    "sage": ("sage", "sageattention"),
    "cudnn": ("_native_cudnn", "torch"),
}
"""Those reached through `diffusers.models.attention_dispatch`: their names there, the packages they need."""
BACKENDS = (*OWN, *THROUGH_DIFFUSERS)
