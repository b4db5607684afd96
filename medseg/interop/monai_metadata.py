"""configs/metadata.json and the inferer of a MONAI bundle: what it is, its classes, and how windows are laid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import BundleError
from medseg.interop.monai_config import CONFIGS, MonaiConfig, class_name, read_config
from medseg.labels import BACKGROUND, Label, LabelTable
from medseg.models.bundle_record import BundleAbout

METADATA = "metadata.json"
# Okabe and Ito, Color Universal Design, 2008.
_PALETTE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
_NO_LICENCE = "NOASSERTION"
_INTENDED = "Not stated by its authors; research use only."
_LEFT_RIGHT = (("left", "right"), ("_l", "_r"))


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """configs/metadata.json, empty where there is none."""
    path = folder / CONFIGS / METADATA
    return read_config(path).values if path.is_file() else {}


def label_table(metadata: Mapping[str, Any], *, class_count: int) -> LabelTable:
    """Classes by `channel_def` of the network's output.

    Raises
    ------
    BundleError
        There is no such table, it has another number of classes, or channel 0 is not the background.
    """
    outputs = _dig(metadata, "network_data_format", "outputs")
    first: Any = next(iter(outputs.values()), {}) if isinstance(outputs, Mapping) else {}
    given = first.get("channel_def") if isinstance(first, Mapping) else None
    where, ask = (
        f"{CONFIGS}/{METADATA}: channel_def",
        "name the classes in a file of your own (--settings, labels:)",
    )
    if not isinstance(given, Mapping) or sorted(given, key=_number) != [str(n) for n in range(class_count)]:
        raise BundleError(
            f"{where}: expected the names of {class_count} channels, 0 to {class_count - 1}, found {given!r}; {ask}"
        )
    names = [_name(str(given[str(index)]), index) for index in range(class_count)]
    if names[0] != BACKGROUND:
        raise BundleError(f"{where}: channel 0 is {names[0]}, medseg expects the background there; {ask}")
    if len(set(names)) != len(names):
        raise BundleError(f"{where}: two channels have one name among {', '.join(names)}; {ask}")
    return LabelTable(
        labels=tuple(
            Label(
                name=name,
                value=index,
                colour=_PALETTE[(index - 1) % len(_PALETTE)],
                side=_side(name, names),
                pair=_pair(name, names),
            )
            for index, name in enumerate(names[1:], start=1)
        )
    )


def about(metadata: Mapping[str, Any], *, name: str, licence: str | None) -> BundleAbout:
    """What a user must know of a bundle, in the words of its authors."""
    version = re.match(r"\d+\.\d+\.\d+", str(metadata.get("version", "")))
    thanks = [metadata.get("authors"), metadata.get("copyright"), metadata.get("data_source")]
    references = metadata.get("references")
    references = references if isinstance(references, list) else []
    return BundleAbout(
        name=name,
        version=version.group() if version else "0.0.0",
        description=str(
            metadata.get("description") or metadata.get("task") or "Imported from a MONAI bundle."
        ),
        licence=licence or str(metadata.get("license") or metadata.get("licence") or _NO_LICENCE),
        attribution=tuple(str(text) for text in (*thanks, *references) if text),
        intended_use=str(metadata.get("intended_use") or _INTENDED),
        limitations=("Imported from a MONAI bundle; not evaluated with medseg.",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How a bundle shows the image to its network.

    Parameters
    ----------
    inference : dict
        Inference options as JSON.
    pad : dict or None
        A step that fills small images up as MONAI does.
    lines : tuple of str
        For the report.
    """

    inference: dict[str, Any]
    pad: dict[str, Any] | None
    lines: tuple[str, ...]


def windows(config: MonaiConfig, *, spatial_dims: int) -> Windows:
    """Windows of the bundle's `inferer`.

    Raises
    ------
    BundleError
        An inferer that is not known, or one whose windows cannot be ours.
    """
    raw = config.values.get("inferer")
    name = class_name(raw)
    if not isinstance(raw, Mapping) or name not in ("SlidingWindowInferer", "SimpleInferer", "SliceInferer"):
        config.refuse(
            "inferer",
            f"expected SlidingWindowInferer, SimpleInferer or SliceInferer, found {name or raw!r}; "
            "give the windows under inference: in a file of your own (--settings)",
        )
    if name == "SimpleInferer":
        return Windows(
            inference={"window": None}, pad=None, lines=("SimpleInferer: the whole image at once",)
        )

    def take(key: str, default: Any) -> Any:
        return config.resolve(raw[key], f"inferer::{key}") if key in raw else default

    window = _window(config, take("roi_size", None), spatial_dims)
    overlap = _one(config, "overlap", take("overlap", 0.25))
    if _one(config, "sigma_scale", take("sigma_scale", 0.125)) != 0.125:
        config.refuse(
            "inferer::sigma_scale", "medseg weighs windows with a sigma of 0.125 of their edges alone"
        )
    blend = take("mode", "constant")
    if blend not in ("constant", "gaussian"):
        config.refuse("inferer::mode", f"expected constant or gaussian, found {blend!r}")
    inference = {
        "window": window,
        "overlap": overlap,
        "batch_size": take("sw_batch_size", 1),
        "blend": blend,
        "average": "logits",
        "restore": "probabilities",
    }
    lines = [
        f"{name}: windows of {' x '.join(map(str, window))} voxels, overlap {overlap:g}, {blend} weights"
    ]
    if name == "SliceInferer":
        lines.append("SliceInferer: MONAI runs the network over the slices of a volume, medseg over pictures")
    pad = None
    if (filling := take("padding_mode", "constant")) == "constant":
        pad = {"use": "pad", "size": window, "value": float(take("cval", 0.0))}
    else:
        lines.append(
            f"padding_mode {filling}: images smaller than a window are filled up with their least value here"
        )
    return Windows(inference=inference, pad=pad, lines=tuple(lines))


def _window(config: MonaiConfig, size: Any, dims: int) -> list[int]:
    row = size if isinstance(size, list) else [size] * dims
    if len(row) != dims or not all(isinstance(n, int) and n > 0 for n in row):
        config.refuse(
            "inferer::roi_size",
            f"expected {dims} whole numbers above 0, found {size!r}; "
            "give the windows under inference: in a file of your own (--settings)",
        )
    return row


def _one(config: MonaiConfig, key: str, value: Any) -> float:
    row = value if isinstance(value, list) else [value]
    if len(set(row)) != 1 or not isinstance(row[0], int | float):
        config.refuse(f"inferer::{key}", f"medseg has one number for all axes, found {value!r}")
    return float(row[0])


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(text: Any) -> int:
    return int(text) if str(text).isdigit() else 1 << 30


def _name(text: str, index: int) -> str:
    """A label name of theirs as one of ours: letters, digits, underscores."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    plain = plain if plain and plain[0].isalpha() else f"class_{plain or index}"
    return plain[:64].rstrip("_")


def _pair(name: str, names: list[str]) -> str | None:
    """The same structure on the other side, where its name tells."""
    for left, right in _LEFT_RIGHT:
        for one, other in ((left, right), (right, left)):
            mirrored = re.sub(rf"(^|_){one.strip('_')}($|_)", rf"\1{other.strip('_')}\2", name)
            if mirrored != name and mirrored in names:
                return mirrored
    return None


def _side(name: str, names: list[str]) -> Any:
    if _pair(name, names) is None:
        return "none"
    return "left" if re.search(r"(^|_)(left|l)($|_)", name) else "right"
