"""One image and one network, as a bundle of medseg and as a result folder of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bench.inference import InferenceBench, mean_dice, network_folder
from medseg.bench.inference_tasks import network_of
from medseg.bench.io_tasks import segment_table
from medseg.interop.nnunet import CHECKPOINT, ImportOptions, import_nnunet

_CLASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What both tools are given.

    Parameters
    ----------
    image : Path
        NIfTI, named as nnU-Net wants it, alone in its folder.
    bundle, results : Path
        The network of medseg and of nnU-Net.
    """

    image: Path
    bundle: Path
    results: Path

    def compare(self, ours: Path, theirs: Path) -> dict[str, Any]:
        """Agreement of the masks that both wrote; empty where one is missing."""
        import nibabel as nib

        files = [*ours.rglob("segmentation.nii.gz"), *theirs.glob("*.nii.gz")]
        if len(files) != 2:
            return {}
        a, b = (np.asarray(nib.load(path).dataobj) for path in files)
        return {"equal": float((a == b).mean()), "dice": mean_dice(a, b)}


def prepare_case(bench: InferenceBench, root: Path) -> Case:
    """Write the image, nnU-Net's folder (with --nnunet-python its weights, too) and the bundle."""
    import nibabel as nib

    shape = bench.sizes.case
    window = tuple(-(-n // 8) * 8 for n in shape)
    results = network_folder(root, "case", patch=window, classes=_CLASSES)
    bench.peer("make", folder=str(results))
    image = root / "case-image" / "case_0000.nii.gz"
    image.parent.mkdir()
    values = np.random.default_rng(0).normal(100, 20, shape[::-1]).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), image)
    bundle = root / "case-bundle"
    if (results / "fold_0" / CHECKPOINT).exists():
        import_nnunet(results, bundle, ImportOptions(mirroring=False))
    else:
        _write_random(bundle, results, window)
    return Case(image=image, bundle=bundle, results=results)


def _write_random(folder: Path, results: Path, window: Sequence[int]) -> None:
    """A bundle of the same network with weights of its own, where there is no nnU-Net to be compared with."""
    from medseg.models.bundle_record import BundleAbout, TrainingRecord
    from medseg.models.bundle_writer import write_bundle

    write_bundle(
        folder,
        about=BundleAbout(
            name="bench",
            version="1.0.0",
            description="A network with random weights.",
            licence="CC0-1.0",
            intended_use="Measuring; its masks mean nothing.",
        ),
        network=network_of(results),
        table=segment_table(_CLASSES - 1),
        preprocess=[{"use": "standardise", "method": "zscore"}],
        training=TrainingRecord(data="none", cases=0, epochs=0, seconds=0.0, settings_sha256="0" * 64),
        inference={"window": list(window)[::-1], "overlap": 0.5},
        window=tuple(window)[::-1],
    )


def nnunet_program(python: Path, case: Case, out: Path) -> list[Any]:
    """nnU-Net's own command for a result folder, without mirroring, one process for reading and one for writing."""
    entry = (
        "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as run; run()"
    )
    options = (
        "-f",
        "0",
        "--disable_tta",
        "-device",
        "cpu",
        "-npp",
        "1",
        "-nps",
        "1",
        "--disable_progress_bar",
    )
    return [python, "-c", entry, "-i", case.image.parent, "-o", out, "-m", case.results, *options]
