"""What `medseg bench io` measures: readers and writers of medseg and of its peers, each as one call.

A task does its imports and makes its inputs when it is built; only its `run` is measured. Peers are
called the way that their documentation shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bench.measuring import Task
from medseg.errors import ConfigError
from medseg.labels import Code, Label, LabelTable


def build(name: str, arguments: dict[str, Any]) -> Task:
    """The task of a name, its imports done.

    Raises
    ------
    ImportError
        A peer that is not installed.
    """
    if name not in _TASKS:
        raise ConfigError(f"no task {name!r}; there are: {', '.join(_TASKS)}")
    task: Task = _TASKS[name](**{k: Path(v) if k in ("folder", "path") else v for k, v in arguments.items()})
    return task


def _total(array: NDArray[Any]) -> str:
    return f"{sorted(array.shape[-3:])} sum {int(array.sum(dtype=np.float64))}"


def _make(folder: Path, *, transfer_syntax: str, slices: int) -> Task:
    """The series to read: a noisy phantom of 12 bits, oblique."""
    from medseg.data.dicom_phantoms import asymmetric_phantom, write_series

    def run() -> None:
        voxels, _ = asymmetric_phantom((512, 512, slices))
        noise = np.random.default_rng(0)
        for k in range(slices):
            voxels[:, :, k] += np.rint(noise.normal(0, 12, voxels.shape[:2])).astype(np.int16)
        np.clip(voxels, -1024, 3071, out=voxels)
        write_series(folder, voxels, oblique_affine(), transfer_syntax=transfer_syntax, uid_root="bench io")

    return Task(run, lambda _: "")


def oblique_affine() -> NDArray[np.float64]:
    """0.8 x 0.8 x 1.25 mm, turned by 3, -2 and 4 degrees."""
    turn = np.eye(3)
    for axis, degrees in enumerate((3.0, -2.0, 4.0)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(np.radians(degrees))
        step[b, a] = np.sin(np.radians(degrees))
        step[a, b] = -step[b, a]
        turn = step @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.8, 0.8, 1.25])
    affine[:3, 3] = (-200.0, -190.0, -350.0)
    return affine


def _read_medseg(folder: Path) -> Task:
    from medseg.io.dicom_series import read_series

    def run() -> NDArray[Any]:
        return np.asarray(read_series(_volume_in(folder)).array)

    return Task(run, _total)


def _volume_in(folder: Path) -> Any:
    from medseg.io.discover import discover

    volume = discover([folder]).images[0].volume
    if volume is None:
        raise ConfigError(f"{folder}: no DICOM volume")
    return volume


def _read_medseg_checked(folder: Path) -> Task:
    from medseg.io.read import read_image

    return Task(lambda: read_image([folder]).array, _total)


def _read_simpleitk(folder: Path) -> Task:
    import SimpleITK as sitk

    def run() -> Any:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        return reader.Execute()

    return Task(run, lambda image: _total(sitk.GetArrayViewFromImage(image)))


def _read_pydicom(folder: Path) -> Task:
    from pydicom import dcmread

    def run() -> NDArray[Any]:
        slices = [dcmread(path) for path in folder.iterdir()]
        cosines = np.array(slices[0].ImageOrientationPatient, dtype=float)
        normal = np.cross(cosines[:3], cosines[3:])
        slices.sort(key=lambda s: float(np.array(s.ImagePositionPatient, dtype=float) @ normal))
        volume = np.stack([s.pixel_array for s in slices]).astype(np.int16)
        volume *= np.int16(slices[0].RescaleSlope)
        volume += np.int16(slices[0].RescaleIntercept)
        return volume

    return Task(run, _total)


def _read_highdicom(folder: Path) -> Task:
    import highdicom as hd
    from pydicom import dcmread

    def run() -> NDArray[Any]:
        volume = hd.get_volume_from_series([dcmread(path) for path in folder.iterdir()])
        return np.asarray(volume.array)

    return Task(run, _total)


def segment_table(count: int) -> LabelTable:
    """`count` structures with private codes."""
    labels = tuple(
        Label(
            name=f"structure {n}",
            value=n,
            colour=f"#{(n * 2654435761) % 0xFFFFFF:06x}",
            code=Code(scheme="99MEDSEG", value=f"S{n:03d}", meaning=f"Structure {n}"),
        )
        for n in range(1, count + 1)
    )
    return LabelTable(labels=labels)


def ellipsoids(shape: tuple[int, int, int], count: int, *, contiguous: str = "slices") -> NDArray[np.uint8]:
    """(I, J, K) label map of `count` ellipsoids, each in a cell of its own, a tenth of the volume in all."""
    label_map = np.zeros(shape, dtype=np.uint8, order="F" if contiguous == "slices" else "C")
    cells = int(np.ceil(count ** (1 / 3)))
    for n in range(count):
        cell = np.array(np.unravel_index(n, (cells,) * 3))
        bounds = [
            np.linspace(0, size, cells + 1).astype(int)[c : c + 2]
            for size, c in zip(shape, cell, strict=True)
        ]
        axes = np.ogrid[tuple(slice(low, high) for low, high in bounds)]
        inside = sum(
            ((at - (low + high - 1) / 2) / (0.325 * (high - low))) ** 2
            for at, (low, high) in zip(axes, bounds, strict=True)
        )
        label_map[tuple(slice(low, high) for low, high in bounds)][np.asarray(inside) < 1] = n + 1
    return label_map


def _write_medseg(folder: Path, path: Path, *, segments: int, contiguous: str = "slices") -> Task:
    from medseg.export.dicom_seg import write_dicom_seg

    grid = _volume_in(folder).grid
    table = segment_table(segments)
    label_map = ellipsoids(grid.shape, segments, contiguous=contiguous)

    def run() -> None:
        write_dicom_seg(
            path,
            label_map,
            grid,
            table,
            algorithm_name="bench",
            algorithm_version="1",
            weights_sha256="ab" * 32,
        )

    return Task(run, lambda _: str(path.stat().st_size))


def _write_highdicom(folder: Path, path: Path, *, segments: int) -> Task:
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept
    from pydicom import dcmread

    grid = _volume_in(folder).grid
    headers = [dcmread(p, stop_before_pixels=True) for p in grid.source.paths]
    frames = np.ascontiguousarray(ellipsoids(grid.shape, segments).T)

    def run() -> None:
        family = CodedConcept("123110", "DCM", "Artificial Intelligence")
        algorithm = hd.AlgorithmIdentificationSequence(name="bench", version="1", family=family)
        descriptions = [
            hd.seg.SegmentDescription(
                segment_number=n,
                segment_label=label.name,
                segmented_property_category=CodedConcept("123037004", "SCT", "Anatomical Structure"),
                segmented_property_type=CodedConcept(label.code.value, label.code.scheme, label.code.meaning),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for n, label in enumerate(segment_table(segments).labels, start=1)
            if label.code is not None
        ]
        segmentation = hd.seg.Segmentation(
            headers, frames, "BINARY", descriptions, hd.UID(), 901, hd.UID(), 1, "medseg", "bench", "1", "1",
            omit_empty_frames=True,
        )  # fmt: skip
        segmentation.save_as(path)

    return Task(run, lambda _: str(path.stat().st_size))


def _read_seg_medseg(path: Path, folder: Path) -> Task:
    from medseg.io.dicom_seg import read_dicom_seg

    return Task(lambda: read_dicom_seg(path).label_map(), lambda labels: _labelled(np.asarray(labels)))


def _read_seg_highdicom(path: Path, folder: Path) -> Task:
    import highdicom as hd

    def run() -> NDArray[Any]:
        return np.asarray(hd.seg.segread(path).get_volume(combine_segments=True).array)

    return Task(run, _labelled)


def _labelled(label_map: NDArray[Any]) -> str:
    # A reader may leave out slices without a segment: only what is labelled counts.
    counts = np.bincount(label_map.ravel())[1:]
    return f"{counts.sum()} voxels in {np.count_nonzero(counts)} segments"


_TASKS: dict[str, Callable[..., Task]] = {
    "make": _make,
    "read medseg": _read_medseg,
    "read medseg, hashed": _read_medseg_checked,
    "read SimpleITK": _read_simpleitk,
    "read pydicom": _read_pydicom,
    "read highdicom": _read_highdicom,
    "write SEG medseg": _write_medseg,
    "write SEG highdicom": _write_highdicom,
    "read SEG medseg": _read_seg_medseg,
    "read SEG highdicom": _read_seg_highdicom,
}
