"""Settings: YAML in, one checked `PipelineConfig` out, every problem with its place.

`load_run_config` reads a pipeline, `find_pipeline` finds it, `resolved_yaml` writes it back whole and
`json_schema` is what editors complete from. Nothing here imports torch or an image library.
"""

from medseg.config.editor_schema import json_schema, schema_text
from medseg.config.load import LoadedConfig, find_pipeline, load_run_config, load_yaml_model, resolved_yaml
from medseg.config.problems import Problem, SettingsError
from medseg.config.schema import ComputeOptions, LabelOptions, PipelineConfig, RunConfig, decided

__all__ = [
    "ComputeOptions",
    "LabelOptions",
    "LoadedConfig",
    "PipelineConfig",
    "Problem",
    "RunConfig",
    "SettingsError",
    "decided",
    "find_pipeline",
    "json_schema",
    "load_run_config",
    "load_yaml_model",
    "resolved_yaml",
    "schema_text",
]
