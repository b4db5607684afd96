"""Settings of the preprocessing steps. Imports neither torch nor an image library.

Sizes, starts and axes are in the order of the array: (I, J) for a radiograph, (I, J, K) for a volume.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Extent = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=3)]
"""Two or three whole numbers of at least 1."""

Chosen = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
"""Numbers of channels, from 0."""
_CHANNELS = "Channels that are changed, counted from 0; left out: all."

OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}
"""Patient directions and their opposites."""

HEAD_AND_FOOT = {"H": "S", "F": "I"}
"""DICOM's letters for the directions that NIfTI calls superior and inferior."""


class Step(BaseModel):
    """Base of all steps: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Which fields only make sense with which method, so that a misplaced one is refused.
    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {}

    @model_validator(mode="after")
    def _fields_fit_method(self) -> Self:
        owners = self.fields_of_method
        named = {name for names in owners.values() for name in names} & self.model_fields_set
        # A field at its default is no mistake: a bundle stores every field of a step.
        strays = (n for n in named if getattr(self, n) != type(self).model_fields[n].default)
        for field in sorted(strays):
            methods = [method for method, fields in owners.items() if field in fields]
            if getattr(self, "method", None) not in methods:
                raise ValueError(f"{field} belongs to method {' or '.join(methods)}")
        return self


def _ordered(low: float, high: float, *, what: str = "low and high") -> None:
    if low >= high:
        raise ValueError(f"{what} must ascend, found {low} and {high}")


class Orient(Step):
    """Permute and flip axes so that they grow towards given patient directions."""

    use: Literal["orient"] = "orient"
    to: str = Field(
        default="LF",
        description="Direction in which each axis grows, one letter per axis of L R A P S I (or H F); "
        "LF is a chest film on display, RAS the usual volume. Images of unknown orientation are left alone.",
    )

    @model_validator(mode="after")
    def _letters_are_axes(self) -> Self:
        # One letter of each opposite pair is enough to tell the three body axes apart.
        axes = [min(letter, OPPOSITE.get(letter, "")) for letter in self.directions]
        if len(self.to) not in (2, 3) or "" in axes or len(set(axes)) != len(axes):
            raise ValueError(
                f"to needs two or three letters of L R A P S I (H F), each body axis once, found {self.to!r}"
            )
        return self

    @property
    def directions(self) -> tuple[str, ...]:
        """The letters of `to` with S and I for head and foot."""
        return tuple(HEAD_AND_FOOT.get(letter, letter) for letter in self.to)


class Transpose(Step):
    """Put the axes of the array into another order, whatever directions they have."""

    use: Literal["transpose"] = "transpose"
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        min_length=2,
        max_length=3,
        description="For each new axis the number of the old one; [2, 1, 0] turns a file's i, j, k into k, j, i.",
    )

    @model_validator(mode="after")
    def _each_axis_once(self) -> Self:
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"axes must name 0 to {len(self.axes) - 1} once each, found {list(self.axes)}")
        return self


class Crop(Step):
    """Cut a part out: a fixed box, the box around the foreground, or all but the collimation border."""

    use: Literal["crop"] = "crop"
    method: Literal["box", "foreground", "border", "nonzero"] = Field(
        description="How the box is found; nonzero: around all voxels that are not zero in some channel "
        "(an image of zeros stays whole)."
    )
    start: tuple[int, ...] | None = Field(default=None, description="box: first voxel along each axis.")
    size: Extent | None = Field(default=None, description="box: number of voxels along each axis.")
    threshold: float | None = Field(
        default=None,
        description="foreground: image values above it are foreground; left out: Otsu's threshold.",
    )
    margin: int = Field(default=0, ge=0, description="foreground: voxels kept around the foreground.")
    tolerance: float = Field(
        default=0.03,
        gt=0,
        lt=0.5,
        description="border: how far a border pixel may lie from the darkest or brightest level, "
        "as a part of the range between the 1st and 99th percentile.",
    )

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {
        "box": ("start", "size"),
        "foreground": ("threshold", "margin"),
        "border": ("tolerance",),
    }

    @model_validator(mode="after")
    def _box_is_whole(self) -> Self:
        if self.method == "box":
            if self.start is None or self.size is None:
                raise ValueError("method box needs start and size")
            if len(self.start) != len(self.size) or min(self.start) < 0:
                raise ValueError("start and size need the same number of axes, start not below 0")
        return self


class Gray(Step):
    """Turn colour into one channel; an image with one channel stays as it is."""

    use: Literal["gray"] = "gray"
    weights: Literal["rec601", "mean"] = Field(
        default="rec601", description="rec601: 0.299 R + 0.587 G + 0.114 B; mean: all channels alike."
    )


class Binarise(Step):
    """1 above a threshold, 0 elsewhere."""

    use: Literal["binarise"] = "binarise"
    method: Literal["fixed", "otsu"] = Field(default="otsu", description="Where the threshold comes from.")
    threshold: float | None = Field(default=None, description="fixed: threshold in image values.")

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {"fixed": ("threshold",)}

    @model_validator(mode="after")
    def _fixed_has_threshold(self) -> Self:
        if self.method == "fixed" and self.threshold is None:
            raise ValueError("method fixed needs threshold")
        return self


class Normalise(Step):
    """Map image values linearly to a fixed range."""

    use: Literal["normalise"] = "normalise"
    method: Literal["range", "percentile", "window"] = Field(
        default="percentile",
        description="range: image minimum to maximum; percentile: `low` to `high` percent; "
        "window: `low` to `high` in image values (HU for CT).",
    )
    low: float | None = Field(
        default=None, description="percentile (default 0.5 percent) or window: lower end."
    )
    high: float | None = Field(
        default=None, description="percentile (default 99.5 percent) or window: upper end."
    )
    to: tuple[float, float] = Field(default=(0.0, 1.0), description="Values that the two ends become.")
    clip: bool = Field(default=True, description="Whether values beyond the ends are set to them.")
    channelwise: bool = Field(default=True, description="Whether each channel has ends of its own.")
    channels: Chosen | None = Field(default=None, description=_CHANNELS)

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {
        "percentile": ("low", "high"),
        "window": ("low", "high"),
    }

    @model_validator(mode="after")
    def _ends_ascend(self) -> Self:
        _ordered(*self.to, what="the two values of to")
        if self.method == "window" and (self.low is None or self.high is None):
            raise ValueError("method window needs low and high")
        if self.method != "range":
            _ordered(*self.ends)
        if self.method == "percentile" and not (self.ends[0] >= 0 and self.ends[1] <= 100):
            raise ValueError(f"percentiles lie between 0 and 100, found {self.ends[0]} and {self.ends[1]}")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high) with the defaults of the method percentile filled in."""
        return (0.5 if self.low is None else self.low, 99.5 if self.high is None else self.high)


class Standardise(Step):
    """Subtract a mean and divide by a standard deviation."""

    use: Literal["standardise"] = "standardise"
    method: Literal["zscore", "masked", "nonzero", "given", "dataset"] = Field(
        default="zscore",
        description="zscore: of the image; masked: of the voxels above `threshold`, applied to all; nonzero: of the "
        "voxels that are not zero in some channel and of those that they enclose, applied to them alone; given: "
        "`mean` and `std`; dataset: of the training data, as recorded in the bundle.",
    )
    threshold: float = Field(default=0.0, description="masked: values above it are foreground.")
    mean: float | None = Field(default=None, description="given: what is subtracted, in image values.")
    std: float | None = Field(default=None, gt=0, description="given: what the rest is divided by.")
    clip: tuple[float, float] | None = Field(
        default=None, description="given: ends that values beyond are set to first, in image values."
    )
    channelwise: bool = Field(default=True, description="zscore, masked: each channel has its own mean.")
    channels: Chosen | None = Field(default=None, description=_CHANNELS)

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {
        "masked": ("threshold", "channelwise"),
        "zscore": ("channelwise",),
        "given": ("mean", "std", "clip"),
    }

    @model_validator(mode="after")
    def _given_is_whole(self) -> Self:
        if self.method == "given" and (self.mean is None or self.std is None):
            raise ValueError("method given needs mean and std")
        if self.clip is not None:
            _ordered(*self.clip, what="the two values of clip")
        return self


class Equalise(Step):
    """Spread the gray levels; the result lies in [0, 1]."""

    use: Literal["equalise"] = "equalise"
    method: Literal["histogram", "clahe"] = Field(
        default="clahe", description="Of the whole image, or contrast limited in tiles (CLAHE)."
    )
    bins: int = Field(default=256, ge=2, le=65536, description="Number of gray levels told apart.")
    clip_limit: float = Field(
        default=2.0, ge=1, description="clahe: largest bin of a tile, as a multiple of the mean bin."
    )
    tiles: int = Field(default=8, ge=1, le=64, description="clahe: number of tiles along each axis.")

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {"clahe": ("clip_limit", "tiles")}


class Denoise(Step):
    """Smooth noise away."""

    use: Literal["denoise"] = "denoise"
    method: Literal["median", "gaussian", "bilateral", "nlm"] = Field(description="Which filter.")
    radius: int = Field(default=1, ge=1, le=10, description="median: half width in voxels; nlm: of a patch.")
    sigma: float = Field(default=1.0, gt=0, description="gaussian, bilateral: width in voxels.")
    range_sigma: float = Field(
        default=0.1,
        gt=0,
        description="bilateral: difference of values that counts as an edge, as a part of the image range.",
    )
    strength: float = Field(
        default=0.8, gt=0, description="nlm: filter strength as a multiple of the estimated noise deviation."
    )
    search: int = Field(default=5, ge=1, le=15, description="nlm: half width of the search window in voxels.")

    fields_of_method: ClassVar[dict[str, tuple[str, ...]]] = {
        "median": ("radius",),
        "gaussian": ("sigma",),
        "bilateral": ("sigma", "range_sigma"),
        "nlm": ("radius", "strength", "search"),
    }


class Resample(Step):
    """Change the distance between voxels; the image must say what it is."""

    use: Literal["resample"] = "resample"
    spacing_mm: tuple[Annotated[float, Field(gt=0)] | None, ...] = Field(
        min_length=2,
        max_length=3,
        description="New distance between voxel centres in mm, along each axis; null leaves an axis as it is.",
    )
    interpolation: Literal["linear", "cubic"] = Field(
        default="linear",
        description="linear: smoothed where voxels become larger, predictions go back likewise; cubic: splines, no "
        "smoothing, overshoot cut off at the range of the image; predictions go back linearly without smoothing.",
    )
    fit: Literal["spacing", "extent"] = Field(
        default="spacing",
        description="spacing: exactly the new spacing, about the same centre; extent: outer edges stay where they "
        "are, and the spacing is the nearest that divides them into whole voxels.",
    )
    separate_above: float | None = Field(
        default=None,
        ge=1,
        description="cubic: where one axis is more than this many times as coarse as the finest, before or after, "
        "voxels along it are taken from the nearest slice, as predictions are on the way back; null: never.",
    )

    @model_validator(mode="after")
    def _separate_is_cubic(self) -> Self:
        if self.separate_above is not None and self.interpolation != "cubic":
            raise ValueError("separate_above belongs to interpolation cubic")
        if self.interpolation == "cubic" and self.fit != "extent":
            raise ValueError("interpolation cubic needs fit: extent")
        return self


class Resize(Step):
    """Change the number of voxels; the outer edges stay where they are."""

    use: Literal["resize"] = "resize"
    size: Extent = Field(description="New number of voxels along each axis.")
    keep_aspect: bool = Field(
        default=True,
        description="Whether all axes shrink by the same factor (in voxels), the rest being filled on "
        "both sides with the image minimum.",
    )


class Pad(Step):
    """Add voxels on both sides."""

    use: Literal["pad"] = "pad"
    size: Extent | None = Field(default=None, description="Least number of voxels along each axis.")
    multiple: int | None = Field(
        default=None, ge=1, description="Each axis becomes a multiple of this number of voxels."
    )
    value: float | None = Field(default=None, description="Value of the new voxels; left out: image minimum.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.size is None) == (self.multiple is None):
            raise ValueError("pad needs either size or multiple")
        return self


PreprocessStep = Annotated[
    Orient
    | Transpose
    | Crop
    | Gray
    | Binarise
    | Normalise
    | Standardise
    | Equalise
    | Denoise
    | Resample
    | Resize
    | Pad,
    Field(discriminator="use"),
]
"""One preprocessing step as a YAML gives it, told apart by `use`."""
