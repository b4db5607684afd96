"""Peak memory from a CT of 512 x 512 x 800 to the last byte of its DICOM SEG: medseg, MONAI and nnU-Net's export.

    python benchmarks/inference_memory.py [--classes 25 104] [--slices 800] [--max-ram 2GB] [--peer-limit 8GB]
        [--nnunet-python nnunet-env/bin/python] [--work FOLDER]

A DICOM series is made (ellipsoids of different gray, one for each class, with noise) and a bundle whose small U-Net
tells the grays apart; its first channel carries the image through and the others are random, so that it costs what a
network of its size does and its mask can be checked. Then each in a process of its own:

- `medseg predict SERIES --max-ram 2GB --format nifti,dicom-seg`, the whole program;
- MONAI: sliding_window_inference with the same network on the same prepared image, the logits of all classes brought
  back to the grid of the scan, argmax;
- nnU-Net: its export of the same logits.

Peers get an address space of --peer-limit, so that they fail by themselves and the machine does not swap; what they
asked for last is printed. MONAI's and nnU-Net's reading and preprocessing are not in their figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medseg.amounts import bytes_text, parse_bytes
from medseg.bench import nnunet_plans
from medseg.bench.children import PROJECT, Ended, run_program
from medseg.bench.io_tasks import segment_table

SPACING_MM = 3.0
WINDOW = (64, 64, 64)
OVERLAP = 0.25
GRAY_STEP = 10
CHANNELS = (8, 16, 32)
LONGEST_S = 3600.0


def make_series(folder: Path, classes: int, slices: int) -> None:
    """Write a CT with an ellipsoid of its own gray for each class, 0.8 x 0.8 x 1.25 mm, oblique."""
    from medseg.bench.io_tasks import ellipsoids, oblique_affine
    from medseg.data.dicom_phantoms import write_series

    grays = ellipsoids((512, 512, slices), classes).astype(np.int16)
    grays *= np.int16(GRAY_STEP)
    noise = np.random.default_rng(0)
    for k in range(slices):
        grays[:, :, k] += np.rint(noise.normal(0, 1, grays.shape[:2])).astype(np.int16)
    write_series(
        folder, grays, oblique_affine(), transfer_syntax="1.2.840.10008.1.2.1", uid_root="bench memory"
    )


def make_bundle(folder: Path, classes: int) -> None:
    """A U-Net of 8 to 32 channels whose classes are ranges of gray."""
    from medseg.models.bundle_record import BundleAbout, TrainingRecord
    from medseg.models.bundle_writer import write_bundle

    write_bundle(
        folder,
        about=BundleAbout(
            name="gray-ranges",
            version="1.0.0",
            description="Tells ranges of gray apart.",
            licence="CC0-1.0",
            intended_use="Measuring memory.",
        ),
        network=gray_network(classes),
        table=segment_table(classes),
        preprocess=[
            {"use": "orient", "to": "RAS"},
            {"use": "normalise", "method": "window", "low": 0, "high": GRAY_STEP * classes},
            {"use": "resample", "spacing_mm": [SPACING_MM] * 3},
        ],
        training=TrainingRecord(data="none", cases=0, epochs=0, seconds=0.0, settings_sha256="0" * 64),
        inference={"window": list(WINDOW), "overlap": OVERLAP, "batch_size": 1},
        postprocess=[{"use": "keep_largest"}],
        window=WINDOW,
    )


def gray_network(classes: int) -> Any:
    """The nearest of evenly spaced grays: (v - c)^2 is linear in v but for v^2, which all classes share."""
    import torch
    from torch import nn

    from medseg.models.options import UNetOptions
    from medseg.models.registry import build_network

    options = UNetOptions(channels=CHANNELS, convolutions=1, norm="batch")
    network = build_network(options, spatial_dims=3, in_channels=1, class_count=classes + 1, seed=0).eval()
    grays = torch.arange(classes + 1) / classes
    sharpness = 20.0 * classes**2
    with torch.no_grad():
        for stack in (network.encoder[0], network.decoder[0]):
            for layer in [module for module in stack.modules() if isinstance(module, nn.Conv3d)]:
                layer.weight[0] = 0
                layer.weight[0, 0, 1, 1, 1] = 1
        head = network.heads[0]
        head.weight.zero_()
        head.weight[:, 0, 0, 0, 0] = 2 * sharpness * grays
        head.bias.copy_(-sharpness * grays**2)
    return network


def prepare(series: Path, bundle: Path, out: Path) -> None:
    """Write the prepared image and the shape of the scan, for MONAI's loop."""
    from medseg.io.read import read_image
    from medseg.models.bundle import read_bundle
    from medseg.pipeline.model import LoadedModel
    from medseg.transforms.preprocess import preprocess

    volume = read_image([series])
    prepared = preprocess(volume, LoadedModel(read_bundle(str(bundle))).predictor.steps)
    np.savez(out, image=prepared.array, source=volume.spatial_shape)


def monai(image: Path, bundle: Path, logits_path: Path, threads: int) -> dict[str, Any]:
    """MONAI's loop, then all logits on the grid of the scan, then argmax; which of them was reached."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.transforms import Resize

    from medseg.models.bundle import read_bundle

    torch.set_num_threads(threads)
    network = read_bundle(str(bundle)).load_network()
    with np.load(image) as stored:
        prepared, source = torch.from_numpy(stored["image"]), tuple(int(n) for n in stored["source"])
    with torch.inference_mode():
        logits = sliding_window_inference(
            prepared[None], WINDOW, 1, network, overlap=OVERLAP, mode="gaussian"
        )[0]
        np.save(logits_path, logits.to(torch.float16).numpy())
        sys.stderr.write("windows done; bringing the logits of all classes to the grid of the scan\n")
        whole = Resize(source, mode="trilinear")(logits)
        labels = whole.argmax(0).to(torch.uint8)
    return {"labelled": int(torch.count_nonzero(labels))}


def check(mask: Path, classes: int, slices: int) -> float:
    """Mean Dice of a mask with the ellipsoids, as a test that something was segmented at all."""
    import nibabel as nib

    from medseg.bench.io_tasks import ellipsoids

    truth = ellipsoids((512, 512, slices), classes)
    found = np.asarray(nib.load(mask).dataobj)
    both = np.bincount(truth[truth == found], minlength=classes + 1)[1:]
    sizes = np.bincount(truth.ravel(order="K"), minlength=classes + 1)[1:]
    sizes = sizes + np.bincount(found.ravel(order="K"), minlength=classes + 1)[1 : classes + 1]
    return float(np.mean(2 * both / sizes))


def measure(classes: int, args: argparse.Namespace, work: Path) -> list[str]:
    """Run all tools with one number of classes; a line for each."""
    series, bundle, image = work / f"series{classes}", work / f"bundle{classes}", work / f"image{classes}.npz"
    ask = [sys.executable, Path(__file__).resolve()]
    for task, made in (("series", series), ("bundle", bundle), ("prepared", image)):
        arguments = {"folder": str(made), "classes": classes, "slices": args.slices}
        if task == "prepared":
            arguments = {"series": str(series), "bundle": str(bundle), "out": str(image)}
        required(run(args, [*ask, "--task", task, "--arguments", json.dumps(arguments)]))
    lines = [medseg(classes, args, series, bundle, work)]
    logits = work / f"logits{classes}.npy"
    given = {"image": str(image), "bundle": str(bundle), "logits_path": str(logits), "threads": args.threads}
    ended = run(args, [*ask, "--task", "monai", "--arguments", json.dumps(given)], limited=True)
    lines.append(line("MONAI: windows, logits to the scan, argmax", ended))
    if args.nnunet_python and logits.exists():
        lines.append(line("nnU-Net: export of the same logits", nnunet(classes, args, logits, image, work)))
    for path in (image, logits):
        path.unlink(missing_ok=True)
    return lines


def medseg(classes: int, args: argparse.Namespace, series: Path, bundle: Path, work: Path) -> str:
    """The whole program."""
    out = work / f"out{classes}"
    command = [
        sys.executable,
        "-m",
        "medseg",
        "predict",
        series,
        "--model",
        bundle,
        "--output",
        out,
        "--quiet",
    ]
    options = ["--format", "nifti,dicom-seg", "--max-ram", args.max_ram, "--threads", str(args.threads)]
    ended = run(args, [*command, *options])
    said = ""
    masks = list(out.rglob("segmentation.nii.gz"))
    if masks:
        seg = next(iter(out.rglob("segmentation.dcm")), None)
        dice = check(masks[0], classes, args.slices)
        size = "no SEG" if seg is None else f"SEG of {seg.stat().st_size / 1e6:.0f} MB"
        said = f"{size}, Dice {dice:.3f}"
    reached = "held" if not ended.failed and ended.peak_mb * 1e6 <= parse_bytes(args.max_ram) else "NOT HELD"
    return line(f"medseg predict --max-ram {args.max_ram}", ended) + f"  {reached}; {said}"


def nnunet(classes: int, args: argparse.Namespace, logits: Path, image: Path, work: Path) -> Ended:
    """nnU-Net's export, by its Python."""
    folder = work / f"plans{classes}"
    folder.mkdir(exist_ok=True)
    plans = nnunet_plans.plans(patch=WINDOW, features=(8, 16), spacing_mm=(SPACING_MM,) * 3)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(nnunet_plans.dataset(classes + 1)))
    with np.load(image) as stored:
        shape = [int(n) for n in stored["source"]]
        spacing = [SPACING_MM * n / m for n, m in zip(stored["image"].shape[1:], shape, strict=True)]
    given = {
        "folder": str(folder),
        "logits": str(logits),
        "out": str(work / "nnunet.npy"),
        "shape": shape,
        "spacing_mm": spacing,
        "threads": args.threads,
    }
    command = [args.nnunet_python, "-m", "medseg.bench.nnunet_peer", "labels", json.dumps(given)]
    return run(args, command, limited=True)


def run(args: argparse.Namespace, command: list[Any], *, limited: bool = False) -> Ended:
    """A child with as many threads as asked for and, where it is a peer, a limit."""
    threads = str(args.threads)
    return run_program(
        command,
        longest_s=LONGEST_S,
        environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": str(PROJECT)},
        limit_bytes=parse_bytes(args.peer_limit) if limited else None,
    )


def required(ended: Ended) -> None:
    """Stop where an input could not be made."""
    if ended.failed:
        raise SystemExit(f"the input could not be made: {ended.failed}")


def line(name: str, ended: Ended) -> str:
    """One row of the table."""
    how = f"died after {ended.seconds:.0f} s: {ended.failed}" if ended.failed else f"{ended.seconds:.0f} s"
    return f"  {name:<46} peak {bytes_text(ended.peak_mb * 1e6):>8}  {how}"


TASKS = {"series": make_series, "prepared": prepare, "monai": monai}


def task(name: str, arguments: dict[str, Any]) -> None:
    """One of the steps, in this process."""
    if name == "bundle":
        make_bundle(Path(arguments["folder"]), arguments["classes"])
        return
    named = {key: Path(value) if isinstance(value, str) else value for key, value in arguments.items()}
    print(json.dumps(TASKS[name](**named)))


def main() -> None:
    """Measure, and print the table as it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[25, 104])
    parser.add_argument("--slices", type=int, default=800)
    parser.add_argument("--max-ram", default="2GB")
    parser.add_argument("--peer-limit", default="8GB")
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, help="Where files go; a temporary folder unless given.")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task(args.task, args.arguments)
        return
    with tempfile.TemporaryDirectory(dir=args.work, prefix="medseg-memory-") as folder:
        print(f"512 x 512 x {args.slices}, prepared at {SPACING_MM:g} mm, {args.threads} threads")
        for classes in args.classes:
            print(f"{classes} classes and background")
            for row in measure(classes, args, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
