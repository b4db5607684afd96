"""Which images a cohort has: what the inputs hold, less earlier results and volumes that are not meant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ConfigError, InputError, StorageError
from medseg.io.discover import Discovery, Found, discover
from medseg.io.read import read_image, read_volume
from medseg.io.select import choose_one, fits
from medseg.io.series import describe_volume
from medseg.io.series_rule import SeriesRule
from medseg.io.walk import Skipped
from medseg.models.bundle import Bundle
from medseg.privacy import safe_name
from medseg.volume import Volume

RADIOGRAPHS = frozenset({"CR", "DX", "SC", "RG", "IO", "OT", ""})
_REASONS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortCase:
    """One image to predict.

    Parameters
    ----------
    index : int
        Its place in the table, from 0.
    image : Found
    problem : str
        Why it cannot be predicted, found before it was read; "" where nothing speaks against it.
    """

    index: int
    image: Found
    problem: str = ""

    @property
    def case_id(self) -> str:
        """Unique in the cohort."""
        return self.image.case_id

    @property
    def folder(self) -> str:
        """Name of its folder in the output."""
        return safe_name(self.image.case_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortInputs:
    """The cases in the order of the table, and the files that are none."""

    cases: tuple[CohortCase, ...]
    skipped: tuple[Skipped, ...]


def find_cases(
    inputs: Sequence[Path], *, output: Path, bundle: Bundle, series: str | None = None
) -> CohortInputs:
    """The images in files and folders that a bundle is meant to segment.

    Parameters
    ----------
    inputs : sequence of Path
    output : Path
        What lies below it is no input, also where it lies inside of one.
    bundle : Bundle
    series : str or None
        Which DICOM volume, where a study holds several; "all" takes each.

    Raises
    ------
    StorageError
        An input does not exist.
    InputError
        There is no image; the message says why files were left out.
    ConfigError
        The only study holds several volumes, and nothing says which is meant. One study of many
        becomes a case with this problem.
    """
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise StorageError(f"{missing[0]} does not exist; correct the path")
    found = _without_results(discover(inputs), output)
    found, problems = _meant(found, bundle, series)
    if not found.images:
        raise InputError(_nothing(inputs, found.skipped))
    cases = tuple(
        CohortCase(index=index, image=image, problem=problems.get(image.case_id, ""))
        for index, image in enumerate(found.images)
    )
    return CohortInputs(cases=cases, skipped=found.skipped)


def read_case(case: CohortCase, bundle: Bundle) -> Volume:
    """The image of a case, checked as `read.read_image` does it.

    Raises
    ------
    ConfigError
        Its study does not say which volume is meant.
    InputError
        It cannot be read, or is of a kind that the bundle is not for.
    StorageError
        The disk or the permissions do not let it be read.
    """
    if case.problem:
        raise ConfigError(case.problem)
    image = case.image
    modality = RADIOGRAPHS if bundle.spatial_dims == 2 else None
    if image.volume is not None and len(image.volume.grid.shape) == 3:
        return read_volume(image.volume, modality=modality)
    # For a model of several channels the volumes of a file with four axes can be nothing else.
    several = bundle.in_channels > 1
    return read_image(image.paths, modality=modality, fourth_axis="channels" if several else "refuse")


def _without_results(found: Discovery, output: Path) -> Discovery:
    """Masks and overlays of an earlier run are no input."""
    home = output.resolve()
    images = [
        image for image in found.images if not any(home in path.resolve().parents for path in image.paths)
    ]
    skipped = [item for item in found.skipped if home not in item.path.resolve().parents]
    return replace(found, images=tuple(images), skipped=tuple(skipped))


def _meant(found: Discovery, bundle: Bundle, series: str | None) -> tuple[Discovery, dict[str, str]]:
    """The images that are cases, of each study the one volume that is meant; problems by case id."""
    volumes = [image for image in found.images if image.volume is not None]
    if not volumes or series == "all" or (bundle.spatial_dims == 2 and series is None):
        return found, {}
    rule = SeriesRule(series=series, min_slices=1 if series else 2)
    chosen, problems = _choose(volumes, rule)
    if series is not None and not chosen:
        choose_one(volumes, rule, where=volumes[0].paths[0].parent)
    kept = {image.case_id for image in chosen}
    images = tuple(image for image in found.images if image.volume is None or image.case_id in kept)
    left_out = [
        Skipped(path=image.paths[0], reason=f"not the volume that is meant: {describe_volume(image.volume)}")
        for image in volumes
        if image.case_id not in kept and image.volume is not None
    ]
    return replace(found, images=images, skipped=(*found.skipped, *left_out)), problems


def _choose(volumes: Sequence[Found], rule: SeriesRule) -> tuple[list[Found], dict[str, str]]:
    """The volume that is meant of each study; of a study that does not say, its first one with the problem."""
    studies: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for image in volumes:
        if fits(image, rule):
            studies[image.patient_id, image.study_instance_uid].append(image)
    chosen: list[Found] = []
    problems: dict[str, str] = {}
    for images in studies.values():
        try:
            chosen.append(choose_one(images, rule, where=images[0].paths[0].parent))
        except ConfigError as err:
            if len(studies) == 1:
                raise
            chosen.append(images[0])
            problems[images[0].case_id] = str(err)
    return chosen, problems


def _nothing(inputs: Sequence[Path], skipped: Sequence[Skipped]) -> str:
    what = ", ".join(str(path) for path in inputs)
    reasons = [f"{item.path.name}: {item.reason}" for item in skipped[:_REASONS_SHOWN]]
    why = f"; left out: {'; '.join(reasons)}" if reasons else ""
    return f"no image in {what}{why}"
