"""What a YAML may say about the network. Imports no torch, so that settings are checked at once.

`NetworkOptions` is the union of all networks, told apart by `use`; `registry.build_network` builds
the one that is named, in two or three dimensions.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from medseg.errors import ConfigError

NormName = Literal["instance", "group", "batch"]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=9)]


class _Network(BaseModel):
    """Fields that every network has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="Bundle (shipped name, or path of a folder) whose weights the training starts from; "
        "weights are taken by name and shape, the head by label name. None: fresh weights.",
    )
    norm: NormName = Field(
        default="instance",
        description="Normalisation after each convolution: instance (each channel of each image), group "
        "(`groups` groups of channels of each image), batch (over the batch; fragile below 8 images).",
    )
    groups: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Groups of channels for `norm: group`; divides every entry of channels.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description="Probability that a whole channel of the coarsest level is dropped, 0..1.",
    )
    channels: Channels = Field(
        description="Channels of each level, finest first; each level halves the size."
    )

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        odd = [n for n in self.channels if n % self.groups]
        if self.norm == "group" and odd:
            raise ValueError(
                f"channels {odd} are not multiples of groups {self.groups}; change channels, groups or norm"
            )
        return self

    @property
    def levels(self) -> int:
        """Number of resolutions, the finest included."""
        return len(self.channels)

    @property
    def stride(self) -> int:
        """Voxels of the input along one axis per voxel of the coarsest level."""
        return int(2 ** (self.levels - 1))


class _WithDeepSupervision(_Network):
    """Fields of networks that can be trained at several resolutions."""

    deep_supervision: bool = Field(
        default=False,
        description="In training, give logits at every decoder level; each gets its own loss.",
    )


class UNetOptions(_WithDeepSupervision):
    """Plain convolutional U-Net: strided convolutions down, transposed convolutions up, joined skips."""

    use: Literal["unet"] = "unet"
    channels: Channels = Field(
        default=(32, 64, 128, 256, 320),
        description="Channels of each level, finest first; each level halves the size.",
    )
    convolutions: int = Field(default=2, ge=1, le=4, description="Convolutions per level and side.")


class ResidualUNetOptions(_WithDeepSupervision):
    """U-Net whose encoder is made of residual blocks of two convolutions."""

    use: Literal["residual_unet"] = "residual_unet"
    channels: Channels = Field(
        default=(32, 64, 128, 256, 320),
        description="Channels of each level, finest first; each level halves the size.",
    )
    blocks: tuple[Annotated[int, Field(ge=1, le=12)], ...] | None = Field(
        default=None,
        description="Residual blocks per encoder level; None: 1, 2, 3, 4, 4, ... as deep as the level.",
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
    channels: Channels = Field(
        default=(32, 64, 128, 256, 320),
        description="Channels of each level, finest first; each level halves the size.",
    )
    convolutions: int = Field(default=2, ge=1, le=4, description="Convolutions per level and side.")


class FCNOptions(_Network):
    """Fully convolutional network: an encoder, and score maps of several strides added up."""

    use: Literal["fcn"] = "fcn"
    channels: Channels = Field(
        default=(32, 64, 128, 256, 320),
        description="Channels of each level, finest first; each level halves the size.",
    )
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
    channels: Channels = Field(
        default=(16, 24, 48, 96, 128),
        description="Channels of each level, finest first; the first level is at half the input size, "
        "each further one halves it again.",
    )
    context: bool = Field(
        default=True, description="Gate and shift the coarsest level by its average over the whole window."
    )

    @property
    def stride(self) -> int:
        """Voxels of the input along one axis per voxel of the coarsest level."""
        return int(2**self.levels)


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
    UNetOptions | ResidualUNetOptions | AttentionUNetOptions | FCNOptions | SmallUNetOptions
)
NetworkOptions = Annotated[_AnyNetwork, Field(discriminator="use")]
NetworkSettings = Annotated[_AnyNetwork | AutoNetworkOptions, Field(discriminator="use")]
"""`NetworkOptions`, or `auto`."""
NETWORK_OPTIONS: TypeAdapter[NetworkOptions] = TypeAdapter(NetworkOptions)


def minimum_window(options: NetworkOptions) -> int:
    """Smallest window edge, in voxels, whose coarsest level still has two voxels along an axis."""
    return 2 * options.stride


def check_window(options: NetworkOptions, window: tuple[int, ...]) -> None:
    """Refuse a window that the network would mostly fill with padding.

    Raises
    ------
    ConfigError
        An edge of `window` (voxels) is below `minimum_window`; the message says how many levels fit.
    """
    smallest = minimum_window(options)
    if min(window) >= smallest:
        return
    spare = options.levels
    while spare > 1 and min(window) < smallest * 2 ** (spare - options.levels):
        spare -= 1
    raise ConfigError(
        f"model {options.use} with {options.levels} levels shrinks the window {options.stride} times and "
        f"needs edges of at least {smallest} voxels, found window {list(window)}; "
        f"enlarge inference.window or give at most {spare} entries in model.channels"
    )
