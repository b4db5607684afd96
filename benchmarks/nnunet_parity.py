"""Compare a model of nnU-Net v2 run by nnU-Net with the same model run by medseg.

    python benchmarks/nnunet_parity.py --nnunet-python VENV/bin/python FOLDER IMAGE...

FOLDER holds plans.json, dataset.json and the folds. Each IMAGE is a case; the files of several channels are joined by
commas. Printed for each case: the largest difference of the prepared images, of the networks' float32 logits on the
same windows, of the blended float16 logits, the share of equal voxels of the masks, and the seconds of both (image in
memory to mask; reading is not counted for medseg, it is for nnU-Net, where it takes little).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from medseg.inference.sliding_window import copies, unchanged, with_copies
from medseg.interop.nnunet import ImportOptions, import_nnunet
from medseg.io.read import read_image
from medseg.models.bundle import Bundle
from medseg.pipeline.model import LoadedModel
from medseg.volume import Volume

PEER = Path(__file__).with_name("nnunet_parity_peer.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far two predictions of one case are from each other.

    Parameters
    ----------
    case : str
    prepared, windows, logits : float
        Largest difference of prepared images, of float32 logits by window, of blended logits.
    equal : float
        Share of equal voxels of the masks, 0..1.
    unequal : int
        Voxels that differ.
    equal_logits : float
        Share of blended logits that are the same float16 number.
    foreground : int
        Voxels of nnU-Net's mask that are not background.
    peer_s, our_s : float
        Seconds.
    """

    case: str
    prepared: float
    windows: float
    logits: float
    equal: float
    unequal: int
    equal_logits: float
    foreground: int
    peer_s: float
    our_s: float

    @property
    def line(self) -> str:
        """One line of the report."""
        return (
            f"{self.case:<28} {self.prepared:>9.1e} {self.windows:>9.1e} {self.logits:>9.1e} {self.equal_logits:>9.3%} "
            f"{self.equal:>10.5%} {self.unequal:>7} {self.foreground:>9} {self.peer_s:>8.2f} {self.our_s:>8.2f}"
        )


HEADER = (
    f"{'case':<28} {'prepared':>9} {'windows':>9} {'logits':>9} {'same':>9} {'equal':>10} {'unequal':>7} "
    f"{'labelled':>9} {'nnunet s':>8} {'medseg s':>8}"
)


def run_peer(python: str, jobs: Sequence[dict[str, Any]], *, threads: int = 1) -> None:
    """Have nnU-Net predict; its results are written where the jobs say."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.json"
        path.write_text(json.dumps(list(jobs)), encoding="utf-8")
        # It asks for these at import; nothing is read from or written to them.
        names = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folder)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | names
        environment |= {"OMP_NUM_THREADS": str(threads), "nnUNet_compile": "f"}
        done = subprocess.run(
            [python, str(PEER), str(path), str(threads)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"nnU-Net failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def read_case(files: Sequence[Path]) -> Volume:
    """An image from the files of its channels."""
    return read_image(files)


def compare(bundle: Bundle, files: Sequence[Path], peer: Path) -> Parity:
    """Predict a case with medseg and hold it against what nnU-Net found (`output` of its job)."""
    with np.load(peer) as arrays:
        found = dict(arrays)
    (written,) = (path for path in peer.parent.glob(f"{peer.stem}.*") if path != peer)
    # ITK gives the last axis first; a mask of one value is no image to medseg's own reader.
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(written))).T
    volume, model = read_case(files), LoadedModel(bundle)
    predictor = model.predictor
    predictor.predict(volume)
    begin = time.perf_counter()
    prediction = predictor.predict(volume)
    seconds = time.perf_counter() - begin
    image = prediction.prepared.image
    values = predictor.blended.whole(image).numpy()
    mask = model.table.decode(prediction.label_map)
    logits = found["logits"].astype(np.float32)
    values = values.reshape(logits.shape)
    return Parity(
        case=files[0].name.split(".")[0],
        prepared=float(
            np.abs(prediction.prepared.array.reshape(found["prepared"].shape) - found["prepared"]).max()
        ),
        windows=_windows(predictor, prediction.prepared.array, found),
        logits=float(np.abs(values - logits).max()),
        equal=float((mask == wanted).mean()),
        unequal=int((mask != wanted).sum()),
        equal_logits=float((values == logits).mean()),
        foreground=int((wanted > 0).sum()),
        peer_s=float(found["seconds"].sum()),
        our_s=seconds,
    )


def _windows(predictor: Any, array: NDArray[np.float32], found: dict[str, NDArray[Any]]) -> float:
    """Largest difference of the first network's logits, window by window."""
    window = predictor.options.window
    missing = [max(w - n, 0) for n, w in zip(array.shape[1:], window, strict=True)]
    padded = np.pad(array, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    options, most = predictor.options, 0.0
    versions = copies(len(window), lambda: (0.0, 1.0), tta=options.tta_names, flip_axes=options.flip_axes)
    with predictor.blended.ensemble.members.network(0) as network, torch.inference_mode():
        ask = with_copies(network, versions, activation=unchanged, side_axis=None)
        for start, wanted in zip(found["starts"], found["windows"], strict=True):
            corner = start[-len(window) :]
            box = tuple(slice(int(a), int(a) + w) for a, w in zip(corner, window, strict=True))
            answer = ask(torch.from_numpy(np.ascontiguousarray(padded[(slice(None), *box)]))[None])[0]
            most = max(most, float(np.abs(answer.numpy().reshape(wanted.shape) - wanted).max()))
    return most


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", nargs="+", help="One case each; channels joined by commas.")
    parser.add_argument("--nnunet-python", required=True, help="Python of an environment with nnunetv2.")
    parser.add_argument("--folds", help="Comma-separated; all complete ones unless given.")
    parser.add_argument("--trainer", help="A trainer class of one's own, taken for nnUNetTrainer.")
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folds = tuple(given.folds.split(",")) if given.folds else ()
    cases = [[Path(name) for name in image.split(",")] for image in given.images]
    with tempfile.TemporaryDirectory() as scratch:
        options = ImportOptions(folds=folds, trainer=given.trainer, mirroring=not given.no_mirroring)
        bundle = import_nnunet(given.folder, Path(scratch) / "bundle", options)
        jobs = [
            {
                "folder": str(given.folder),
                "images": [str(path) for path in files],
                "output": str(Path(scratch) / f"{number}.npz"),
                "folds": list(folds) or None,
                "mirroring": not given.no_mirroring,
                "trainer": given.trainer,
            }
            for number, files in enumerate(cases)
        ]
        run_peer(given.nnunet_python, jobs, threads=given.threads)
        print(HEADER)
        rows = []
        for files, job in zip(cases, jobs, strict=True):
            rows.append(compare(bundle, files, Path(str(job["output"]))))
            print(rows[-1].line, flush=True)
        unequal = sum(row.unequal for row in rows)
        print(
            f"{len(rows)} cases: {unequal} voxels differ, of {sum(row.foreground for row in rows)} labelled"
        )


if __name__ == "__main__":
    main()
