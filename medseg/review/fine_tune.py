"""A pipeline that trains on from the model of the results, on a new version of the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from medseg.config.load import load_run_config, resolved_yaml
from medseg.config.schema import PipelineConfig
from medseg.data.manifest import Case
from medseg.data.options import FoldSplit
from medseg.errors import BundleError, ConfigError
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline.plan import RESOLVED_FILE
from medseg.review.results import Results

RATE_SHARE = 0.1
"""Learning rate of a fine-tuning as a share of the training's."""
_EPOCHS, _RATE = 20, 1e-4


def fine_tune_settings(
    results: Results, manifest: Path, rows: list[Case], *, model: str | None
) -> tuple[PipelineConfig | None, str]:
    """Settings that fine-tune, or None and why there are none.

    Of a run they are its own, with the new manifest, a tenth of the learning rate, its own bundle to start from, and
    the split that the bundle was trained with. Of predictions they are made from the bundle.

    Parameters
    ----------
    results : Results
    manifest : Path
        Of the new version.
    rows : list of Case
        Its cases.
    model : str or None
        Name or folder of the bundle; a shipped one is found by the name in the results.
    """
    try:
        if results.config is not None and results.config.training is not None and model is None:
            return _of_run(results, manifest), ""
        bundle = read_bundle(model or results.model["name"])
        if bundle.weights_sha256 != results.model["weights_sha256"]:
            return None, f"bundle {bundle.name} is not the one that made these masks; name that with --model"
        return _of_bundle(bundle, results, manifest, rows), ""
    except BundleError:
        return (
            None,
            f"the bundle {results.model['name']} is not here; name its folder with --model to get settings",
        )
    except (ConfigError, ValidationError) as err:
        return None, f"no settings for fine-tuning could be made: {str(err).splitlines()[0]}"


def fine_tune_text(config: PipelineConfig) -> str:
    """The settings as YAML."""
    lines = resolved_yaml(config).splitlines(keepends=True)
    return "# Fine-tuning on corrected masks; medseg run this file. Change what you like.\n" + "".join(
        lines[1:]
    )


def fine_tune_overrides(results: Results, manifest: Path) -> list[str]:
    """What is changed in a run's own settings, as after `--set`."""
    config = results.config
    if config is None or config.training is None:
        return []
    rate = config.training.learning_rate
    return [
        f"data.source={{use: manifest, path: {_quoted(manifest.resolve())}}}",
        f"data.split={_split(results)}",
        f"model.start_from={_quoted((results.path / 'model').resolve())}",
        *([f"training.learning_rate={rate * RATE_SHARE:.6g}"] if isinstance(rate, float) else []),
    ]


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _split(results: Results) -> str:
    """The split of the run, as the column of the new manifest says it.

    Of an ensemble the weights of its first member are taken, which never saw the patients of one fold: only that
    fold can test what is trained from it.
    """
    config = results.config
    split = None if config is None else config.data.split
    if not isinstance(split, FoldSplit) or split.fold != "all":
        return "{use: manifest}"
    bundle = read_bundle(results.path / "model")
    fold = bundle.members[0].fold if bundle.members else 0
    return f"{{use: folds, count: {split.count}, fold: {fold}, validation: {split.validation}}}"


def _of_run(results: Results, manifest: Path) -> PipelineConfig:
    resolved = results.path / RESOLVED_FILE
    path = resolved if resolved.is_file() else results.path / "pipeline.yaml"
    return load_run_config(path, overrides=fine_tune_overrides(results, manifest)).config


def _of_bundle(bundle: Bundle, results: Results, manifest: Path, rows: list[Case]) -> PipelineConfig:
    record = bundle.record
    labels = {
        label["name"]: {
            "value": label["value"],
            "side": label["side"],
            "pair": label["pair"],
            "color": label["colour"],
            "code": label["code"],
        }
        for label in bundle.table.to_json()["labels"]
    }
    settings: dict[str, Any] = {
        "medseg": 1,
        "name": f"{bundle.name}-corrected"[:64],
        "data": {"source": {"use": "manifest", "path": str(manifest.resolve())}, "split": _dealt(rows)},
        "labels": labels,
        "regions": {name: list(members) for name, members in bundle.table.regions.items()},
        "preprocess": list(record.preprocess),
        "model": {**record.network.model_dump(mode="json"), "start_from": str(bundle.folder.resolve())},
        "training": {
            "epochs": _EPOCHS,
            "learning_rate": _RATE,
            "batch_size": _batch(record.spatial_dims),
            "keep": "last",
        }
        | _patch(record.window),
        "inference": dict(record.inference),
        "postprocess": list(record.postprocess),
    }
    return PipelineConfig.model_validate(settings)


def _batch(dims: Literal[2, 3]) -> int:
    return 4 if dims == 2 else 2


def _patch(window: tuple[int, ...] | None) -> dict[str, object]:
    return {} if window is None else {"patch_size": list(window)}


def _dealt(rows: list[Case]) -> dict[str, Any]:
    """The split as the list says it; without one, patients are dealt anew."""
    if rows and all(row.split is not None for row in rows):
        return {"use": "manifest"}
    folds = {row.fold for row in rows}
    if rows and None not in folds:
        return {"use": "folds", "count": max(2, len(folds)), "fold": 0, "validation": "none"}
    return {"use": "holdout"}
