"""Settings of a data source -> cases."""

from __future__ import annotations

from pathlib import Path

from medseg.data.manifest import Case, read_manifest
from medseg.data.options import FolderSource, ManifestSource, PhantomSource, SourceOptions
from medseg.errors import ManifestError, StorageError
from medseg.io.discover import discover
from medseg.io.select import choose_per_study


def find_cases(source: SourceOptions, *, made_folder: Path) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The cases of a source, and one sentence for each file that was left out.

    Parameters
    ----------
    source : SourceOptions
    made_folder : Path
        Where synthetic studies are written.
    """
    if isinstance(source, PhantomSource):
        return read_manifest(make_phantoms(source, made_folder)), ()
    if isinstance(source, ManifestSource):
        if source.root is not None and not source.root.is_dir():
            raise StorageError(
                f"data.source.root: there is no folder {source.root}; get the files that {source.path.name} names "
                f"(a card beside it may say where: {source.path.with_suffix('.md').name}) or correct the path"
            )
        # Missing files are found by `check`, case by case, so that one of them does not stop the others.
        return read_manifest(source.path, root=source.root, check_files=False), ()
    return _folder_cases(source)


def make_phantoms(source: PhantomSource, folder: Path) -> Path:
    """Write the synthetic studies, unless they are there already; the path of their manifest."""
    from medseg.data.phantoms import write_chest_studies

    home = folder / f"{source.recipe}-{source.cases}-{source.seed}"
    manifest = home / "manifest.csv"
    # The manifest is written last: where it is, all studies are.
    return manifest if manifest.exists() else write_chest_studies(home, cases=source.cases, seed=source.seed)


def _folder_cases(source: FolderSource) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    if not source.images.is_dir():
        raise StorageError(f"data.source.images: {source.images} is no folder; correct the path")
    found = discover([source.images])
    if not found.images:
        raise ManifestError(
            f"data.source.images: no image in {source.images} ({len(found.skipped)} other files); correct the path"
        )
    images = [image for image in found.images if image.volume is None]
    images += choose_per_study(found.images, source.select)
    cases = tuple(
        Case(
            case_id=image.case_id,
            patient_id=image.patient_id,
            images=image.paths,
            label=_mask(source, image.case_id),
            scheme=source.scheme,
        )
        for image in images
    )
    return cases, tuple(f"{skipped.path.name}: {skipped.reason}" for skipped in found.skipped)


def _mask(source: FolderSource, case_id: str) -> Path | None:
    if source.labels is None:
        return None
    path = source.labels / source.pattern.replace("{case_id}", case_id)
    return path if path.exists() else None
