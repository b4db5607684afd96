"""What a rule runs: its model with all settings that a result depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.config.load import load_run_config
from medseg.errors import ConfigError, MedsegError
from medseg.export.options import ExportName
from medseg.inference.options import EngineSetting
from medseg.node.rule_options import RuleOptions
from medseg.pipeline.model_source import read_model
from medseg.provenance import sha256_json


@dataclass(frozen=True, slots=True, kw_only=True)
class JobModel:
    """Settings of the jobs of a rule, as plain values.

    Parameters
    ----------
    model : str
        Name of a shipped model, or absolute path of a bundle.
    exports : tuple of ExportName
    engine : EngineSetting
    recognise : dict or None
        `RecogniseOptions` as JSON.
    digest : str
        SHA-256 of all that a result depends on besides its input.
    """

    model: str
    exports: tuple[ExportName, ...]
    engine: EngineSetting
    recognise: dict[str, Any] | None
    digest: str

    def to_json(self) -> dict[str, Any]:
        """For the worker process."""
        return asdict(self)


def job_model(rule: RuleOptions) -> JobModel:
    """What a rule runs.

    Raises
    ------
    ConfigError
        There is no such model or pipeline, its weights are damaged, or the pipeline trains its model first.
    """
    field = f"rule {rule.name}"
    exports, engine, recognise = rule.exports, rule.engine, None
    name = rule.model or ""
    if rule.pipeline is not None:
        config = load_run_config(rule.pipeline).config
        name = str(getattr(config.model, "start_from", None) or "")
        if config.training is not None or not name:
            raise ConfigError(
                f"{field}: {rule.pipeline} trains its model; run it once, and name the bundle in its run folder by "
                "`model:`"
            )
        exports, engine = config.export, config.predict.engine
        recognise = None if config.recognise is None else config.recognise.model_dump(mode="json")
    try:
        bundle = read_model(name)
        bundle.check_weights()
    except MedsegError as err:
        raise ConfigError(f"{field}: {err}") from err
    _check_exports(exports, field)
    digest = sha256_json(
        {
            "medseg": __version__,
            "weights": bundle.weights_sha256,
            "record": bundle.record.to_json() | {"metrics": []},
            "exports": sorted(exports),
            "engine": engine,
            "recognise": recognise,
        }
    )
    model = str(Path(name).resolve()) if Path(name).exists() else name
    return JobModel(model=model, exports=tuple(exports), engine=engine, recognise=recognise, digest=digest)


def _check_exports(exports: tuple[ExportName, ...], field: str) -> None:
    if "measurement_sr" in exports and not {"dicom_seg", "dicom_seg_labelmap"} & set(exports):
        raise ConfigError(
            f"{field}: measurement_sr refers to the segments of a SEG; add dicom_seg to `exports`"
        )
