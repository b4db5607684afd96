"""Settings of the networks that are MONAI's to the last weight, so that its bundles run here. Imports no torch.

Each class has the arguments of the class of MONAI that it stands for; what our own networks do better (strides by
axis with residual encoders, deep supervision) is not repeated. To train from scratch, take those.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.errors import ConfigError
from medseg.models.option_fields import Channels, Kernel, NetworkFields, Repeats, Steps

Stride = Annotated[int, Field(ge=1, le=8)] | Steps
Edge = Literal[1, 3, 5, 7] | Kernel
Ordering = Literal[
    "N", "A", "NA", "AN", "NDA", "NAD", "DNA", "DAN", "AND", "ADN", "ND", "DN", "DA", "AD", "D"
]
Upsampling = Literal["deconv", "nontrainable", "pixelshuffle"]
_STRIDES = "Factor by which each level is smaller than the one before, one number or one per axis."


class MonaiNorm(BaseModel):
    """Normalisation as MONAI spells it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["instance", "batch", "group"] = Field(
        default="instance",
        description="Each channel of each image, of the batch, or groups of channels of each image.",
    )
    groups: int = Field(default=8, ge=1, le=256, description="group: number of groups.")
    affine: bool | None = Field(
        default=None,
        description="Whether scale and shift are learnt; null: as torch has it (instance: no, others: yes).",
    )
    eps: float = Field(default=1e-5, gt=0, le=0.1, description="Added to the variance.")

    @property
    def learns(self) -> bool:
        """`affine`, decided."""
        return self.kind != "instance" if self.affine is None else self.affine


class MonaiActivation(BaseModel):
    """Function after each normalisation, as MONAI spells it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "swish", "mish"] = Field(
        default="prelu", description="Name of the function; prelu learns its slope."
    )
    slope: float = Field(default=0.01, gt=0, lt=1, description="leaky_relu: slope below zero.")


class _MonaiFields(NetworkFields):
    dropout: float = Field(
        default=0.0, ge=0.0, le=0.9, description="Probability of dropout in training, 0..1."
    )


class _SteppedFields(_MonaiFields):
    """Fields of the networks whose strides are given level by level."""

    channels: Channels = Field(description="Channels of each level, finest first.")
    strides: tuple[Stride, ...] = Field(description=_STRIDES)
    kernel: Edge = Field(default=3, description="Edges of the convolutions, one number or one per axis.")
    up_kernel: Edge = Field(
        default=3, description="Edges of the transposed convolutions, one number or one per axis."
    )

    @model_validator(mode="after")
    def _strides_fit(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} channels need {len(self.channels) - 1} strides, found {len(self.strides)}"
            )
        return self

    @property
    def levels(self) -> int:
        """Number of resolutions of feature maps."""
        return len(self.channels)


class MonaiUNetOptions(_SteppedFields):
    """MONAI's UNet: strided convolutions or residual units, the first level already strided (Kerfoot et al. 2019)."""

    use: Literal["monai_unet"] = "monai_unet"
    residual_units: int = Field(
        default=0, ge=0, le=8, description="Convolutions in each residual unit; 0: no such units."
    )
    norm: MonaiNorm = Field(default=MonaiNorm(), description="Normalisation after each convolution.")
    activation: MonaiActivation = Field(
        default=MonaiActivation(), description="Function after each normalisation."
    )
    bias: bool = Field(default=True, description="Whether convolutions have a bias.")
    ordering: Ordering = Field(
        default="NDA",
        description="Order of normalisation, dropout and activation after a convolution.",
    )

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """By level; the image is shrunk by the first level."""
        return (*(_by_axis(s, spatial_dims) for s in self.strides), (1,) * spatial_dims)


class MonaiAttentionUNetOptions(_SteppedFields):
    """MONAI's AttentionUnet: pairs of convolutions with batch norm, gated skips (Oktay et al. 2018)."""

    use: Literal["monai_attention_unet"] = "monai_attention_unet"

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """By level; the first is at the size of the image."""
        return ((1,) * spatial_dims, *(_by_axis(s, spatial_dims) for s in self.strides))


class MonaiBasicUNetOptions(_MonaiFields):
    """MONAI's BasicUNet: five levels of two convolutions, max pooling between them (Falk et al. 2019)."""

    use: Literal["monai_basic_unet"] = "monai_basic_unet"
    channels: Annotated[Channels, Field(min_length=5, max_length=5)] = Field(
        default=(32, 32, 64, 128, 256), description="Channels of each level, finest first."
    )
    last: int = Field(default=32, ge=1, le=4096, description="Channels after the last upsampling.")
    norm: MonaiNorm = Field(
        default=MonaiNorm(affine=True), description="Normalisation after each convolution."
    )
    activation: MonaiActivation = Field(
        default=MonaiActivation(kind="leaky_relu", slope=0.1),
        description="Function after each normalisation.",
    )
    bias: bool = Field(default=True, description="Whether convolutions have a bias.")
    upsampling: Upsampling = Field(default="deconv", description="How coarse maps become fine ones.")

    @property
    def levels(self) -> int:
        """Five."""
        return len(self.channels)


class MonaiSegResNetOptions(_MonaiFields):
    """MONAI's SegResNet: residual blocks, added skips (Myronenko 2018)."""

    use: Literal["monai_segresnet"] = "monai_segresnet"
    width: int = Field(
        default=8, ge=1, le=256, description="Channels of the finest level; each further level doubles them."
    )
    blocks: Annotated[Repeats, Field(min_length=2, max_length=7)] = Field(
        default=(1, 2, 2, 4), description="Residual blocks of each level on the way down, finest first."
    )
    up_blocks: Repeats = Field(
        default=(1, 1, 1), description="Residual blocks of each level on the way up, coarsest first."
    )
    norm: MonaiNorm = Field(
        default=MonaiNorm(kind="group"), description="Normalisation before each convolution."
    )
    activation: MonaiActivation = Field(
        default=MonaiActivation(kind="relu"), description="Function after each normalisation."
    )
    upsampling: Upsampling = Field(default="nontrainable", description="How coarse maps become fine ones.")

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if len(self.up_blocks) != len(self.blocks) - 1:
            raise ValueError(
                f"{len(self.blocks)} blocks need {len(self.blocks) - 1} up_blocks to come back to the "
                "size of the image, "
                f"found {len(self.up_blocks)}"
            )
        return self

    @property
    def levels(self) -> int:
        """Number of resolutions, the finest included."""
        return len(self.blocks)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.width * 2**level for level in range(self.levels))


class MonaiDynUNetOptions(_MonaiFields):
    """MONAI's DynUNet: the U-Net of nnU-Net version 1, strides and kernels by level (Isensee et al. 2019)."""

    use: Literal["monai_dynunet"] = "monai_dynunet"
    channels: Annotated[Channels, Field(min_length=3)] = Field(
        description="Channels of each level, finest first."
    )
    kernels: tuple[Edge, ...] = Field(
        description="Edges of the convolutions of each level, one number or one per axis."
    )
    strides: tuple[Stride, ...] = Field(
        description=f"{_STRIDES} The first level is that of the image and is left out."
    )
    up_kernels: tuple[Stride, ...] | None = Field(
        default=None,
        description="Edges of the transposed convolutions from each level but the finest; null: the strides.",
    )
    residual: bool = Field(
        default=False, description="Whether the encoder's pairs of convolutions are residual."
    )
    up_bias: bool = Field(default=False, description="Whether transposed convolutions have a bias.")
    norm: MonaiNorm = Field(
        default=MonaiNorm(affine=True), description="Normalisation after each convolution."
    )
    activation: MonaiActivation = Field(
        default=MonaiActivation(kind="leaky_relu"), description="Function after each normalisation."
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        levels = len(self.channels)
        counts = {"kernels": (len(self.kernels), levels), "strides": (len(self.strides), levels - 1)}
        if self.up_kernels is not None:
            counts["up_kernels"] = (len(self.up_kernels), levels - 1)
        for name, (found, needed) in counts.items():
            if found != needed:
                raise ValueError(f"{levels} channels need {needed} {name}, found {found}")
        return self

    @property
    def levels(self) -> int:
        """Number of resolutions, the finest included."""
        return len(self.channels)

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """By level; the first is at the size of the image."""
        return ((1,) * spatial_dims, *(_by_axis(s, spatial_dims) for s in self.strides))


def _by_axis(number: int | tuple[int, ...], spatial_dims: int) -> tuple[int, ...]:
    if isinstance(number, int):
        return (number,) * spatial_dims
    if len(number) != spatial_dims:
        raise ConfigError(
            f"model.strides gives numbers for {len(number)} axes, the images have {spatial_dims}; give "
            f"{spatial_dims} each"
        )
    return tuple(number)
