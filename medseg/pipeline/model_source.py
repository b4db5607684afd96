"""The bundle that a command is given: shipped, a folder of ours, or the result folder of nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.interop.nnunet_plans import DATASET, PLANS, is_result_folder
from medseg.models.bundle import RECORD, Bundle, read_bundle
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.provenance import sha256_json
from medseg.user_cache import cache_home


def read_model(name_or_path: str | Path, *, reporter: Reporter | None = None) -> Bundle:
    """A bundle by shipped name or path; a result folder of nnU-Net v2 is converted once and kept.

    Raises
    ------
    BundleError
        There is no such bundle, or it is damaged; a folder of nnU-Net that medseg cannot run.
    StorageError
        The folder for converted models cannot be written.
    """
    folder = Path(name_or_path)
    if not is_result_folder(folder) or (folder / RECORD).is_file():
        return read_bundle(name_or_path)
    kept = converted_folder(folder)
    if (kept / RECORD).is_file():
        return read_bundle(kept)
    (reporter or SilentReporter()).note(
        f"{folder.name} is a model of nnU-Net; converted once, kept in {kept}"
    )
    from medseg.interop.nnunet import import_nnunet

    kept.parent.mkdir(parents=True, exist_ok=True)
    return import_nnunet(folder, kept)


def converted_folder(folder: Path) -> Path:
    """Where the converted model of a result folder lies; another one once a file has changed."""
    files = sorted(path for path in folder.glob("fold_*/checkpoint_final.pth"))
    facts: list[Any] = [__version__, str(folder.resolve())]
    for path in (folder / PLANS, folder / DATASET, *files):
        stat = path.stat()
        facts.append([str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns])
    return cache_home() / "models" / f"nnunet-{sha256_json(facts)[:20]}"
