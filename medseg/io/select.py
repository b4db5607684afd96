"""Which of the volumes that a folder holds is meant: rules of the YAML, `--series`, or a refusal to guess."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ConfigError
from medseg.io.discover import Found
from medseg.io.series import SeriesVolume, describe_volume
from medseg.io.series_rule import SeriesRule

_SHOWN = 20


def choose_one(found: Sequence[Found], rule: SeriesRule, *, where: Path) -> Found:
    """The one volume that fits the rule.

    Raises
    ------
    ConfigError
        None fits, or several; the message lists them and says how to choose.
    """
    chosen = _preferred([image for image in found if fits(image, rule)], rule)
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise ConfigError(f"{where}: no volume fits {_said(rule)}; there are:\n{_listing(found)}")
    raise ConfigError(
        f"{where}: {len(chosen)} volumes, and nothing says which is meant; choose with --series KEY or rules "
        f"under data.source.select:\n{_listing(chosen)}"
    )


def choose_per_study(found: Sequence[Found], rule: SeriesRule) -> tuple[Found, ...]:
    """The volume of each study that fits the rule; studies without one are left out.

    Raises
    ------
    ConfigError
        A study with several that fit; the message lists them.
    """
    studies: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for image in found:
        if fits(image, rule):
            studies[image.patient_id, image.study_instance_uid].append(image)
    return tuple(choose_one(images, rule, where=images[0].paths[0].parent) for images in studies.values())


def fits(image: Found, rule: SeriesRule) -> bool:
    """Whether a volume is among those meant."""
    volume = image.volume
    if volume is None:
        return False
    depth = volume.grid.shape[2] if len(volume.grid.shape) == 3 else 1
    spacing = volume.grid.spacing_mm[2] if volume.grid.spacing_mm and depth > 1 else None
    return (
        (rule.series is None or _named(volume, rule.series))
        and (rule.series is not None or rule.localizers or not volume.is_localizer)
        and (not rule.modality or volume.modality in rule.modality)
        and (rule.description is None or _matches(volume.description, rule.description))
        and depth >= rule.min_slices
        and (rule.max_spacing_mm is None or (spacing is not None and spacing <= rule.max_spacing_mm))
    )


def _named(volume: SeriesVolume, text: str) -> bool:
    return text in (volume.key, volume.series_number, volume.slices[0].series_instance_uid)


def _matches(description: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(description.casefold(), pattern.casefold())


def _preferred(chosen: list[Found], rule: SeriesRule) -> list[Found]:
    if len(chosen) < 2 or rule.prefer == "none":
        return chosen
    ranked = [(_rank(image.volume, rule.prefer), image) for image in chosen if image.volume is not None]
    best = min(rank for rank, _ in ranked)
    return [image for rank, image in ranked if rank == best]


def _rank(volume: SeriesVolume, prefer: str) -> float:
    depth = volume.grid.shape[2] if len(volume.grid.shape) == 3 else 1
    if prefer == "most_slices":
        return -float(depth)
    spacing = volume.grid.spacing_mm
    return spacing[2] if spacing is not None and depth > 1 else float("inf")


def _said(rule: SeriesRule) -> str:
    words = [f"{name} {value}" for name, value in rule.model_dump(exclude_defaults=True).items()]
    return "the rule " + ", ".join(words) if words else "(localizers are left out)"


def _listing(found: Sequence[Found]) -> str:
    lines = []
    for image in found[:_SHOWN]:
        if image.volume is not None:
            problem = f" (cannot be read: {image.volume.problems[0]})" if image.volume.problems else ""
            lines.append(f"  {describe_volume(image.volume)}{problem}")
    more = [f"  ... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n".join([*lines, *more])
