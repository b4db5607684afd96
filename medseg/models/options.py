"""What a YAML may say about the network. Imports no torch, so that settings are checked at once.

`NetworkOptions` is the union of all networks, told apart by `use`; `registry.build_network` builds
the one that is named, in two or three dimensions.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from medseg.errors import ConfigError
from medseg.models.monai_options import (
    MonaiAttentionUNetOptions,
    MonaiBasicUNetOptions,
    MonaiDynUNetOptions,
    MonaiSegResNetOptions,
    MonaiUNetOptions,
)
from medseg.models.option_fields import (
    Activation,
    ByAxisOptions,
    Channels,
    NetworkFields,
    NormName,
    Repeats,
    Steps,
)


class _WithDeepSupervision(ByAxisOptions):
    """Fields of networks that can be trained at several resolutions."""

    deep_supervision: bool = Field(
        default=False,
        description="In training, give logits at every decoder level; each gets its own loss.",
    )


class UNetOptions(_WithDeepSupervision):
    """Plain convolutional U-Net: strided convolutions down, transposed convolutions up, joined skips."""

    use: Literal["unet"] = "unet"
    convolutions: int = Field(default=2, ge=1, le=4, description="Convolutions per level and side.")


class ResidualUNetOptions(_WithDeepSupervision):
    """U-Net whose encoder is made of residual blocks of two convolutions."""

    use: Literal["residual_unet"] = "residual_unet"
    blocks: Repeats | None = Field(
        default=None,
        description="Residual blocks per encoder level; None: 1, 2, 3, 4, 4, ... as deep as the level. "
        "The large networks of nnU-Net have 1, 3, 4, 6, 6, 6.",
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.blocks is not None and len(self.blocks) != self.levels:
            raise ValueError(
                f"{self.levels} channels need {self.levels} entries in blocks, found {len(self.blocks)}"
            )
        return self


class AttentionUNetOptions(_WithDeepSupervision):
    """U-Net whose skips pass through gates that the coarser level opens."""

    use: Literal["attention_unet"] = "attention_unet"
    convolutions: int = Field(default=2, ge=1, le=4, description="Convolutions per level and side.")


class FCNOptions(_WithDeepSupervision):
    """Fully convolutional network: an encoder, and score maps of several strides added up."""

    use: Literal["fcn"] = "fcn"
    convolutions: int = Field(default=2, ge=1, le=4, description="Convolutions per level.")
    score_levels: int = Field(
        default=3,
        ge=1,
        le=8,
        description="Coarsest levels that give score maps: 1 is FCN-32s, 3 is FCN-8s of the paper.",
    )

    @model_validator(mode="after")
    def _scores_fit(self) -> Self:
        if self.score_levels > self.levels:
            raise ValueError(f"score_levels is {self.score_levels}, but there are only {self.levels} levels")
        return self


class SmallUNetOptions(_WithDeepSupervision):
    """Residual U-Net under a million parameters (2-D) that works at half resolution, fast on a CPU."""

    use: Literal["small_unet"] = "small_unet"
    norm: NormName = Field(
        default="group",
        description="Normalisation after each convolution: instance (each channel of each image), group "
        "(`groups` groups of channels of each image), batch (over the batch; fragile below 8 images).",
    )
    activation: Activation = Field(
        default="relu", description="Function after each normalisation; leaky_relu has slope 0.01."
    )
    channels: Channels = Field(
        default=(16, 24, 48, 96, 128),
        description="Channels of each level, finest first; the first level is at half the input size, "
        "each further one halves it again.",
    )
    cell: Steps | None = Field(
        default=None,
        description="Voxels along each axis that become channels of the first level. [2, 2, 1] suits voxels "
        "of 0.5 x 0.5 x 4 mm. None: 2 along each axis.",
    )
    blocks: tuple[Annotated[int, Field(ge=0, le=12)], ...] | None = Field(
        default=None,
        description="Residual blocks of each level, finest first; the finest has a convolution besides and may "
        "have 0. None: 0, 1, 1, ..., 2 at the coarsest.",
    )
    decoder: Literal["plain", "residual"] = Field(
        default="plain",
        description="What follows each joined skip: one convolution, or a residual block of two.",
    )
    refine: int = Field(
        default=0,
        ge=0,
        le=128,
        description="Channels of a last convolution at full resolution, which sees the image again; 8 add about "
        "a third to the time of a step in 3-D, 16 nearly double it. 0: none.",
    )
    context: bool = Field(
        default=True, description="Gate and shift the coarsest level by its average over the whole window."
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.blocks is not None and (len(self.blocks) != self.levels or min(self.blocks[1:]) < 1):
            raise ValueError(
                f"{self.levels} channels need {self.levels} entries in blocks, above 0 but for the first, "
                f"found {list(self.blocks)}"
            )
        if self.norm == "group" and self.refine % self.groups:
            raise ValueError(
                f"refine {self.refine} is not a multiple of groups {self.groups}; change refine, groups or norm"
            )
        return self

    def _rows(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        return {"cell": () if self.cell is None else (self.cell,), **super()._rows()}

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """Factor by which each level is smaller than the one before, by axis; the first: than the image."""
        first = self.cell or (2,) * spatial_dims
        return (tuple(first), *super().steps(spatial_dims)[1:])

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level, finest first."""
        return self.blocks or (0, *(1,) * (self.levels - 2), 2)


class MedNeXtOptions(NetworkFields):
    """U-Net of large depthwise convolutions and wide channel mixing (MedNeXt, Roy et al. 2023), by MONAI."""

    use: Literal["mednext"] = "mednext"
    width: int = Field(
        default=32, ge=4, le=128, description="Channels of the finest level; each further level doubles them."
    )
    blocks: Annotated[Repeats, Field(min_length=2, max_length=7)] = Field(
        default=(2, 2, 2, 2, 2),
        description="Blocks of each level, finest first, in encoder and decoder alike. The large network of "
        "the paper has 3, 4, 8, 8, 8.",
    )
    expansion: tuple[Annotated[int, Field(ge=1, le=8)], ...] | None = Field(
        default=None,
        description="Factor of each level by which its blocks widen the channels inside; None: 2 everywhere. "
        "The larger networks of the paper have 2, 3, 4, 4, 4.",
    )
    kernel: Literal[3, 5, 7] = Field(
        default=3, description="Edge of the depthwise convolutions along every axis, voxels."
    )
    response_norm: bool = Field(
        default=False, description="Normalise the responses of the channels against each other in each block."
    )
    deep_supervision: bool = Field(
        default=False, description="In training, give logits at every level; each gets its own loss."
    )

    @model_validator(mode="after")
    def _expansion_fits(self) -> Self:
        if self.expansion is not None and len(self.expansion) != self.levels:
            raise ValueError(
                f"{self.levels} blocks need {self.levels} entries in expansion, found {len(self.expansion)}"
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


class SwinUNETROptions(NetworkFields):
    """U-Net whose encoder attends within shifted windows (Swin UNETR, Hatamizadeh et al. 2022), by MONAI."""

    use: Literal["swin_unetr"] = "swin_unetr"
    width: int = Field(
        default=24,
        ge=12,
        le=96,
        multiple_of=12,
        description="Channels of the finest level, a multiple of 12; 48 in the paper.",
    )
    blocks: Annotated[Repeats, Field(min_length=4, max_length=4)] = Field(
        default=(2, 2, 2, 2),
        description="Attention blocks of each of the four stages; even numbers, so that windows shift.",
    )
    attention_window: Annotated[int, Field(ge=2, le=16)] = Field(
        default=7, description="Edge of the windows of attention, voxels of the stage."
    )
    residual_stages: bool = Field(
        default=False,
        description="A residual convolution block before each stage (Swin UNETR V2, He et al. 2023).",
    )
    drop_path: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description="Probability that the last attention block is left out in training; less for those before.",
    )
    deep_supervision: bool = Field(
        default=False, description="In training, give logits at every decoder level; each gets its own loss."
    )

    @property
    def levels(self) -> int:
        """Number of resolutions, the finest included."""
        return 6

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return (self.width, *(self.width * 2**level for level in range(5)))


class AutoNetworkOptions(BaseModel):
    """The plan chooses network, width and depth by the data and the budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: Literal["auto"] = "auto"
    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="Bundle (shipped name, or path of a folder) whose network is taken and whose weights the "
        "training starts from. None: fresh weights.",
    )


_AnyNetwork: TypeAlias = (
    UNetOptions
    | ResidualUNetOptions
    | AttentionUNetOptions
    | FCNOptions
    | SmallUNetOptions
    | MedNeXtOptions
    | SwinUNETROptions
    | MonaiUNetOptions
    | MonaiAttentionUNetOptions
    | MonaiBasicUNetOptions
    | MonaiSegResNetOptions
    | MonaiDynUNetOptions
)
NetworkOptions = Annotated[_AnyNetwork, Field(discriminator="use")]
NetworkSettings = Annotated[_AnyNetwork | AutoNetworkOptions, Field(discriminator="use")]
"""`NetworkOptions`, or `auto`."""
NETWORK_OPTIONS: TypeAdapter[NetworkOptions] = TypeAdapter(NetworkOptions)


def minimum_window(options: NetworkOptions, spatial_dims: int) -> tuple[int, ...]:
    """Smallest window edges, in voxels, whose coarsest level still has two voxels along each axis.

    Axes that no level shrinks may have a single voxel.
    """
    return tuple(_least(scale) for scale in options.total_stride(spatial_dims))


def _least(scale: int) -> int:
    return 2 * scale if scale > 1 else 1


def check_window(options: NetworkOptions, window: tuple[int, ...]) -> None:
    """Refuse a window that the network would mostly fill with padding.

    Raises
    ------
    ConfigError
        An edge of `window` (voxels) is below `minimum_window`, and the message says how many levels fit;
        or the settings are for another number of axes.
    """
    smallest = minimum_window(options, len(window))
    if all(n >= least for n, least in zip(window, smallest, strict=True)):
        return
    fitting = [
        level
        for level, scale in enumerate(options.scales(len(window)), start=1)
        if all(n >= _least(s) for n, s in zip(window, scale, strict=True))
    ]
    change = (
        f"give at most {max(fitting)} entries in model.channels"
        if fitting and "channels" in type(options).model_fields
        else "choose a network with fewer levels"
    )
    raise ConfigError(
        f"model {options.use} with {options.levels} levels shrinks the window "
        f"{_by_axis(options.total_stride(len(window)))} times and needs edges of at least {_by_axis(smallest)} "
        f"voxels, found window {list(window)}; enlarge inference.window or {change}"
    )


def _by_axis(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else " x ".join(map(str, numbers))
