"""What a YAML may say about its data: where the cases are, how they are split, what is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.io.series_rule import SeriesRule

Level = Literal["error", "note"]
Modality = Annotated[str, Field(pattern=r"^([A-Z0-9]{1,16})?$")]
_SUM_TOLERANCE = 1e-6


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PhantomSource(_Options):
    """Synthetic images with exact masks, made on the spot."""

    use: Literal["phantom"] = Field(default="phantom", description="Synthetic images with exact masks.")
    recipe: Literal["chest_xray"] = Field(default="chest_xray", description="What is made.")
    cases: int = Field(default=24, ge=1, le=100_000, description="Number of cases.")
    seed: int = Field(default=7, ge=0, lt=2**63, description="Seed; the same seed makes the same files.")


class ManifestSource(_Options):
    """A CSV file with one row per case; data_manifests/README.md describes its columns."""

    use: Literal["manifest"] = Field(default="manifest", description="A CSV file with one row per case.")
    path: Path = Field(description="The CSV file, relative to this file.")
    root: Path | None = Field(
        default=None,
        description="Folder that the manifest's paths are relative to and may not leave, relative to this "
        "file. null: the folder of the manifest, and no limit.",
    )


class FolderSource(_Options):
    """Whatever images a folder holds, with masks found by their names."""

    use: Literal["folder"] = Field(default="folder", description="Whatever images a folder holds.")
    images: Path = Field(description="Folder that is searched for images, relative to this file.")
    labels: Path | None = Field(
        default=None, description="Folder with the masks, relative to this file. null: images without masks."
    )
    pattern: str = Field(
        default="{case_id}_mask.png",
        description="Name of a case's mask inside `labels`; {case_id} is replaced.",
    )
    scheme: str | None = Field(
        default=None, description="Entry of label_schemes that the masks follow. null: the label table."
    )

    select: SeriesRule = Field(
        default=SeriesRule(),
        description="Which DICOM volume of a study is meant, where the folder holds several; without a rule "
        "that decides, the run lists them and stops.",
    )

    @model_validator(mode="after")
    def _pattern_names_the_case(self) -> Self:
        if "{case_id}" not in self.pattern or "{" in self.pattern.replace("{case_id}", ""):
            raise ValueError("pattern holds {case_id} once or more and no other braces")
        if Path(self.pattern).is_absolute() or ".." in Path(self.pattern).parts:
            raise ValueError("pattern stays inside `labels`: no absolute path and no `..`")
        return self


SourceOptions = Annotated[PhantomSource | ManifestSource | FolderSource, Field(discriminator="use")]

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class HoldoutSplit(_Options):
    """Patients are dealt to three parts by shares of the cases, independent of their order."""

    use: Literal["holdout"] = Field(default="holdout", description="Three parts by shares of the cases.")
    by: Literal["patient"] = Field(default="patient", description="What stays together.")
    training: float = Field(default=0.7, gt=0, le=1, description="Share of the cases to train on, 0..1.")
    validation: float = Field(
        default=0.15, ge=0, lt=1, description="Share that chooses the best epoch, 0..1."
    )
    test: float = Field(default=0.15, ge=0, lt=1, description="Share that is evaluated, 0..1.")
    seed: Seed = Field(default=1, description="Seed of the deal.")
    stratify: str | None = Field(
        default=None, description="Manifest column whose values every part gets in the same proportion."
    )

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.training + self.validation + self.test
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"training + validation + test must be 1, found {total:g}")
        return self


class ManifestSplit(_Options):
    """The column `split` of the manifest decides; every case needs an entry."""

    use: Literal["manifest"] = Field(default="manifest", description="The column `split` of the manifest.")


class FoldSplit(_Options):
    """Patients are dealt to folds; one fold at a time, or each in its turn, is kept from the training and tested.

    A manifest with a column `fold` is followed; without one the folds are dealt by the seed.
    """

    use: Literal["folds"] = Field(default="folds", description="Cross-validation: each fold is tested once.")
    by: Literal["patient"] = Field(default="patient", description="What stays together.")
    count: int = Field(default=5, ge=2, le=100, description="Number of folds.")
    fold: Literal["all"] | Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Fold that is tested in this run, from 0. all: every fold is trained, each case is predicted "
        "by the network that never saw its patient, and the model of the run is the ensemble.",
    )
    validation: Literal["next", "none", "tested"] = Field(
        default="next",
        description="What is watched while training. next: the fold after the tested one, which is kept from the "
        "training too and chooses the best epoch. none: nothing, all other folds train. tested: like none, with "
        "curves of the tested fold, which choose nothing; none and tested need training.keep: last.",
    )
    seed: Seed = Field(default=1, description="Seed of the deal.")
    stratify: str | None = Field(
        default=None, description="Manifest column whose values every fold gets in the same proportion."
    )

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold != "all" and self.fold >= self.count:
            raise ValueError(
                f"fold is 0 to {self.count - 1} for {self.count} folds, or all; found {self.fold}"
            )
        if self.validation == "next" and self.count < 3:
            raise ValueError(
                "validation: next needs 3 folds or more, one of which trains; raise count, or validation: none"
            )
        return self


SplitOptions = Annotated[HoldoutSplit | ManifestSplit | FoldSplit, Field(discriminator="use")]


class CheckOptions(_Options):
    """How grave a finding is where tasks differ: an error sets the case aside, a note is reported."""

    missing_label: Level = Field(default="note", description="A case that names no mask.")
    empty_label: Level = Field(default="note", description="A mask without any structure.")
    unknown_spacing: Level = Field(default="note", description="A file that does not say its pixel size.")
    duplicate_in_split: Level = Field(
        default="note", description="The same pixels twice in one split; across splits it is always an error."
    )


class DataOptions(_Options):
    """Where the cases are, how they are split, and what is refused."""

    source: SourceOptions = Field(description="Where the cases are.")
    split: SplitOptions = Field(
        default=HoldoutSplit(), description="Which cases train, which validate, which are tested."
    )
    modality: tuple[Modality, ...] = Field(
        default=(),
        description='Modalities that are accepted, such as [CR, DX]; "" accepts files that do not say: '
        "pictures, NIfTI, some DICOM. Empty: any.",
    )
    gray: bool = Field(
        default=False,
        description="Whether one gray channel is expected: colour images are refused unless a `gray` step "
        "of preprocess converts them.",
    )
    fourth_axis: Literal["refuse", "channels"] = Field(
        default="refuse",
        description="What the fourth axis of an image file is: refuse (an error, as time points look like "
        "channels) or channels, as in the Medical Segmentation Decathlon.",
    )
    label_resample: Literal["never", "nearest"] = Field(
        default="never",
        description="A mask whose voxels are not those of its image: never (an error that names both grids) or "
        "nearest (resampled by world coordinates). Another order of axes on the same voxels is no difference.",
    )
    checks: CheckOptions = Field(
        default=CheckOptions(), description="How grave a finding is where tasks differ."
    )
