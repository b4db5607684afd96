"""What bundle.json may hold: a strict schema, no code and no class paths. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.labels import LabelTable
from medseg.models.calibration_record import CalibrationRecord
from medseg.models.options import NetworkOptions

FORMAT_VERSION = 1
"""Of a bundle with one set of weights."""
ENSEMBLE_VERSION = 2
"""Of a bundle with several members, which a medseg that reads version 1 alone must refuse."""
FORMAT_VERSIONS = (FORMAT_VERSION, ENSEMBLE_VERSION)
WEIGHTS = "model.safetensors"
WeightsPrecision = Literal["fp32", "fp16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BundleAbout(_Strict):
    """What a user must know before using the model; the words of the model card."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$",
        description="Name by which it is asked for: lower-case letters, digits, dot, dash, underscore.",
    )
    version: str = Field(
        pattern=r"^\d+\.\d+\.\d+$", description="Version of the model, three numbers; not that of medseg."
    )
    description: Text = Field(description="What it segments, on which images, in one or two sentences.")
    licence: Text = Field(description="SPDX identifier of the licence of the weights.")
    attribution: tuple[Text, ...] = Field(
        default=(), description="Whom the licences of data and parents ask to name, one line each."
    )
    intended_use: Text = Field(description="What it is for, and what it must not be used for.")
    limitations: tuple[Text, ...] = Field(
        default=(), description="Where it is known or expected to fail, one sentence each."
    )
    weights_precision: WeightsPrecision = Field(
        default="fp32",
        description="Number format of the stored weights; fp16 halves the files and rounds to 11 bits. Results are "
        "those of the stored weights.",
    )


class TrainingRecord(_Strict):
    """Where the weights come from."""

    data: Text = Field(description="The images and masks it was trained on, with their licences.")
    cases: int = Field(ge=0, description="Training images.")
    patients: int | None = Field(default=None, ge=0, description="Patients behind them; null where unknown.")
    epochs: int = Field(ge=0, description="Passes over the training cases.")
    seconds: Finite = Field(ge=0, description="Wall time of the training.")
    started_from: str | None = Field(default=None, description="Bundle whose weights it started from.")
    settings_sha256: Sha256 = Field(description="Digest of the resolved settings.")
    input_ranges: dict[str, tuple[Finite, Finite]] = Field(
        default_factory=dict,
        description="Lowest and highest value of each measure over the training images, for the input gate.",
    )
    statistics: dict[str, Finite] = Field(
        default_factory=dict, description="Of the training images, for preprocessing steps that need them."
    )


class MetricRecord(_Strict):
    """One line of the results, with its interval."""

    structure: Text = Field(description="Label or region.")
    metric: Text = Field(description="Name of the measure, such as dice or hd95.")
    unit: str = Field(default="", description="Unit of value, low and high; empty for ratios.")
    data: Text = Field(description="Which cases, such as `test: 47 films of 47 patients`.")
    cases: int = Field(ge=1, description="Cases in the mean.")
    value: Finite = Field(description="Mean over cases.")
    low: Finite | None = Field(default=None, description="Lower end of the interval.")
    high: Finite | None = Field(default=None, description="Upper end of the interval.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Level of the interval, 0..1.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.metric} of {self.structure}: give both ends of the interval or none")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.metric} of {self.structure}: low {self.low} is above high {self.high}")
        return self


class GateRecord(_Strict):
    """The JSON part of the input gate; its arrays lie beside the weights as tensors `gate.<name>`."""

    tensors: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...] = Field(
        default=(), description="Names of the arrays, without the prefix."
    )
    limits: dict[str, Finite | dict[str, Finite]] = Field(
        default_factory=dict, description="Its numbers: distances that flag and refuse, quantiles, counts."
    )


class MemberRecord(_Strict):
    """One network of an ensemble: where its weights lie, and what it was trained on."""

    file: str = Field(pattern=r"^model-\d{1,3}\.safetensors$", description="File of its weights.")
    fold: int = Field(ge=0, description="Fold that it never saw.")
    cases: int = Field(ge=0, description="Training images.")
    patients: int | None = Field(default=None, ge=0, description="Patients behind them; null where unknown.")
    epochs: int = Field(ge=0, description="Passes over the training cases.")
    seconds: Finite = Field(ge=0, description="Wall time of the training.")


class BundleRecord(BundleAbout):
    """The whole of bundle.json."""

    format_version: Literal[1, 2] = Field(
        default=1, description="Version of this schema: 1 for one set of weights, 2 for an ensemble."
    )
    network: NetworkOptions = Field(description="Which network, and its arguments.")
    spatial_dims: Literal[2, 3] = Field(description="Axes of the images.")
    in_channels: int = Field(ge=1, description="Channels of the images.")
    labels: dict[str, Any] = Field(description="Label table, as LabelTable.to_json writes it.")
    regions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description="For each channel of the network the class that it writes where it is more likely than not, a "
        "later channel over earlier ones; empty where each channel is a class.",
    )
    preprocess: tuple[dict[str, Any], ...] = Field(description="Preprocessing steps, in order.")
    inference: dict[str, Any] = Field(default_factory=dict, description="Inference options.")
    postprocess: tuple[dict[str, Any], ...] = Field(default=(), description="Clean-up steps, in order.")
    recognise: dict[str, Any] | None = Field(
        default=None, description="Which targets are told one by one; null: none."
    )
    window: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, description="Window that the network was trained on, voxels."
    )
    training: TrainingRecord = Field(description="Where the weights come from.")
    gate: GateRecord | None = Field(default=None, description="Input gate; null where there is none.")
    metrics: tuple[MetricRecord, ...] = Field(default=(), description="Results on held-out cases.")
    calibration: CalibrationRecord | None = Field(
        default=None, description="Temperature and intervals of sizes; null where none were fitted."
    )
    members: tuple[MemberRecord, ...] = Field(
        default=(), description="Networks whose answers are averaged; empty for a bundle of one."
    )
    files: dict[str, Sha256] = Field(description="SHA-256 of each file of the bundle that is checked.")

    @field_validator("inference")
    @classmethod
    def _without_old_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Bundles of older versions name a setting that kept an array for nobody."""
        return {key: item for key, item in value.items() if key != "save_probabilities"}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if set(self.files) != set(self.weight_files):
            wanted = ", ".join(self.weight_files)
            raise ValueError(f"files must name {wanted} and nothing else, found {sorted(self.files)}")
        if bool(self.members) != (self.format_version == ENSEMBLE_VERSION):
            raise ValueError(
                f"format_version {self.format_version} does not go with {len(self.members)} members"
            )
        folds = [member.fold for member in self.members]
        if len(set(folds)) != len(folds) or len(self.files) != len(self.weight_files):
            raise ValueError(f"members must have a fold and a file each, found the folds {folds}")
        if self.window is not None and len(self.window) != self.spatial_dims:
            raise ValueError(f"window has {len(self.window)} edges for {self.spatial_dims} axes")
        table = self.table()
        unknown = sorted(
            set(self.calibration.sizes if self.calibration else ()) - set(table.region_classes())
        )
        if unknown:
            raise ValueError(f"calibration.sizes names {unknown}, which the label table does not have")
        if any(index >= table.class_count for index in self.regions):
            raise ValueError(
                f"regions name the classes {list(self.regions)}, the table has 0 to {table.class_count - 1}"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """As bundle.json holds it; a record of one network is what older versions of medseg read."""
        # A version that knows no regions must refuse them, not take channels for classes.
        empty = {
            name for name in ("members", "regions", "recognise", "calibration") if not getattr(self, name)
        }
        return self.model_dump(mode="json", exclude=empty)

    @property
    def channel_count(self) -> int:
        """Channels that the network gives."""
        return len(self.regions) or self.table().class_count

    @property
    def temperature(self) -> float:
        """By what averaged logits are divided; 1 where none was fitted to what this bundle answers."""
        known = self.calibration
        if known is None or known.temperature is None or (known.of == "members" and len(self.members) > 1):
            return 1.0
        return known.temperature.value

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Files of the weights, in the order of the members."""
        return tuple(member.file for member in self.members) or (WEIGHTS,)

    def table(self) -> LabelTable:
        """The label table.

        Raises
        ------
        ValueError
            `labels` is not what `LabelTable.to_json` writes.
        """
        try:
            return LabelTable.from_json(self.labels)
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"labels are not a label table: {re.sub(r'[^ -~]', '?', str(err))}") from err
