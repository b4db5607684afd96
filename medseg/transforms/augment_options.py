"""Settings of the augmentation steps. Imports neither torch nor an image library.

Sizes and axes are in the order of the array: (I, J) for a radiograph, (I, J, K) for a volume.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from medseg.transforms.corruption_levels import ValueCorruption
from medseg.transforms.preprocess_options import Extent, Step

Unit = Literal["voxel", "mm"]
_UNIT_TEXT = (
    "voxel: as if voxels were cubes. mm: true to the prepared grid's voxel size, for voxels that are not."
)


class _RandomStep(Step):
    probability: float = Field(default=0.5, ge=0, le=1, description="How often the step is applied.")


class _GeometricStep(_RandomStep):
    padding: Literal["minimum", "border"] = Field(
        default="minimum",
        description="What lies outside of the image: its minimum, or its outermost voxels repeated. "
        "Where steps of one sample differ, border holds.",
    )


class _OnAxes(_RandomStep):
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = Field(
        default=None,
        min_length=1,
        description="Axes on which the step acts; [0, 1] keeps to the slices of a volume whose third axis "
        "is much coarser. null: all.",
    )


class _ByChannel(_RandomStep):
    channelwise: bool = Field(
        default=False,
        description="Whether each channel has its own draw and its own range, as for the sequences of an MR "
        "examination; else all channels change alike.",
    )


class _Interval(_RandomStep):
    low: float
    high: float

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, found {self.low} and {self.high}")
        return self


class Rotate(_GeometricStep, _OnAxes):
    """Turn about the centre; in 3-D in the plane of each pair of `axes`, one after the other."""

    use: Literal["rotate"] = "rotate"
    degrees: float = Field(default=10.0, gt=0, le=180, description="Largest angle in degrees, either way.")
    unit: Unit = Field(default="voxel", description=_UNIT_TEXT)

    @model_validator(mode="after")
    def _turns_a_plane(self) -> Self:
        if self.axes is not None and len(set(self.axes)) < 2:
            raise ValueError("axes must name at least two axes, which turn into each other")
        return self


class Scale(_GeometricStep, _OnAxes, _Interval):
    """Enlarge or shrink about the centre."""

    use: Literal["scale"] = "scale"
    low: float = Field(default=0.8, gt=0, description="Least factor; below 1 the content shrinks.")
    high: float = Field(default=1.25, gt=0, description="Largest factor.")
    per_axis: bool = Field(default=False, description="Whether each axis has its own factor.")


class Flip(_RandomStep):
    """Mirror axes, each with `probability`. Along the lateral axis, left and right labels change places."""

    use: Literal["flip"] = "flip"
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        default=(0,), min_length=1, description="Axes that may be mirrored."
    )
    lateral: int | None = Field(
        default=0,
        ge=0,
        le=2,
        description="The left-right axis of the oriented data (0 for LF and RAS); null where there is none.",
    )


class RandomCrop(_RandomStep):
    """Cut out a part of fixed size, at a random place with `probability`, else in the centre.

    An image smaller than `size` is filled up on both sides.
    """

    use: Literal["crop"] = "crop"
    probability: float = Field(default=1.0, ge=0, le=1, description="How often the place is random.")
    size: Extent = Field(description="Number of voxels along each axis.")
    foreground: float = Field(
        default=0.0, ge=0, le=1, description="How often the part is centred on a random labelled voxel."
    )


class Shift(_GeometricStep):
    """Move the content."""

    use: Literal["shift"] = "shift"
    fraction: float = Field(
        default=0.1, gt=0, le=1, description="Largest shift along each axis, as a part of its length."
    )


class Elastic(_GeometricStep, _OnAxes):
    """Deform smoothly: a Gaussian random field of displacements, after the other geometric steps."""

    use: Literal["elastic"] = "elastic"
    sigma: float = Field(
        default=20.0, ge=2, description="Smoothness: width of the field's kernel, in `unit`."
    )
    magnitude: float = Field(
        default=3.0, gt=0, description="Standard deviation of the displacement along each axis, in `unit`."
    )
    unit: Unit = Field(default="voxel", description=_UNIT_TEXT)

    @model_validator(mode="after")
    def _does_not_fold(self) -> Self:
        # The slope of such a field has deviation magnitude / (sigma * sqrt 2); a slope of -1 folds.
        if self.magnitude > 0.4 * self.sigma:
            raise ValueError("magnitude must not exceed 0.4 sigma, else the image folds over itself")
        return self


class Gamma(_Interval, _ByChannel):
    """Raise the values, brought to [0, 1] and back, to a power."""

    use: Literal["gamma"] = "gamma"
    low: float = Field(default=0.7, gt=0, description="Least exponent.")
    high: float = Field(default=1.5, gt=0, description="Largest exponent.")
    inverted: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How often the power is taken of the inverted image, which bends "
        "the bright end as the plain one bends the dark end.",
    )


class Contrast(_Interval, _ByChannel):
    """Multiply the distance from the mean; values stay within the image's range."""

    use: Literal["contrast"] = "contrast"
    low: float = Field(default=0.75, gt=0, description="Least factor.")
    high: float = Field(default=1.25, gt=0, description="Largest factor.")


class Brightness(_ByChannel):
    """Add a constant."""

    use: Literal["brightness"] = "brightness"
    shift: float = Field(default=0.1, gt=0, description="Largest shift, as a part of the image's range.")


class Invert(_RandomStep):
    """Swap dark and bright within the image's range: x becomes minimum + maximum - x."""

    use: Literal["invert"] = "invert"


class Noise(_ByChannel):
    """Add Gaussian noise of random strength."""

    use: Literal["noise"] = "noise"
    std: float = Field(
        default=0.05, gt=0, description="Largest standard deviation, as a part of the image's range."
    )


class Blur(_Interval, _ByChannel, _OnAxes):
    """Smooth with a Gaussian."""

    use: Literal["blur"] = "blur"
    low: float = Field(default=0.5, gt=0, description="Least standard deviation in voxels.")
    high: float = Field(default=1.5, gt=0, description="Largest standard deviation in voxels.")


class Sharpen(_Interval):
    """Add the difference from a smoothed copy (unsharp mask); values stay within the image's range."""

    use: Literal["sharpen"] = "sharpen"
    low: float = Field(default=0.2, ge=0, description="Least factor of the difference.")
    high: float = Field(default=1.0, ge=0, description="Largest factor of the difference.")
    sigma: float = Field(default=2.0, gt=0, description="Standard deviation of the smoothing in voxels.")


class LowResolution(_Interval, _ByChannel, _OnAxes):
    """Average down and interpolate back up, as if taken with larger pixels."""

    use: Literal["low_resolution"] = "low_resolution"
    low: float = Field(default=1.0, ge=1, description="Least factor between the pixel sizes.")
    high: float = Field(default=3.0, ge=1, description="Largest factor between the pixel sizes.")


class BiasField(_RandomStep):
    """Multiply with exp of a random polynomial, as uneven exposure or coil sensitivity does."""

    use: Literal["bias_field"] = "bias_field"
    coefficients: float = Field(
        default=0.2, gt=0, description="Largest coefficient of each Legendre polynomial, either way."
    )
    degree: int = Field(default=3, ge=1, le=6, description="Largest total degree of the polynomials.")


class Cutout(_RandomStep):
    """Cover boxes of the image with a constant; labels stay."""

    use: Literal["cutout"] = "cutout"
    holes: int = Field(default=3, ge=1, description="Largest number of boxes.")
    size: float = Field(
        default=0.2, gt=0, le=1, description="Largest side of a box, as a part of the axis length."
    )


class Border(_RandomStep):
    """Cover the rim as a collimator or a film scanner does: each side its own width, all of one level."""

    use: Literal["border"] = "border"
    fraction: float = Field(
        default=0.1, gt=0, lt=0.5, description="Largest width on one side, as a part of the axis length."
    )
    level: Literal["dark", "bright", "either"] = Field(
        default="either", description="dark: image minimum; bright: its maximum."
    )
    label: Literal["outside", "keep"] = Field(
        default="outside", description="What the label says under the border: nothing visible, or as before."
    )


class Corrupt(_RandomStep):
    """One of the corruptions of `medseg stress` at a random severity: training against what scanners do."""

    use: Literal["corrupt"] = "corrupt"
    kinds: tuple[ValueCorruption, ...] = Field(
        default=get_args(ValueCorruption),
        min_length=1,
        description="Corruptions of which one is drawn; lengths are in percent of the longer side.",
    )
    severity: int = Field(
        default=3, ge=1, le=5, description="Highest severity; each from 1 to it is drawn with equal chance."
    )


AugmentStep = Annotated[
    Rotate
    | Scale
    | Flip
    | RandomCrop
    | Shift
    | Elastic
    | Gamma
    | Contrast
    | Brightness
    | Invert
    | Noise
    | Blur
    | Sharpen
    | LowResolution
    | BiasField
    | Cutout
    | Corrupt
    | Border,
    Field(discriminator="use"),
]
"""One augmentation step as a YAML gives it, told apart by `use`."""
