"""What a YAML may say about prediction and about cleaning up a mask. Imports neither torch nor SciPy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TtaName = Literal["flip", "gamma", "invert"]
"""One kind of test-time augmentation."""

MapName = Literal["entropy", "disagreement", "variance", "probabilities"]
"""A map on the grid of the image, beside its mask."""

MAP_NAMES: tuple[MapName, ...] = ("entropy", "disagreement", "variance", "probabilities")

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""Numbers in which a network computes; sums and probabilities are float32 always."""

EngineName = Literal["torch", "compile", "openvino", "onnxruntime", "openvino_int8"]
"""What runs a network."""

EngineSetting = Literal["auto", "torch", "compile", "openvino", "onnxruntime", "openvino_int8"]
"""An engine by name, or auto: measured."""

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RefineOptions(_Options):
    """A second pass on the part of the source image around what the first pass found.

    It gives every film the same framing before the network decides, however it was collimated.
    Where the first result is empty or implausible, it stands and the case carries a note.
    """

    labels: Names | Literal["all"] = Field(
        default="all", description="Structures, or regions, that the cut-out must hold."
    )
    margin: float = Field(
        default=0.15,
        ge=0,
        le=2,
        description="Kept on each side of the box around them, as a part of the box's length on that axis.",
    )
    min_share: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="Least plausible share of the image that they cover, 0..1; below it: no second pass.",
    )
    max_change: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Largest plausible difference in size between the two passes, as a part of the larger, "
        "0..1; above it the first one stands.",
    )


class BodyOptions(_Options):
    """Windows only where the body is; all else is background, and the network never sees it.

    What lies between two parts of the body, such as a lung, belongs to it. Where the body's box is implausibly
    small, the whole image is shown and the case carries a note.
    """

    threshold: float | None = Field(
        default=None,
        description="Image values above it are body (HU for CT, such as -500); null: Otsu's threshold of the image.",
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Kept on each side of the body, as a part of the length of its box on that axis.",
    )
    min_share: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Least plausible share of the image that the body's box covers, 0..1.",
    )


class CoarseOptions(_Options):
    """A quick first pass that finds the structures, and a second one that looks at full resolution there alone.

    Where the first pass finds none of them, the whole image is looked at and the case carries a note.
    """

    factor: float = Field(
        default=2.0,
        ge=1,
        le=8,
        description="How many times farther apart the voxels of the first pass are along each axis; 1: the image as "
        "it is, its windows side by side.",
    )
    labels: Names | Literal["all"] = Field(
        default="all",
        description="Structures, or regions, that the second pass must see. Of those that are named each must be "
        "found; all: those that are.",
    )
    margin: float = Field(
        default=0.25,
        ge=0,
        le=2,
        description="Kept on each side of the box around them, as a part of the box's length on that axis.",
    )


Window = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=3)]
_WINDOW = (
    "Voxels of a window along each axis of the prepared image; null: the patch size of the training, or all "
    "at once where it has none; auto: the plan decides."
)


class InferenceSettings(_Options):
    """How the prepared image is shown to the network, as a YAML says it."""

    renamed: ClassVar[dict[str, str]] = {
        "save_probabilities": "probabilities under export, which writes a map for each structure"
    }

    window: Literal["auto"] | Window | None = Field(default=None, description=_WINDOW)
    windows: Literal["set", "fitted"] = Field(
        default="set",
        description="How large windows are. set: as `window` says. fitted: up to half as long again along an axis and "
        "at most twice the voxels, where fewer of them then cover an image with less work; below `max_ram` as set. "
        "Norms that look at the whole window make masks differ a little.",
    )
    overlap: float = Field(
        default=0.25,
        ge=0,
        le=0.9,
        description="Share of a window that its neighbour sees again, along each axis.",
    )
    blend: Literal["gaussian", "constant"] = Field(
        default="gaussian",
        description="How much a voxel of a window counts where windows overlap: less towards the rim, or all alike.",
    )
    steps: Literal["full", "even"] = Field(
        default="full",
        description="Where windows lie: full: each as far as `overlap` lets it, the last one ending with the image; "
        "even: as many, at equal distances.",
    )
    filling: float | None = Field(
        default=None,
        description="Value around an image that is shorter than the window; null: the least value of the image.",
    )
    batch_size: int = Field(default=4, ge=1, le=1024, description="Windows in one run of the network.")
    tta: Literal["none"] | TtaName | tuple[TtaName, ...] = Field(
        default="none",
        description="Test-time augmentation, a name or a list; the probabilities of all versions are "
        "averaged. flip: mirrored along flip_axes; gamma: darker and brighter; invert: negative "
        "(for networks trained on both).",
    )
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        default=(0,),
        min_length=1,
        description="tta flip: axes of the prepared image, in every combination; the left-right axis swaps "
        "sides.",
    )
    average: Literal["probabilities", "logits"] = Field(
        default="probabilities",
        description="What is averaged over versions and windows: probabilities, or logits (then over the networks of "
        "an ensemble as well).",
    )
    restore: Literal["averaged", "probabilities"] = Field(
        default="averaged",
        description="What is brought back to the grid of the image: what was averaged, or, of logits, the "
        "probabilities that they give, as MONAI bundles do.",
    )
    sums: Literal["float32", "float16"] = Field(
        default="float32",
        description="Precision of what is summed over windows. float16 with average: logits adds and rounds as "
        "nnU-Net's predictor does, for masks equal to its own; float32 is the more exact one.",
    )
    layout: Literal["channels_last", "contiguous"] = Field(
        default="channels_last",
        description="Memory layout of feature maps: channels_last is faster on CPUs; contiguous keeps the logits of "
        "networks with instance norm within 1e-4 of what nnU-Net computes.",
    )
    ensemble: Literal["probabilities", "logits"] = Field(
        default="probabilities",
        description="What is averaged over the networks of an ensemble, window by window: the probabilities, or "
        "their logarithms (then a class that one network excludes is hardly chosen). One network: no difference.",
    )
    refine: RefineOptions | None = Field(
        default=None, description="Second pass around what the first one found; null: one pass."
    )
    empty_windows: Literal["reuse", "show"] = Field(
        default="reuse",
        description="Windows that hold one value only, such as air that was clipped. reuse: the network is shown one "
        "of them, its answer holds for all; the mask is the same. show: it is shown each.",
    )
    body: BodyOptions | None = Field(
        default=None, description="Windows only where the body is; null: over all of the image."
    )
    coarse: CoarseOptions | None = Field(
        default=None,
        description="Quick first pass that says where to look at full resolution; null: everywhere.",
    )

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        if self.sums == "float16" and (
            self.average != "logits" or self.restore != "averaged" or self.window is None
        ):
            raise ValueError("sums: float16 needs average: logits, restore: averaged and a window")
        if self.windows == "fitted" and self.sums == "float16":
            raise ValueError(
                "windows: fitted needs sums: float32; float16 is for windows as nnU-Net has them"
            )
        for name, values in (("tta", self.tta_names), ("flip_axes", self.flip_axes)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names {list(values)}; each may stand there once")
        if self.refine is not None and self.coarse is not None:
            raise ValueError("refine and coarse are both second passes; keep one of them")
        return self

    @property
    def tta_names(self) -> tuple[TtaName, ...]:
        """`tta` as a tuple, empty for none."""
        if self.tta == "none":
            return ()
        return self.tta if isinstance(self.tta, tuple) else (self.tta,)


class InferenceOptions(InferenceSettings):
    """How the prepared image is shown to the network, with everything decided."""

    window: Window | None = Field(default=None, description=_WINDOW)


class _PostprocessStep(_Options):
    labels: Names | Literal["all"] = Field(
        default="all", description="Labels, or regions where the step says so; all: each label by itself."
    )


class KeepLargest(_PostprocessStep):
    """Keep the largest components of each named label or region; the rest becomes background."""

    use: Literal["keep_largest"] = "keep_largest"
    count: int = Field(default=1, ge=1, le=1000, description="Components kept.")


class DropSmall(_PostprocessStep):
    """Remove components of each named label or region that are smaller than one of the limits."""

    use: Literal["drop_small"] = "drop_small"
    min_mm2: float | None = Field(
        default=None, gt=0, description="Least area in mm2; 2-D with known pixel spacing."
    )
    min_ml: float | None = Field(
        default=None, gt=0, description="Least volume in ml; 3-D with known spacing."
    )
    min_pixels: int | None = Field(default=None, ge=1, description="Least number of pixels or voxels.")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        _limits(self, "min", least=1)
        return self


class FillHoles(_PostprocessStep):
    """Fill background that a label encloses, of any size without a limit; never another label."""

    use: Literal["fill_holes"] = "fill_holes"
    max_mm2: float | None = Field(
        default=None, gt=0, description="Largest area in mm2; 2-D with known pixel spacing."
    )
    max_ml: float | None = Field(
        default=None, gt=0, description="Largest volume in ml; 3-D with known spacing."
    )
    max_pixels: int | None = Field(default=None, ge=1, description="Largest number of pixels or voxels.")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        _limits(self, "max", least=0)
        return self


PostprocessStep = Annotated[KeepLargest | DropSmall | FillHoles, Field(discriminator="use")]
"""One step of cleaning up a mask as a YAML gives it, told apart by `use`."""


def _limits(step: BaseModel, prefix: str, *, least: int) -> None:
    names = [f"{prefix}_{unit}" for unit in ("mm2", "ml", "pixels")]
    given = [name for name in names if getattr(step, name) is not None]
    if not least <= len(given) <= 1:
        wanted = "exactly one" if least else "at most one"
        raise ValueError(f"give {wanted} of {', '.join(names)}, found {given or 'none'}")
