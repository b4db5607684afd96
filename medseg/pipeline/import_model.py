"""`medseg import-model`: a model that others trained becomes a bundle that `medseg predict` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medseg.config.document import scalar_value
from medseg.config.import_settings import ImportSettings, read_import_settings
from medseg.errors import BundleError, ConfigError, StorageError
from medseg.inference.options import InferenceOptions, PostprocessStep
from medseg.interop.monai_bundle import MonaiImport, import_monai_bundle, is_monai_bundle, read_monai_bundle
from medseg.models.bundle import Bundle
from medseg.pipeline.result import Result
from medseg.transforms.options import PreprocessStep

_STEPS: TypeAdapter[tuple[PreprocessStep, ...]] = TypeAdapter(tuple[PreprocessStep, ...])
_CLEANING: TypeAdapter[tuple[PostprocessStep, ...]] = TypeAdapter(tuple[PostprocessStep, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What a user asks for beside the folder.

    Parameters
    ----------
    settings : Path or None
        YAML with parts of the model in medseg's words (`ImportSettings`).
    values : sequence of str
        ``PLACE=VALUE``: values of the folder's configuration.
    name, licence : str or None
        Of the bundle.
    weights : Path or None
        File of the weights.
    """

    settings: Path | None = None
    values: Sequence[str] = ()
    name: str | None = None
    licence: str | None = None
    weights: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """One kind of folder that can be imported.

    Parameters
    ----------
    kind : str
        For people.
    recognises : callable (Path) -> bool
    read : callable (Path, Path, ImportRequest) -> (Bundle, lines)
        Source folder, folder of the bundle, request.
    """

    kind: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Path, ImportRequest], tuple[Bundle, tuple[str, ...]]]


def import_model(source: Path, output: Path, request: ImportRequest) -> Result:
    """Recognise a folder, write the bundle, and tell what became of each part.

    Raises
    ------
    BundleError
        The folder is of no known kind, or cannot be followed; the message says where and what to do.
    StorageError
        `source` is missing, or `output` holds something else.
    """
    if not source.is_dir():
        raise StorageError(f"{source} is not a folder; give the folder of the model")
    importer = next((one for one in IMPORTERS if one.recognises(source)), None)
    if importer is None:
        kinds = ", ".join(one.kind for one in IMPORTERS)
        raise BundleError(f"{source} is none of the folders that medseg can import: {kinds}")
    bundle, lines = importer.read(source, output, request)
    said = (
        f"{importer.kind}: {bundle.network.use}, {bundle.spatial_dims}-D, {', '.join(bundle.table.names[1:])}"
    )
    return Result(
        path=output,
        lines=(said, *lines),
        facts={"kind": importer.kind, "bundle": bundle.describe(), "report": list(lines)},
    )


def _monai(source: Path, output: Path, request: ImportRequest) -> tuple[Bundle, tuple[str, ...]]:
    settings = ImportSettings() if request.settings is None else read_import_settings(request.settings)
    value = settings.model_dump(mode="json")
    decided = MonaiImport(
        values=_values(request.values),
        preprocess=value["preprocess"],
        postprocess=value["postprocess"],
        inference=value["inference"],
        table=settings.table(),
        name=request.name,
        licence=request.licence,
        weights=request.weights,
    )
    read = read_monai_bundle(source, decided)
    _check(read.preprocess, read.inference, read.postprocess, where=read.config.path)
    return import_monai_bundle(read, output), read.lines


def _check(preprocess: Any, inference: Any, postprocess: Any, *, where: Path) -> None:
    """Steps that were made of the folder's, by the rules of ours."""
    try:
        _STEPS.validate_python(preprocess)
        InferenceOptions.model_validate(inference)
        _CLEANING.validate_python(postprocess)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{where}: a step of it cannot be one of medseg ({place}: {first['msg']}); give it in a file of your own "
            "(--settings)"
        ) from err


def _values(texts: Sequence[str]) -> dict[str, Any]:
    """`network_def::out_channels=3` -> its place and value; the value is read as YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        place, sign, value = text.partition("=")
        if not sign or not place.strip():
            raise ConfigError(f"--set {text!r}: expected PLACE=VALUE, such as network_def::out_channels=3")
        found[place.strip()] = _value(value)
    return found


def _value(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if not text.lstrip().startswith(("[", "{")):
            return scalar_value(text)
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as err:
        raise ConfigError(f"--set: {text!r} is not a value in YAML") from err


IMPORTERS: tuple[Importer, ...] = (Importer(kind="MONAI bundle", recognises=is_monai_bundle, read=_monai),)
"""Kinds of folders, asked in this order."""
