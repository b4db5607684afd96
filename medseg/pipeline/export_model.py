"""`medseg export-model`: a bundle for other programs, read back and compared before it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from medseg.errors import BundleError, ConfigError
from medseg.interop.export_folder import RECORD, export_folder
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline.result import Result
from medseg.provenance import sha256_file, versions, write_json
from medseg.transforms.options import PreprocessStep

if TYPE_CHECKING:
    from medseg.interop.compare import Comparison
    from medseg.models.network import SegmentationNetwork

KINDS = ("onnx", "monai")
_STEPS: TypeAdapter[tuple[PreprocessStep, ...]] = TypeAdapter(tuple[PreprocessStep, ...])
Shown = list[tuple[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What a user asks for.

    Parameters
    ----------
    to : str
        ``onnx`` or ``monai``.
    image : Path or None
        File or folder of an image to compare on, beside noise and structures.
    fold : int or None
        Of an ensemble the one network that never saw this fold.
    network_only : bool
        monai: leave the preparation of images out where MONAI lacks transforms like it.
    """

    to: str
    image: Path | None = None
    fold: int | None = None
    network_only: bool = False


def export_model(model: str, output: Path, request: ExportRequest) -> Result:
    """Write, read back, compare; the folder is there in the end, or as it was.

    Raises
    ------
    ConfigError
        Another kind of export.
    BundleError
        The bundle cannot be exported so, or the export differs from it.
    MissingPackageError
        The packages for ONNX are not installed.
    """
    if request.to not in KINDS:
        raise ConfigError(f"--to {request.to!r}: expected {' or '.join(KINDS)}")
    bundle = read_bundle(model)
    bundle = bundle if request.fold is None else bundle.member(request.fold)
    image = None if request.image is None else _prepared(bundle, request.image)
    with export_folder(output) as part:
        write = _onnx if request.to == "onnx" else _monai
        lines, compared = write(part, bundle, request, image)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        record = {
            "format": 1,
            "kind": request.to,
            "bundle": {
                "name": bundle.name,
                "version": bundle.version,
                "weights_sha256": bundle.weights_sha256,
            },
            "versions": versions(),
            "compared": compared,
            "report": list(lines),
            "files": {path.relative_to(part).as_posix(): sha256_file(path) for path in files},
        }
        write_json(part / RECORD, record)
    return Result(path=output, lines=tuple(lines), facts=record)


def _onnx(
    folder: Path, bundle: Bundle, request: ExportRequest, image: NDArray[np.float32] | None
) -> tuple[list[str], dict[str, Any]]:
    from medseg.interop.compare import compare
    from medseg.interop.onnx_model import OnnxNetwork, fitted_window, write_onnx

    lines, compared = [], {}
    for position in range(bundle.member_count):
        name = "model.onnx" if bundle.member_count == 1 else f"model-{position}.onnx"
        network = bundle.load_network(position)
        window = fitted_window(network, _window(bundle))
        shape = write_onnx(folder / name, network, window=window, metadata=_about(bundle, position))
        sizes = [window, _other(window, network)] if shape.free else [window]
        found = compare(
            network,
            OnnxNetwork(folder / name),
            _shown(network, sizes, image),
            what=f"{output_name(bundle)} as ONNX",
        )
        by_x = " x ".join(map(str, window))
        fixed = f"windows of {by_x} alone ({shape.why_fixed})"
        lines.append(
            f"{name}: {'sizes that are multiples of ' + ' x '.join(map(str, shape.stride)) if shape.free else fixed}"
        )
        lines.append(found.text)
        compared[name] = found.to_json()
    return lines, compared


def _monai(
    folder: Path, bundle: Bundle, request: ExportRequest, image: NDArray[np.float32] | None
) -> tuple[list[str], dict[str, Any]]:
    from medseg.interop.compare import compare
    from medseg.interop.monai_export import answer_of, read_back, write_monai_bundle
    from medseg.interop.onnx_model import fitted_window

    if bundle.member_count > 1:
        folds = ", ".join(str(member.fold) for member in bundle.members)
        raise BundleError(
            f"bundle {bundle.name} is an ensemble of {bundle.member_count}, a MONAI bundle holds one "
            "network; choose one "
            f"with --fold ({folds})"
        )
    network = bundle.load_network()
    written = write_monai_bundle(folder, bundle, network, network_only=request.network_only)
    shown = _shown(network, [fitted_window(network, _window(bundle))], image)
    found: Comparison = compare(
        network, answer_of(read_back(folder)), shown, what=f"{output_name(bundle)} as MONAI bundle"
    )
    return [*written.lines, found.text], {"models/model.pt": found.to_json()}


def output_name(bundle: Bundle) -> str:
    """A bundle in a message."""
    return f"bundle {bundle.name} {bundle.version}"


def _about(bundle: Bundle, position: int) -> dict[str, Any]:
    """What the ONNX file says of itself."""
    record = bundle.record
    about: dict[str, Any] = {
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "description": record.description,
            "intended_use": record.intended_use,
            "licence": record.licence,
            "weights_sha256": bundle.weights_sha256,
        },
        "labels": bundle.table.to_json(),
        "preprocess": list(bundle.preprocess),
        "statistics": dict(record.training.statistics),
        "inference": dict(bundle.inference),
        "postprocess": list(bundle.postprocess),
        "in_channels": bundle.in_channels,
    }
    if bundle.member_count > 1:
        about["ensemble"] = {"member": position, "members": bundle.member_count}
    return about


def _window(bundle: Bundle) -> tuple[int, ...] | None:
    """A size of images that the network is used with."""
    window = bundle.inference.get("window") or bundle.record.window
    sizes = [step.get("size") for step in bundle.preprocess if step.get("use") in ("resize", "pad", "crop")]
    size = next((size for size in reversed(sizes) if size is not None), None)
    found = window or size
    return None if found is None else tuple(int(n) for n in found)


def _other(window: tuple[int, ...], network: SegmentationNetwork) -> tuple[int, ...]:
    """Another size, smaller where that goes."""
    from medseg.interop.onnx_model import fitted_window

    smaller = fitted_window(network, tuple(max(1, n // 2) for n in window))
    if smaller != window:
        return smaller
    return tuple(n + stride for n, stride in zip(window, network.stride, strict=True))


def _shown(
    network: SegmentationNetwork, sizes: Sequence[tuple[int, ...]], image: NDArray[np.float32] | None
) -> Shown:
    from medseg.interop.compare import windows

    shown: Shown = []
    for size in sizes:
        shown += list(windows(size, channels=network.in_channels))
    if image is not None:
        shown.append(("the image", _middle(image, sizes[0])[None]))
    return shown


def _prepared(bundle: Bundle, path: Path) -> NDArray[np.float32]:
    """(C, *sp) image as the network sees it."""
    from medseg.io.discover import discover
    from medseg.io.read import read_image
    from medseg.transforms.preprocess import preprocess

    found = discover([path]).images
    if not found:
        raise ConfigError(f"--image {path}: there is no image")
    volume = read_image(found[0].paths)
    prepared = preprocess(
        volume,
        _STEPS.validate_python(bundle.preprocess),
        statistics=bundle.record.training.statistics or None,
    )
    return prepared.array


def _middle(image: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """The middle of an image, continued by its border where it is smaller."""
    if image.ndim != len(size) + 1:
        raise ConfigError(f"--image has {image.ndim - 1} axes, the model is for {len(size)}")
    missing = [max(0, n - have) for n, have in zip(size, image.shape[1:], strict=True)]
    image = np.pad(image, [(0, 0), *((0, n) for n in missing)], mode="edge")
    starts = [(have - n) // 2 for n, have in zip(size, image.shape[1:], strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(starts, size, strict=True))
    return np.ascontiguousarray(image[(slice(None), *box)])
