"""What a user may say in a YAML about the import of a model of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medseg.config.schema import LabelName, LabelOptions, SettingsModel, table_from_options
from medseg.config.yaml_model import load_yaml_model
from medseg.inference.options import InferenceOptions, PostprocessStep
from medseg.labels import LabelTable
from medseg.transforms.options import PreprocessStep


class ImportSettings(SettingsModel):
    """Parts of an imported model in medseg's own words, instead of what its folder says."""

    labels: dict[LabelName, LabelOptions] | None = Field(
        default=None,
        min_length=1,
        description="The structures by name; their values in ascending order are the classes of the network from 1 on.",
    )
    regions: dict[LabelName, Annotated[tuple[LabelName, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="Unions of labels."
    )
    preprocess: tuple[PreprocessStep, ...] | None = Field(
        default=None, description="Image preparation, in order; null: that of the folder."
    )
    inference: InferenceOptions | None = Field(
        default=None, description="Windows and augmentation; null: those of the folder."
    )
    postprocess: tuple[PostprocessStep, ...] | None = Field(
        default=None, description="Clean-up of masks, in order; null: that of the folder."
    )

    def table(self) -> LabelTable | None:
        """The label table, None where the settings name no labels."""
        return None if self.labels is None else table_from_options(self.labels, self.regions, None, {})


def read_import_settings(path: Path) -> ImportSettings:
    """Read and check a settings file.

    Raises
    ------
    SettingsError
        All problems of the file, with line and column.
    """
    return load_yaml_model(path, ImportSettings).config
