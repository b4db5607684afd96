"""Settings that networks share: where weights come from, norm, activation, strides and kernels by axis."""

from __future__ import annotations

from abc import abstractmethod
from itertools import accumulate
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.errors import ConfigError

Activation = Literal["relu", "leaky_relu", "silu", "gelu"]
NormName = Literal["instance", "group", "batch"]
Inflation = Literal["mean", "centre"]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=9)]
# One number per axis of the images.
Steps = Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(min_length=2, max_length=3)]
Kernel = Annotated[tuple[Literal[1, 3, 5, 7], ...], Field(min_length=2, max_length=3)]
Repeats = tuple[Annotated[int, Field(ge=1, le=12)], ...]


class NetworkFields(BaseModel):
    """Fields and geometry that every network has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="Bundle (shipped name, or path of a folder) whose weights the training starts from; "
        "weights are taken by name and shape, the head by label name. None: fresh weights.",
    )
    inflate: Inflation = Field(
        default="mean",
        description="How `start_from` makes kernels of volumes from those of a 2-D bundle: mean (the same in "
        "each slice of the kernel, divided by their number), centre (in the middle slice, zero beside it: "
        "a stack of equal slices gives what the 2-D network gave).",
    )

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of resolutions, the finest included."""

    @property
    def axes_by_field(self) -> dict[str, int]:
        """Fields that give numbers by axis, and for how many axes."""
        return {}

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """Factor by which each level is smaller than the one before, by axis; the first: than the image.

        Raises
        ------
        ConfigError
            The settings describe another number of axes.
        """
        return ((1,) * spatial_dims, *((2,) * spatial_dims,) * (self.levels - 1))

    def scales(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """Voxels of the image per voxel of each level, by axis, finest level first."""
        return tuple(accumulate(self.steps(spatial_dims), _times))

    def total_stride(self, spatial_dims: int) -> tuple[int, ...]:
        """Voxels of the image per voxel of the coarsest level, by axis."""
        return self.scales(spatial_dims)[-1]


class ByAxisOptions(NetworkFields):
    """Fields of networks of plain convolutions, with strides and kernels by axis."""

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
    activation: Activation = Field(
        default="leaky_relu", description="Function after each normalisation; leaky_relu has slope 0.01."
    )
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description="Probability that a whole channel of the coarsest level is dropped, 0..1.",
    )
    channels: Channels = Field(
        default=(32, 64, 128, 256, 320),
        description="Channels of each level, finest first; each level halves the size.",
    )
    strides: tuple[Steps, ...] | None = Field(
        default=None,
        description="From each level to the next, finest first, and for each axis: how many voxels become "
        "one. [[2, 2, 1], [2, 2, 2]] leaves thick slices alone at first. None: 2 everywhere.",
    )
    kernels: tuple[Kernel, ...] | None = Field(
        default=None,
        description="Edges of the convolutions of each level by axis, odd, finest first. [3, 3, 1] does not "
        "look across slices. None: 3 everywhere.",
    )

    @property
    def levels(self) -> int:
        """Number of resolutions, the finest included."""
        return len(self.channels)

    @field_validator("strides")
    @classmethod
    def _shrink(cls, value: tuple[Steps, ...] | None) -> tuple[Steps, ...] | None:
        if value is not None and any(max(row) == 1 for row in value):
            raise ValueError(
                "each entry of strides needs a number above 1; leave out a level that does not shrink"
            )
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        odd = [n for n in self.channels if n % self.groups]
        if self.norm == "group" and odd:
            raise ValueError(
                f"channels {odd} are not multiples of groups {self.groups}; change channels, groups or norm"
            )
        for name, rows, needed in (
            ("strides", self.strides, self.levels - 1),
            ("kernels", self.kernels, self.levels),
        ):
            if rows is not None and len(rows) != needed:
                raise ValueError(f"{self.levels} channels need {needed} entries in {name}, found {len(rows)}")
        if len(set(self.axes_by_field.values())) > 1:
            found = " and ".join(f"{name} {count}" for name, count in self.axes_by_field.items())
            raise ValueError(f"entries for different numbers of axes: {found}; give as many each")
        return self

    def _rows(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        return {"strides": self.strides or (), "kernels": self.kernels or ()}

    @property
    def axes_by_field(self) -> dict[str, int]:
        """Fields that give numbers by axis, and for how many axes."""
        return {name: len(row) for name, rows in self._rows().items() for row in rows}

    def check_axes(self, spatial_dims: int) -> None:
        """Refuse strides and kernels for another number of axes.

        Raises
        ------
        ConfigError
            A field with entries of other lengths.
        """
        for name, count in self.axes_by_field.items():
            if count != spatial_dims:
                raise ConfigError(
                    f"model.{name} gives numbers for {count} axes, the images have {spatial_dims}; "
                    f"give {spatial_dims} each"
                )

    def steps(self, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
        """Factor by which each level is smaller than the one before, by axis; the first: than the image."""
        self.check_axes(spatial_dims)
        given = self.strides or ((2,) * spatial_dims,) * (self.levels - 1)
        return ((1,) * spatial_dims, *given)

    def kernel(self, level: int, spatial_dims: int) -> tuple[int, ...]:
        """Edges of the convolutions of a level, 0 is the finest."""
        self.check_axes(spatial_dims)
        return (3,) * spatial_dims if self.kernels is None else tuple(self.kernels[level])


def _times(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x * y for x, y in zip(a, b, strict=True))
