"""`medseg import-model`: a model that others trained becomes a bundle that `medseg predict` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medseg.config.document import scalar_value
from medseg.config.import_settings import ImportSettings, read_import_settings
from medseg.errors import BundleError, ConfigError, StorageError
from medseg.inference.options import InferenceOptions, PostprocessStep
from medseg.interop.monai_bundle import MonaiImport, import_monai_bundle, is_monai_bundle, read_monai_bundle
from medseg.interop.nnunet_plans import is_result_folder
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
        MONAI: file of the weights.
    folds : str or None
        nnU-Net: comma-separated folds, such as 0,1 or all; all complete ones unless given.
    checkpoint : str or None
        nnU-Net: file in the folder of a fold.
    trainer : str or None
        nnU-Net: a trainer class of the user's own that builds the network of the plans.
    mirroring : bool
        nnU-Net: whether mirrored images are predicted, too, where it was trained so.
    """

    settings: Path | None = None
    values: Sequence[str] = ()
    name: str | None = None
    licence: str | None = None
    weights: Path | None = None
    folds: str | None = None
    checkpoint: str | None = None
    trainer: str | None = None
    mirroring: bool = True

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what differs from the defaults."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """One kind of folder that can be imported.

    Parameters
    ----------
    kind : str
        For people.
    options : frozenset of str
        Parts of a request that mean something for it.
    recognises : callable (Path) -> bool
    read : callable (Path, Path, ImportRequest) -> (Bundle, lines)
        Source folder, folder of the bundle, request.
    """

    kind: str
    options: frozenset[str]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Path, ImportRequest], tuple[Bundle, tuple[str, ...]]]


def import_model(source: Path, output: Path, request: ImportRequest) -> Result:
    """Recognise a folder, write the bundle, and tell what became of each part.

    Raises
    ------
    BundleError
        The folder is of no known kind, or cannot be followed; the message says where and what to do.
    ConfigError
        An option that says nothing about a folder of this kind.
    StorageError
        `source` is missing, or `output` holds something else.
    """
    if not source.is_dir():
        raise StorageError(f"{source} is not a folder; give the folder of the model")
    importer = next((one for one in IMPORTERS if one.recognises(source)), None)
    if importer is None:
        kinds = ", ".join(one.kind for one in IMPORTERS)
        raise BundleError(f"{source} is none of the folders that medseg can import: {kinds}")
    _check_options(importer, request)
    bundle, lines = importer.read(source, output, request)
    said = (
        f"{importer.kind}: {bundle.network.use}, {bundle.spatial_dims}-D, {', '.join(bundle.table.names[1:])}"
    )
    return Result(
        path=output,
        lines=(said, *lines),
        facts={"kind": importer.kind, "bundle": bundle.describe(), "report": list(lines)},
    )


def _check_options(importer: Importer, request: ImportRequest) -> None:
    names = {"values": "--set", "folds": "--folds", "mirroring": "--no-mirroring"}
    for name in request.given:
        if name not in importer.options:
            raise ConfigError(
                f"{names.get(name, f'--{name}')} says nothing about a {importer.kind}; leave it out, or check the "
                "folder"
            )


def _nnunet(source: Path, output: Path, request: ImportRequest) -> tuple[Bundle, tuple[str, ...]]:
    from medseg.interop.nnunet import CHECKPOINT, ImportOptions, import_nnunet

    options = ImportOptions(
        folds=tuple(part.strip() for part in (request.folds or "").split(",") if part.strip()),
        checkpoint=request.checkpoint or CHECKPOINT,
        trainer=request.trainer,
        mirroring=request.mirroring,
        name=request.name,
        licence=request.licence,
    )
    bundle = import_nnunet(source, output, options)
    return bundle, (f"{bundle.member_count} network(s), windows of {_size(bundle)} voxels",)


def _size(bundle: Bundle) -> str:
    window = bundle.inference.get("window")
    return " x ".join(str(n) for n in window) if window else "any"


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


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        kind="result folder of nnU-Net v2",
        options=frozenset({"folds", "checkpoint", "trainer", "mirroring", "name", "licence"}),
        recognises=is_result_folder,
        read=_nnunet,
    ),
    Importer(
        kind="MONAI bundle",
        options=frozenset({"settings", "values", "name", "licence", "weights"}),
        recognises=is_monai_bundle,
        read=_monai,
    ),
)
"""Kinds of folders, asked in this order."""
