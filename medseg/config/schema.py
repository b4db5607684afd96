"""PipelineConfig and RunConfig: all settings of a run, composed of the option classes of the packages.

A PipelineConfig is what a YAML says, where `auto` leaves a setting to the plan. A RunConfig is the same
with everything decided; the stages after the plan see nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.amounts import MemorySize
from medseg.config.conflicts import find_conflicts
from medseg.config.document import KeyPath
from medseg.config.search_space import find_search_conflicts
from medseg.data.options import DataOptions
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.options import EvaluationOptions, MeasureName
from medseg.export.options import ExportName
from medseg.inference.options import (
    EngineSetting,
    InferenceOptions,
    InferenceSettings,
    PostprocessStep,
    Precision,
)
from medseg.labels import Code, Label, LabelScheme, LabelTable, Side
from medseg.models.bundle_record import BundleAbout
from medseg.models.options import AutoNetworkOptions, NetworkOptions, NetworkSettings
from medseg.pacs.send_options import SendOptions
from medseg.planning.options import BudgetOptions
from medseg.quality.options import FlagOptions, GateOptions
from medseg.report.options import ReportOptions
from medseg.search.options import SearchOptions
from medseg.settings_conflict import conflict
from medseg.training.options import PLANNED, AllPlanned, TrainingOptions, TrainingSettings
from medseg.transforms.options import AugmentStep, PreprocessStep

# Colours of labels that name none: Okabe and Ito, Color Universal Design, 2008; told apart by most.
_PALETTE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")

LabelName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
MaskValue = Annotated[int, Field(ge=0, le=65535)]


class SettingsModel(BaseModel):
    """Settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeOptions(SettingsModel):
    """A coded concept (DICOM PS3.3 8.8), such as SCT 3341006 "Right lung"."""

    scheme: str = Field(
        min_length=1,
        max_length=16,
        description="Coding scheme designator: SCT for SNOMED CT, FMA, DCM, 99...",
    )
    value: str = Field(min_length=1, max_length=16, description="Code in that scheme, in quotes.")
    meaning: str = Field(min_length=1, max_length=64, description="Code meaning, for people.")


class LabelOptions(SettingsModel):
    """One structure."""

    value: int = Field(ge=1, le=65535, description="Value in masks, read and written.")
    side: Side = Field(default="none", description="Side of the patient's body that it lies on.")
    pair: LabelName | None = Field(
        default=None, description="The same structure on the other side; flips swap the two."
    )
    color: str | None = Field(
        default=None,
        pattern=r"^#[0-9a-fA-F]{6}$",
        description='Colour in pictures and DICOM SEG, "#rrggbb" in quotes. null: from a palette.',
    )
    code: CodeOptions | None = Field(default=None, description="Coded concept; DICOM SEG needs it.")


class LabelSchemeOptions(SettingsModel):
    """How the masks of one source name things, where they differ from `labels`."""

    values: dict[MaskValue, LabelName | Annotated[tuple[LabelName, ...], Field(min_length=1)]] = Field(
        min_length=1,
        description="Mask value -> the label, or the labels among which the mask does not tell. "
        "`background` is a label; value 0 is background unless given.",
    )
    sides_by_position: bool = Field(
        default=False,
        description="Whether components of a value that may be left or right are told apart by their "
        "place in the picture; for masks in display orientation.",
    )
    medial_open: dict[LabelName, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="Label -> share of its width, from the body's midline, in which a voxel of it may as "
        "well be background, 0..1; for masks that go on behind the heart where the task leaves it out.",
    )

    @property
    def members(self) -> dict[int, tuple[str, ...]]:
        """Label names by mask value, single names as tuples."""
        return {v: (names,) if isinstance(names, str) else names for v, names in self.values.items()}


class ComputeOptions(SettingsModel):
    """How much of the machine is used; results do not depend on it."""

    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="CPU threads of one computation; auto: the cores that the process may use.",
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = Field(
        default="auto", description="Processes that load data; 0: none beside the main one."
    )
    on_worker_failure: Literal["stop", "fall_back"] = Field(
        default="stop",
        description="What follows when such a process dies or hangs. stop: the run ends and says at which "
        "case. fall_back: it goes on in the main process with the same samples, unless the case is the cause.",
    )
    parallel_folds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Folds trained at the same time, in a process each, the threads divided among them.",
    )
    device: Literal["auto", "cpu", "cuda"] | Annotated[str, Field(pattern=r"^cuda:[0-9]{1,3}$")] = Field(
        default="auto",
        description="Where the network runs; auto: a GPU where there is one. cuda:1 is the second.",
    )


class PredictOptions(SettingsModel):
    """What predicting may take of the machine; results do not depend on it beyond rounding and what `engine` allows."""

    precision: Precision = Field(
        default="auto",
        description="Numbers in which the network computes. auto: fp16 on a GPU, fp32 on a processor, which fp16 and "
        "bf16 are not for.",
    )

    max_ram: MemorySize | None = Field(
        default=None,
        description="Ceiling of the memory of a process that predicts, such as 2GB, from reading the image to "
        "writing the last file; null: none. Windows, the prepared image and sums give way to it, the result does not.",
    )
    engine: EngineSetting = Field(
        default="torch",
        description="What runs the network on a CPU. torch: the same masks on every run. auto: the fastest of torch, "
        "openvino, onnxruntime and compile (torch.compile) that are installed, measured once per machine, model and "
        "window and only where the work is long enough to pay for it. openvino_int8: eight-bit numbers, only when "
        "asked for. Another engine than torch is used only where its masks agree with torch's: 99.9 % of foreground "
        "voxels, Dice within 0.001.",
    )


_PREPROCESS = "Steps that make an image ready for the network, in this order; auto: the plan decides."
_AUGMENT = "Random changes of training samples, in this order; auto: the plan decides."
_MODEL = "The network; auto: the plan decides."
_TRAINING = (
    "How it is trained; null: not at all, the model of `model.start_from` is used; auto: every number that "
    "the plan can decide."
)
_INFERENCE = "How it predicts."


class PipelineConfig(SettingsModel):
    """Settings of one pipeline, from data to report; `auto` leaves a setting to the plan."""

    # `start_from: ../my_bundle` is a path of the file, `start_from: chest-xray-lungs` a name.
    name_or_path: ClassVar[frozenset[KeyPath]] = frozenset({("model", "start_from")})

    # What a search tries is written like the setting that it is a value for.
    values_of: ClassVar[tuple[KeyPath, ...]] = (("search", "space"), ("search", "settings"))

    medseg: Literal[1] = Field(description="Version of the settings format.")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of the pipeline; run folders carry it.",
    )
    about: str = Field(default="", description="What the pipeline is for, one sentence.")
    data: DataOptions = Field(description="Where the cases are, how they are split, what is refused.")
    labels: dict[LabelName, LabelOptions] = Field(min_length=1, description="The structures, by name.")
    regions: dict[LabelName, Annotated[tuple[LabelName, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="Unions of labels that are trained and evaluated as one."
    )
    ignore_value: MaskValue | None = Field(
        default=None, description="Mask value whose voxels count neither for nor against anything."
    )
    label_schemes: dict[LabelName, LabelSchemeOptions] = Field(
        default_factory=dict,
        description="Other namings that masks use; the manifest's column label_scheme picks one.",
    )
    budget: BudgetOptions = Field(
        default_factory=BudgetOptions, description="Memory and time that the plan may count on."
    )
    preprocess: Literal["auto"] | tuple[PreprocessStep, ...] = Field(default=(), description=_PREPROCESS)
    augment: Literal["auto"] | tuple[AugmentStep, ...] = Field(default=(), description=_AUGMENT)
    model: NetworkSettings = Field(description=_MODEL)
    training: AllPlanned | TrainingSettings | None = Field(default=None, description=_TRAINING)
    search: SearchOptions | None = Field(
        default=None,
        description="Search for settings of the training before it; null: none. Needs the extra `search`.",
    )
    inference: InferenceSettings = Field(default_factory=InferenceSettings, description=_INFERENCE)
    postprocess: Literal["auto"] | tuple[PostprocessStep, ...] = Field(
        default=(),
        description="Steps that clean a predicted mask, in this order. auto: those that raise Dice on the "
        "out-of-fold predictions (on the validation cases where there are no folds), never on test cases.",
    )
    evaluation: EvaluationOptions = Field(
        default_factory=EvaluationOptions, description="Numbers of agreement with reference masks."
    )
    measure: tuple[MeasureName, ...] = Field(default=(), description="Numbers about each predicted mask.")
    recognise: RecogniseOptions | None = Field(
        default=None,
        description="Targets that are told one by one, each connected object with place, size and confidence; "
        "null: none.",
    )
    export: tuple[ExportName, ...] = Field(default=("nifti",), description="Files written for each case.")
    pacs: SendOptions | None = Field(
        default=None,
        description="Archives that the results are sent to; null: nothing is sent. Needs the extra `pacs`.",
    )
    report: ReportOptions = Field(default_factory=ReportOptions, description="The HTML report.")
    gate: GateOptions = Field(
        default_factory=GateOptions, description="When an input is too unlike the model's training data."
    )
    flags: FlagOptions = Field(
        default_factory=FlagOptions, description="When a result is flagged for a person to look at."
    )
    bundle: BundleAbout | None = Field(
        default=None,
        description="What the model card of the trained model says; null: only what medseg knows.",
    )
    predict: PredictOptions = Field(
        default_factory=PredictOptions, description="What predicting may take of the machine."
    )
    compute: ComputeOptions = Field(
        default_factory=ComputeOptions, description="How much of the machine is used."
    )

    @staticmethod
    def conflicts(sections: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
        """Settings that do not go together, among the sections that are valid by themselves."""
        return find_conflicts(sections)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        found = find_conflicts({name: getattr(self, name) for name in type(self).model_fields})
        found = found or find_search_conflicts(self)
        if found:
            raise conflict(found)
        return self

    @property
    def refuses_colour(self) -> bool:
        """Whether an RGB image is an error: gray is expected and no step makes it gray."""
        steps = () if self.preprocess == "auto" else self.preprocess
        return self.data.gray and all(step.use != "gray" for step in steps)

    @property
    def autos(self) -> tuple[str, ...]:
        """Settings that are left to the plan, as `--set` writes them."""
        found = [name for name in ("preprocess", "augment") if getattr(self, name) == "auto"]
        found += ["model"] if isinstance(self.model, AutoNetworkOptions) else []
        if self.training is not None:
            found += [f"training.{name}" for name in PLANNED if getattr(self.training, name) == "auto"]
        return (*found, *(["inference.window"] if self.inference.window == "auto" else []))

    def label_table(self) -> LabelTable:
        """The labels, regions, ignored value and schemes as the stages use them."""
        return table_from_options(self.labels, self.regions, self.ignore_value, self.label_schemes)


class RunConfig(PipelineConfig):
    """Settings of one pipeline with everything decided."""

    preprocess: tuple[PreprocessStep, ...] = Field(default=(), description=_PREPROCESS)
    augment: tuple[AugmentStep, ...] = Field(default=(), description=_AUGMENT)
    model: NetworkOptions = Field(description=_MODEL)
    training: TrainingOptions | None = Field(default=None, description=_TRAINING)
    inference: InferenceOptions = Field(default_factory=InferenceOptions, description=_INFERENCE)


def decided(config: PipelineConfig) -> PipelineConfig:
    """The same settings as a RunConfig where none of them is `auto`; else as they are."""
    return config if config.autos else RunConfig.model_validate(config.model_dump())


def table_from_options(
    labels: Mapping[str, LabelOptions],
    regions: Mapping[str, tuple[str, ...]],
    ignore_value: int | None,
    schemes: Mapping[str, LabelSchemeOptions],
) -> LabelTable:
    """What settings say about labels, as the stages use it."""
    ordered = sorted(labels.items(), key=lambda item: item[1].value)
    return LabelTable(
        labels=tuple(_label(name, options, index) for index, (name, options) in enumerate(ordered)),
        regions=dict(regions),
        ignore=ignore_value,
        schemes={
            name: LabelScheme(
                name=name,
                values=scheme.members,
                sides_by_position=scheme.sides_by_position,
                medial_open=dict(scheme.medial_open),
            )
            for name, scheme in schemes.items()
        },
    )


def _label(name: str, options: LabelOptions, index: int) -> Label:
    code = None if options.code is None else Code(**options.code.model_dump())
    colour = options.color or _PALETTE[index % len(_PALETTE)]
    return Label(
        name=name, value=options.value, colour=colour, side=options.side, code=code, pair=options.pair
    )
