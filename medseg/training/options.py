"""Settings of a training run. No torch here: settings are checked without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medseg.amounts import Duration
from medseg.training.loss_options import DiceCrossEntropyOptions, LossOptions

_FROZEN = ConfigDict(frozen=True, extra="forbid")
DEFAULT_EPOCHS = 30


class AdamwOptions(BaseModel):
    """AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101)."""

    model_config = _FROZEN

    use: Literal["adamw"] = "adamw"
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="Decay per step relative to the learning rate; not applied to biases and norms.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean of gradients.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the mean of squared gradients.")


class SgdOptions(BaseModel):
    """Stochastic gradient descent with momentum."""

    model_config = _FROZEN

    use: Literal["sgd"] = "sgd"
    momentum: float = Field(0.99, ge=0, lt=1, description="Share of the last update kept.")
    nesterov: bool = Field(True, description="Look ahead along the momentum (Nesterov).")
    weight_decay: float = Field(
        3e-5, ge=0, description="Squared-weight penalty; not applied to biases and norms."
    )

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: false")
        return self


OptimiserOptions = Annotated[AdamwOptions | SgdOptions, Field(discriminator="use")]


class OneCycleOptions(BaseModel):
    """Up and down once (Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120), in half cosines."""

    model_config = _FROZEN

    use: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.25, ge=0, lt=1, description="Share of all steps in which the rate grows.")
    start_factor: float = Field(0.04, gt=0, le=1, description="First rate as a share of learning_rate.")
    end_factor: float = Field(1e-4, ge=0, le=1, description="Last rate as a share of learning_rate.")


class CosineOptions(BaseModel):
    """Linear warm-up, then a half cosine down (Loshchilov and Hutter, SGDR, ICLR 2017, arXiv:1608.03983)."""

    model_config = _FROZEN

    use: Literal["cosine"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0, description="Length of the linear warm-up in epochs.")
    end_factor: float = Field(0.0, ge=0, le=1, description="Last rate as a share of learning_rate.")


class PolyOptions(BaseModel):
    """learning_rate * (1 - step / steps) ** power, the usual schedule of nnU-Net."""

    model_config = _FROZEN

    use: Literal["poly"] = "poly"
    power: float = Field(0.9, gt=0, description="Exponent; 1 is a straight line.")


class ConstantOptions(BaseModel):
    """Linear warm-up, then the same learning rate in every step; goes well with `ema`, whose mean takes the place
    of a falling rate."""

    model_config = _FROZEN

    use: Literal["constant"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of all steps in which the rate grows.")


ScheduleOptions = Annotated[
    OneCycleOptions | CosineOptions | PolyOptions | ConstantOptions, Field(discriminator="use")
]


class EarlyStopOptions(BaseModel):
    """Stop when validation no longer gets better."""

    model_config = _FROZEN

    patience: int = Field(10, ge=1, description="Epochs without a better value before the run stops.")
    min_delta: float = Field(
        0.0, ge=0, description="Smallest change that counts as better, in the metric's unit."
    )


class AdversarialOptions(BaseModel):
    """Training on images that are changed by a hair so that the loss rises (FGSM or PGD)."""

    model_config = _FROZEN

    use: Literal["fgsm", "pgd"] = Field(
        description="fgsm: one step from a random start; pgd: several, each costs a pass more."
    )
    probability: float = Field(0.5, gt=0, le=1, description="Share of the batches that are attacked.")
    epsilon: float = Field(
        2.0, gt=0, le=50, description="Largest change of a value, in percent of each image's own range."
    )
    steps: int = Field(3, ge=1, le=100, description="Steps of pgd.")


PLANNED = (
    "epochs",
    "batch_size",
    "samples_per_epoch",
    "patch_size",
    "learning_rate",
    "optimiser",
    "schedule",
    "ema",
    "validate_every",
)
"""Settings of a training that may be `auto`."""

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(gt=0, lt=1)]
Patch = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]

_EPOCHS = (
    f"Number of epochs; null: as many as fit into `time`, {DEFAULT_EPOCHS} without it; "
    "auto: as many as the time of the budget allows."
)
_BATCH_SIZE = "Samples per step, over all training processes together; auto: the plan decides."
_SAMPLES = (
    "Samples per epoch, rounded up to whole batches; null: the number of cases; auto: the plan decides."
)
_RATE = "Highest learning rate of the schedule; auto: the plan decides."
_OPTIMISER = "Optimiser; auto: the plan decides."
_SCHEDULE = "Course of the learning rate; auto: the plan decides."
_PATCH = (
    "Voxels along each axis of the prepared image that one training sample shows, filled up where the image "
    "is smaller; null: the whole image; auto: the plan decides."
)
_EMA = "Decay of the moving average of weights used for validation and result; null: none; auto: the plan decides."
_VALIDATE = "Epochs between validations; the last epoch is always validated; auto: the plan decides."


class TrainingSettings(BaseModel):
    """How the network is trained, as a YAML says it: `auto` leaves a number to the plan."""

    model_config = _FROZEN
    shorthands: ClassVar[Mapping[str, Mapping[str, str]]] = {"auto": dict.fromkeys(PLANNED, "auto")}

    # Keys of earlier releases -> what to write instead, for the message about them.
    renamed: ClassVar[Mapping[str, str]] = {"time_limit_min": "`time`, with its unit, such as `time: 30min`"}

    epochs: Auto | Count | None = Field(None, description=_EPOCHS)
    time: Duration | None = Field(
        None,
        description="Wall-clock time of the training, validation included, such as 30min: where the machine is "
        "too slow for `epochs`, fewer are made and the schedule is fitted to them; null: no limit.",
    )
    batch_size: Auto | Count = Field(8, description=_BATCH_SIZE)
    samples_per_epoch: Auto | Count | None = Field(None, description=_SAMPLES)
    patch_size: Auto | Patch | None = Field(None, description=_PATCH)
    foreground: float = Field(
        0.33,
        ge=0,
        le=1,
        description="Share of the samples whose patch is centred on a structure; the structures of a case are "
        "drawn with equal chance. Needs `patch_size`.",
    )
    learning_rate: Auto | Rate = Field(1e-3, description=_RATE)
    learning_rates: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="Part of the network, by name prefix -> factor of its learning rate; the longest prefix counts.",
    )
    optimiser: Auto | OptimiserOptions = Field(AdamwOptions(), description=_OPTIMISER)
    schedule: Auto | ScheduleOptions = Field(OneCycleOptions(), description=_SCHEDULE)
    loss: LossOptions = Field(default_factory=DiceCrossEntropyOptions, description="Loss function.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the forward pass; auto: bf16 or fp16 on a GPU, fp32 on a CPU."
    )
    memory_format: Literal["channels_last", "contiguous"] = Field(
        "channels_last", description="Layout of images and weights in memory; changes speed, not the method."
    )
    ema: Auto | Decay | None = Field(None, description=_EMA)
    clip_norm: float | None = Field(
        12.0, gt=0, description="Largest norm of the gradient over all weights; null: no clipping."
    )
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one update.")
    metric: str = Field("dice", description="Validation value by which the best epoch is chosen.")
    metric_is: Literal["higher_better", "lower_better"] = Field(
        "higher_better", description="Which direction of the metric is better."
    )
    keep: Literal["best", "last"] = Field("best", description="Which epoch's weights are the result.")
    early_stop: EarlyStopOptions | None = Field(None, description="Early stopping; null: never.")
    validate_every: Auto | Count = Field(1, description=_VALIDATE)
    checkpoint_every: Duration | None = Field(
        120.0,
        description="Longest time between two checkpoints, such as 2min; one is written after each epoch anyway. "
        "null: no others.",
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Updates between checkpoints within an epoch; null: `checkpoint_every` alone."
    )
    freeze: tuple[str, ...] = Field(
        (), description="Parts of the network, by name prefix, that are not trained."
    )
    freeze_epochs: int | None = Field(
        None, ge=1, description="Epochs in which `freeze` holds; null: the whole training."
    )
    case_weights: str | None = Field(
        None, description="Manifest column with the relative frequency at which each case is drawn."
    )
    adversarial: AdversarialOptions | None = Field(
        None, description="Attacks on the network mixed into its training; null: none."
    )
    seed: int = Field(1, ge=0, lt=2**63, description="Seed of everything random in the training.")
    deterministic: bool = Field(
        True, description="Same weights bit for bit on the same machine; slower on a GPU."
    )
    tensorboard: bool = Field(
        False, description="Write TensorBoard curves too (needs the extra `tensorboard`)."
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.freeze_epochs is not None and not self.freeze:
            raise ValueError("freeze_epochs says how long, but freeze names no part of the network")
        return self

    @property
    def target_epochs(self) -> int | None:
        """Epochs that the training makes where there is time for them; None: as many as there is time for."""
        if self.epochs is None and self.time is None:
            return DEFAULT_EPOCHS
        return None if self.epochs == "auto" else self.epochs


class TrainingOptions(TrainingSettings):
    """How the network is trained, with every number decided."""

    epochs: Count | None = Field(None, description=_EPOCHS)
    batch_size: Count = Field(8, description=_BATCH_SIZE)
    samples_per_epoch: Count | None = Field(None, description=_SAMPLES)
    patch_size: Patch | None = Field(None, description=_PATCH)
    learning_rate: Rate = Field(1e-3, description=_RATE)
    optimiser: OptimiserOptions = Field(AdamwOptions(), description=_OPTIMISER)
    schedule: ScheduleOptions = Field(OneCycleOptions(), description=_SCHEDULE)
    ema: Decay | None = Field(None, description=_EMA)
    validate_every: Count = Field(1, description=_VALIDATE)


if TYPE_CHECKING:
    AllPlanned: TypeAlias = TrainingSettings
else:
    # The word stands for settings, so nothing that reads them meets it.
    AllPlanned = Annotated[
        Auto, AfterValidator(lambda word: TrainingSettings.model_validate(TrainingSettings.shorthands[word]))
    ]
"""`training: auto`: every number that the plan can decide is left to it."""


# They change when something is written or how long the run may last, not what it computes.
NOT_IN_DIGEST = frozenset({"checkpoint_every", "checkpoint_every_steps", "tensorboard", "time"})
