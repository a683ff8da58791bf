"""The shape of a denoising U-Net, in our words; `ldm.io.folder.unet` maps it to and from diffusers' `config.json`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetConfig:
    """Everything that decides the parameters of a `UNet` (names and sizes of its weights).

    Level 0 is the finest. `transformer_layers[i]` is the depth of the transformer behind every residual block of level
    i (0: none); `mid_transformer_layers=0` gives a middle of one residual block. `num_heads[i]` counts heads, it is not
    their width. The up path mirrors the down path with one block more a level.

    Attributes:
        in_channels: latent channels, plus the channels of `Conditioning.concat` if there are any.
        context_dim: width D of `Conditioning.tokens (B, L, D)`, which every transformer needs; None only without them.
        linear_projection: the transformer's in and out projections are linear layers (SD 2, SDXL), else 1x1
            convolutions.
        num_classes: rows of the table for `Conditioning.labels (B,)`.
        class_tokens: the table's rows are tokens (B, 1, D) that the transformers attend to, as in class-conditional
            latent diffusion (Rombach et al. 2022, appendix E.2.1); else they are added to the time. diffusers knows the
            latter.
        pooled_dim, size_embedding_dim: SDXL's vector conditioning: `pooled (B, pooled_dim)` and `size_count` numbers a
            picture (height and width, crop, target size), each as a sinusoid of width `size_embedding_dim` (Podell et
            al. 2023, section 2.2). Both or none. SDXL's refiner has five numbers: an aesthetic score for the target
            size.
        only_cross_attention: for each level, whether its transformers attend to the tokens twice and never to their own
            pixels (the x4 upscaler); empty for none. The middle always has self-attention.

    Raises:
        ValueError: shapes that cannot be built; names the field.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks_per_level: int = 2
    transformer_layers: tuple[int, ...] = (1, 1, 1, 0)
    mid_transformer_layers: int = 1
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    context_dim: int | None = 768
    linear_projection: bool = False
    num_classes: int | None = None
    class_tokens: bool = False
    norm_groups: int = 32
    pooled_dim: int | None = None
    size_embedding_dim: int | None = None
    size_count: int = 6
    only_cross_attention: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for field in ("transformer_layers", "num_heads"):
            if len(getattr(self, field)) != levels:
                raise ValueError(
                    f"{field}={getattr(self, field)} needs one entry per level, as widths={self.widths} has"
                )
        if self.only_cross_attention and len(self.only_cross_attention) != levels:
            raise ValueError(
                f"only_cross_attention={self.only_cross_attention} needs one entry per level, or none at all"
            )
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(f"widths={self.widths}: {width} is not a multiple of norm_groups={self.norm_groups}")
        depths = (*self.transformer_layers, self.mid_transformer_layers)
        for width, heads, depth in zip(
            (*self.widths, self.widths[-1]), (*self.num_heads, self.num_heads[-1]), depths, strict=True
        ):
            if depth and (heads < 1 or width % heads):
                raise ValueError(f"num_heads={self.num_heads}: width {width} does not divide into {heads} heads")
        if self.has_transformers and self.context_dim is None:
            raise ValueError(
                "context_dim=None: transformers attend to tokens; give their width, or transformer_layers of zeros"
            )
        if self.class_tokens and (self.num_classes is None or self.context_dim is None):
            raise ValueError(
                f"class_tokens=True needs classes and transformers; num_classes={self.num_classes} and "
                f"context_dim={self.context_dim}: set both"
            )
        if (self.pooled_dim is None) != (self.size_embedding_dim is None):
            raise ValueError(
                f"pooled_dim={self.pooled_dim} and size_embedding_dim={self.size_embedding_dim}: set both or none"
            )

    @property
    def time_dim(self) -> int:
        """Width of the time embedding that every residual block receives."""
        return 4 * self.widths[0]

    @property
    def vector_dim(self) -> int | None:
        """Width of the pooled text and the embedded sizes together, None without them."""
        if self.pooled_dim is None or self.size_embedding_dim is None:
            return None
        return self.pooled_dim + self.size_count * self.size_embedding_dim

    @property
    def has_transformers(self) -> bool:
        """Whether any level or the middle has attention."""
        return any((*self.transformer_layers, self.mid_transformer_layers))

    @property
    def needs(self) -> frozenset[str]:
        """Names of the fields of `Conditioning` that the network cannot do without."""
        needs = {
            "tokens": self.has_transformers and not self.class_tokens,
            "labels": self.num_classes is not None,
            "pooled": self.pooled_dim is not None,
            "sizes": self.pooled_dim is not None,
            "concat": self.in_channels > self.out_channels,
        }
        return frozenset(name for name, needed in needs.items() if needed)
