"""Label tables in files of their own: a `labels:` block in YAML, or the sidecar that medseg writes beside a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from medseg.config.schema import LabelName, LabelOptions, MaskValue, SettingsModel, table_from_options
from medseg.config.yaml_model import load_yaml_model
from medseg.errors import ConfigError, LabelError
from medseg.labels import LabelTable

_MAX_BYTES = 8 << 20
_SIDECAR_KEY = "medseg_segmentation"
_EXTRA = ("segment_number", "voxels")


class LabelFile(SettingsModel):
    """The structures of a mask: what a pipeline says under `labels`, `regions` and `ignore_value`."""

    labels: dict[LabelName, LabelOptions] = Field(min_length=1, description="The structures, by name.")
    regions: dict[LabelName, Annotated[tuple[LabelName, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="Unions of labels."
    )
    ignore_value: MaskValue | None = Field(default=None, description="Mask value that says nothing.")


def read_label_file(path: Path) -> LabelTable:
    """Read a label table.

    Parameters
    ----------
    path : Path
        YAML with `labels` (and `regions`, `ignore_value`) as in a pipeline, or the JSON sidecar of a mask.

    Raises
    ------
    ConfigError
        The file cannot be read, or is neither; for YAML all problems with line and column.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: more than {_MAX_BYTES >> 20} MiB, no label table")
        head = path.read_bytes()[:1]
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror or err}") from err
    if head == b"{":
        return _from_sidecar(path)
    loaded = load_yaml_model(path, LabelFile).config
    return table_from_options(loaded.labels, loaded.regions, loaded.ignore_value, {})


def _from_sidecar(path: Path) -> LabelTable:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"{path}: expected JSON: {err}") from err
    if _SIDECAR_KEY not in value or not isinstance(value.get("labels"), list):
        raise ConfigError(f"{path}: expected the JSON that medseg writes beside a mask (key {_SIDECAR_KEY})")
    labels = [{k: v for k, v in item.items() if k not in _EXTRA} for item in value["labels"]]
    try:
        return LabelTable.from_json({"labels": labels, "regions": value.get("regions", {})})
    except (KeyError, TypeError, ValueError, AttributeError, LabelError) as err:
        raise ConfigError(f"{path}: its labels are damaged: {err}") from err
