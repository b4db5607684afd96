"""Pipeline YAML -> PipelineConfig, and back to a YAML that says everything."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from medseg.config.document import scalar_value
from medseg.config.problems import nearest
from medseg.config.schema import PipelineConfig
from medseg.config.shapes import CHOICE_KEY
from medseg.config.yaml_model import Loaded, load_yaml_model
from medseg.errors import ConfigError

__all__ = ["LoadedConfig", "find_pipeline", "load_run_config", "load_yaml_model", "resolved_yaml"]

PIPELINES = Path("pipelines")
_PLAIN_WORD = re.compile(r"[A-Za-z_]([A-Za-z0-9_./ -]*[A-Za-z0-9_])?")
_ENDINGS = (".yaml", ".yml")
LoadedConfig: TypeAlias = Loaded[PipelineConfig]


def load_run_config(path: Path, *, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check a pipeline.

    Parameters
    ----------
    path : Path
        As `find_pipeline` found it.
    overrides : sequence of str
        `a.b=value`, as after `--set`.

    Raises
    ------
    SettingsError
        All problems of the file, with file, line and column; a ConfigError.
    """
    return load_yaml_model(path, PipelineConfig, overrides)


def find_pipeline(name: str | Path) -> Path:
    """The file that a user names: as given, then in `pipelines/` of the working folder.

    Raises
    ------
    ConfigError
        No such file; names the nearest, or all that are there.
    """
    given = Path(name)
    candidates = [given] if given.is_absolute() else [given, PIPELINES / given]
    for path in candidates:
        if path.is_file():
            return path
    folders = list(dict.fromkeys([given.parent, PIPELINES]))
    here = [path for folder in folders for path in _pipelines_in(folder)]
    by_name = {path.name: path for path in reversed(here)}
    guess = nearest(given.name, by_name) or nearest(given.stem, by_name)
    places = " or ".join(str(path) for path in candidates)
    if given.is_dir():
        raise ConfigError(f"{given} is a folder; expected a pipeline file (.yaml)")
    if guess is not None:
        raise ConfigError(f"no file {places}; did you mean {by_name[guess]}?")
    known = ", ".join(str(path) for path in here[:20]) or "none"
    raise ConfigError(f"no file {places}; pipelines found here: {known}")


class _Representer(SafeRepresenter):
    """Writes plain words bare and every other text in double quotes.

    Left to itself ruamel writes text such as `?x` bare inside of `{}` and lets U+0085 stand, and
    neither reads back.
    """

    def represent_text(self, text: str) -> ScalarNode:
        """A text as a scalar node."""
        style = None if _PLAIN_WORD.fullmatch(text) and scalar_value(text) == text else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _Representer.represent_text)


def _choice_first(value: Any) -> Any:
    """The same values with `use` leading each mapping that has it, as people write it."""
    if isinstance(value, list):
        return [_choice_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: key != CHOICE_KEY)
    return {key: _choice_first(value[key]) for key in keys}


def _pipelines_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS and path.is_file())


def resolved_yaml(config: BaseModel) -> str:
    """All settings, defaults written out, as YAML that loads to an equal config.

    Paths are absolute, so the text may lie in any folder.
    """
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    # Lists of numbers stay in one line; a long text is not folded.
    writer.default_flow_style = None
    writer.width = 1 << 20
    writer.representer.sort_base_mapping_type_on_output = False
    stream = io.StringIO()
    writer.dump(_choice_first(config.model_dump(mode="json")), stream)
    return "# All settings of the run; running this file gives the same run.\n" + stream.getvalue()
