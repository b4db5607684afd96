"""Objects of every kind on sources of every kind, for the validators: what they are, and how they are judged.

The validators are programs of half a second of imports each; here they run as modules in worker
processes, unchanged, so that hundreds of objects are judged in minutes.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import nibabel as nib
import numpy as np
from geometry_battery import rotation
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileDataset
from second_opinion import seg_by_planes
from toolchain import MEDSEG, LabelMap, write_seg_of_kind, write_volume_sr

from medseg.data.dicom_phantom_headers import file_meta, phantom_uid, plain
from medseg.data.dicom_phantoms import write_series
from medseg.labels import Code, Label, LabelTable


@dataclass(frozen=True)
class SourceSpec:
    """Images to segment: a made-up series, or a radiograph where `modality` is CR or DX."""

    name: str
    shape: tuple[int, int, int]
    modality: str = "CT"
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spacing_mm: tuple[float, float, float] = (0.7, 0.9, 2.5)
    lean: float = 0.0
    mirrored: bool = False
    multiframe: Literal["no", "enhanced", "legacy"] = "no"
    transfer_syntax: str = uid.ExplicitVRLittleEndian

    @property
    def is_projection(self) -> bool:
        """Whether it has no place in the patient."""
        return self.modality in ("CR", "DX")

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to RAS+ mm."""
        affine = np.eye(4)
        if self.is_projection:
            return affine
        turn = rotation(self.turn) @ np.diag([-1.0, -1.0, -1.0 if self.mirrored else 1.0])
        affine[:3, :3] = turn @ np.diag(self.spacing_mm)
        affine[:3, 2] += self.lean * affine[:3, 1]
        affine[:3, 3] = (31.0, 12.5, -203.75)
        return affine


@dataclass(frozen=True)
class ObjectSpec:
    """A segmentation to write."""

    kind: Literal["binary", "labelmap", "fractional"]
    segments: int
    graded: bool = False
    compression: str | None = None
    report: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return " ".join(
            [self.kind, str(self.segments), *(["graded"] if self.graded else []), self.compression or ""]
        ).strip()


_OBLIQUE, _STEEP = (17.0, -11.0, 23.0), (-41.0, 33.0, 65.0)
SOURCES = (
    SourceSpec("CT axial", (23, 19, 9)),
    SourceSpec("CT oblique", (31, 18, 8), turn=_OBLIQUE),
    SourceSpec("CT steep, thin", (21, 33, 9), turn=_STEEP, spacing_mm=(1.2, 0.5, 0.8)),
    SourceSpec("CT feet first in index", (22, 27, 7), mirrored=True),
    SourceSpec("CT tilted", (24, 19, 8), lean=0.6),
    SourceSpec("CT tilted, oblique", (19, 25, 7), lean=-0.4, turn=_OBLIQUE),
    SourceSpec("CT two slices", (33, 20, 2)),
    SourceSpec("CT one slice", (25, 34, 1)),
    SourceSpec("CT one slice, oblique", (17, 29, 1), turn=_STEEP),
    SourceSpec("CT RLE", (26, 21, 6), transfer_syntax=uid.RLELossless),
    SourceSpec("CT JPEG-LS, implicit sizes", (61, 53, 5), transfer_syntax=uid.JPEGLSLossless),
    SourceSpec("CT enhanced", (20, 23, 8), multiframe="enhanced"),
    SourceSpec("CT enhanced, oblique", (27, 16, 7), multiframe="enhanced", turn=_OBLIQUE),
    SourceSpec("CT legacy converted", (18, 22, 9), multiframe="legacy", turn=_STEEP),
    SourceSpec("MR oblique", (28, 17, 8), modality="MR", turn=_OBLIQUE),
    SourceSpec("MR isotropic, steep", (19, 19, 10), modality="MR", turn=_STEEP, spacing_mm=(1.0, 1.0, 1.0)),
    SourceSpec("MR enhanced", (22, 25, 6), modality="MR", multiframe="enhanced", turn=_OBLIQUE),
    SourceSpec("MR legacy converted", (21, 20, 7), modality="MR", multiframe="legacy"),
    SourceSpec("CT steep, coarse", (15, 26, 8), turn=(72.0, 8.0, -51.0), spacing_mm=(2.1, 1.4, 6.5)),
    SourceSpec("CT JPEG 2000", (45, 34, 6), transfer_syntax=uid.JPEG2000Lossless, turn=_OBLIQUE),
    SourceSpec("CT big endian", (20, 30, 7), transfer_syntax=uid.ExplicitVRBigEndian),
    SourceSpec("MR mirrored", (26, 16, 9), modality="MR", turn=_STEEP, mirrored=True),
    SourceSpec("MR implicit", (18, 27, 8), modality="MR", transfer_syntax=uid.ImplicitVRLittleEndian),
    SourceSpec("PT oblique", (15, 18, 9), modality="PT", spacing_mm=(3.3, 3.3, 2.0), turn=_OBLIQUE),
    SourceSpec("PT", (16, 15, 11), modality="PT", spacing_mm=(4.0, 4.0, 3.27)),
    SourceSpec("PT legacy converted", (17, 15, 9), modality="PT", multiframe="legacy", turn=_OBLIQUE),
    SourceSpec("CR", (53, 61, 1), modality="CR"),
    SourceSpec("DX", (47, 38, 1), modality="DX"),
)  # fmt: skip
OBJECTS = (
    ObjectSpec("binary", 1, report=True),
    ObjectSpec("binary", 3, report=True),
    ObjectSpec("binary", 8),
    ObjectSpec("binary", 20, report=True),
    ObjectSpec("labelmap", 2),
    ObjectSpec("labelmap", 7, compression="rle"),
    ObjectSpec("labelmap", 20),
    ObjectSpec("fractional", 2),
    ObjectSpec("fractional", 3, graded=True),
    ObjectSpec("fractional", 12, graded=True, compression="none"),
)


#: A legacy converted image names the single frames that it was made from, which are not beside it: this
#: is said of the source, not of the object.
_OF_A_CONVERTED_SOURCE = re.compile(
    r"FAIL dcentvfy  (Error - Missing SOPInstanceUID that was referenced - \S+ for file <\S+/source/\S+>"
    r"|\d+ more errors)"
)
#: Of a gantry-tilted series: readers that rebuild one box-shaped volume cannot hold its SEG. The other
#: judges must be content with it, and each frame is compared by its own plane.
_NO_SHEARED_VOLUMES = re.compile(
    r"FAIL highdicom cannot read it: RuntimeError: Frame positions do not form a regularly-spaced volume"
    r"|FAIL dcmqi     (segment \d+: voxel grid differs from the expected|\d+ files for \d+ groups)"
    r"|FAILED: .* \(2 failures\)"
)


@dataclass(frozen=True)
class Verdict:
    """One object, judged.

    Parameters
    ----------
    source, object : str
    tool : str
    words : str
        What the judges hold against it; "" where it passes.
    excused : str
        Words of judges that cannot hold a sheared grid.
    """

    source: str
    object: str
    tool: Literal["check-seg", "check-sr"]
    words: str = ""
    excused: str = ""

    @property
    def passed(self) -> bool:
        """Whether the validators had nothing to say."""
        return not self.words


def table_of(count: int) -> LabelTable:
    """`count` structures; codes of vertebrae and ribs do for any number."""
    labels = tuple(
        Label(
            name=f"structure_{n}",
            value=n,
            colour=f"#{(n * 0x9E3779) % 0xFFFFFF:06x}",
            code=Code(scheme="99TEST", value=f"T{n:03d}", meaning=f"Test structure {n}"),
        )
        for n in range(1, count + 1)
    )
    return LabelTable(labels=labels)


def some_label_map(shape: tuple[int, ...], count: int) -> LabelMap:
    """Blocks with holes like salt, here and there; later ones may cover earlier ones, some slices stay empty."""
    rng = np.random.default_rng([*shape, count])
    label_map = np.zeros(shape, dtype=np.uint8)
    for label in range(1, count + 1):
        sides = []
        for size in shape:
            low = int(rng.integers(0, max(1, size * 2 // 3)))
            sides.append(slice(low, low + max(1, int(rng.integers(size // 5 + 1, size // 2 + 2)))))
        label_map[tuple(sides)] = label
    label_map[rng.random(shape) < 0.04] = 0
    if shape[2] > 3:
        label_map[:, :, 1] = 0
    return label_map


def some_probabilities(label_map: LabelMap, count: int) -> NDArray[np.float32]:
    """(L, I, J, K) probabilities that fall off from the label map's structures; background first."""
    rng = np.random.default_rng(count)
    found = np.zeros((count + 1, *label_map.shape), dtype=np.float32)
    for label in range(1, count + 1):
        found[label] = (label_map == label) * rng.uniform(0.3, 1.0, label_map.shape)
    found[0] = 1 - found[1:].sum(axis=0)
    return found


def write_source(spec: SourceSpec, folder: Path) -> list[Path]:
    """The images, noise."""
    rng = np.random.default_rng(len(spec.name))
    voxels = rng.integers(0, 1500, spec.shape).astype(np.int16)
    if spec.is_projection:
        return [_write_radiograph(spec, voxels[:, :, 0], folder)]
    return write_series(
        folder, voxels, spec.affine, modality=spec.modality, multiframe=spec.multiframe, order="shuffled",
        transfer_syntax=spec.transfer_syntax, uid_root=f"validators {spec.name}", threads=1,
    )  # fmt: skip


def _write_radiograph(spec: SourceSpec, pixels: NDArray[np.int16], folder: Path) -> Path:
    storage = {"CR": uid.ComputedRadiographyImageStorage, "DX": uid.DigitalXRayImageStorageForPresentation}
    meta = file_meta(storage=storage[spec.modality], transfer_syntax=uid.ExplicitVRLittleEndian)
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.update(plain(
        SpecificCharacterSet="ISO_IR 192", SOPClassUID=storage[spec.modality],
        SOPInstanceUID=phantom_uid(spec.name, "instance"), StudyInstanceUID=phantom_uid(spec.name, "study"),
        SeriesInstanceUID=phantom_uid(spec.name, "series"), StudyDate="20240229", StudyTime="101112",
        AccessionNumber="A1", StudyID="1", SeriesNumber=1, InstanceNumber=1, Modality=spec.modality,
        PatientName="Phantom^Film", PatientID="PH-9", PatientBirthDate="", PatientSex="O",
        ReferringPhysicianName="", Manufacturer="medseg phantom", BodyPartExamined="CHEST",
        ViewPosition="PA", PatientOrientation=["L", "F"], ImagerPixelSpacing=["0.2", "0.2"],
        PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1, Rows=pixels.shape[1],
        Columns=pixels.shape[0], BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0,
        PixelData=np.ascontiguousarray(pixels.T).astype("<u2").tobytes(),
    ))  # fmt: skip
    image["PixelData"].VR = "OW"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    folder.mkdir(parents=True)
    image.save_as(folder / "film", enforce_file_format=True)
    return folder / "film"


def judge_source(spec: SourceSpec, objects: Sequence[ObjectSpec], *, tools: Path) -> list[Verdict]:
    """Write the source once, then each object on it, and let the validators judge them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_source(spec, folder / "source")
        return [verdict for obj in objects for verdict in _judge_object(spec, obj, paths, folder, tools)]


def _judge_object(
    spec: SourceSpec, obj: ObjectSpec, paths: list[Path], folder: Path, tools: Path
) -> list[Verdict]:
    here = folder / obj.name.replace(" ", "_")
    here.mkdir()
    try:
        return _write_and_judge(spec, obj, paths, here, tools)
    except Exception as err:  # One object of a batch: the others go on, and this one is told of.
        place = traceback.extract_tb(err.__traceback__)[-1]
        words = f"{Path(place.filename).name}:{place.lineno} {err!r}"
        return [Verdict(spec.name, obj.name, "check-seg", words)]


def _write_and_judge(
    spec: SourceSpec, obj: ObjectSpec, paths: list[Path], here: Path, tools: Path
) -> list[Verdict]:
    label_map, table = some_label_map(spec.shape, obj.segments), table_of(obj.segments)
    grid = MEDSEG.read(paths).grid
    shaped, stored = _on_grid(spec, label_map, grid.affine, grid.shape)
    graded = some_probabilities(shaped, obj.segments) if obj.graded else None
    write_seg_of_kind(
        here / "seg.dcm",
        shaped,
        grid,
        table,
        kind=obj.kind,
        probabilities=graded,
        compression=obj.compression,
    )
    expected: NDArray[Any] = stored
    if graded is not None:
        expected = np.moveaxis(graded[1:].reshape(obj.segments, *stored.shape), 0, -1)
    affine = np.eye(4) if grid.affine is None else grid.affine
    nib.save(nib.Nifti1Image(expected, affine), here / "expected.nii.gz")
    source = str(here.parent / "source")
    arguments = [str(here / "seg.dcm"), source, "--expect", str(here / "expected.nii.gz")]
    words, excused = judge(tools / "check-seg", arguments, many_frames=spec.multiframe != "no"), ""
    if spec.lean:
        words, excused = _excuse(words)
    if spec.lean or spec.multiframe != "no":
        words += _compare_by_planes(here / "seg.dcm", affine, stored) if obj.kind == "binary" else ""
    verdicts = [Verdict(spec.name, obj.name, "check-seg", words, excused)]
    if obj.report:
        write_volume_sr(here / "sr.dcm", here / "seg.dcm", grid, table, _sizes(spec, stored, table))
        arguments = [str(here / "sr.dcm"), source, "--seg", str(here / "seg.dcm")]
        verdicts.append(Verdict(spec.name, obj.name, "check-sr", judge(tools / "check-sr", arguments)))
    return verdicts


def _excuse(words: str) -> tuple[str, str]:
    """The words that count, and those of judges that know no sheared volumes."""
    lines = words.splitlines()
    excused = [line for line in lines if _NO_SHEARED_VOLUMES.match(line)]
    return "\n".join(line for line in lines if line not in excused), "\n".join(excused)


def _compare_by_planes(path: Path, affine: NDArray[np.float64], label_map: LabelMap) -> str:
    """What is wrong with a SEG whose frames are looked up by their own positions; "" where nothing is."""
    index = np.indices(label_map.shape).reshape(3, -1)
    points = (affine @ np.vstack([index, np.ones(index.shape[1])]))[:3].T
    found, total = seg_by_planes(path, points)
    wrong = int((found != label_map.ravel()).sum()) + abs(total - int(np.count_nonzero(label_map)))
    return f"{wrong} voxels differ by their planes" if wrong else ""


def _on_grid(
    spec: SourceSpec, label_map: LabelMap, affine: NDArray[np.float64] | None, shape: tuple[int, ...]
) -> tuple[LabelMap, LabelMap]:
    """The label map as the reader laid the image out, and the same with three axes.

    Readers may stack slices the other way round than they were drawn; the true affine tells.
    """
    if len(shape) == 2:
        return label_map[:, :, 0], label_map
    assert affine is not None
    step = np.linalg.inv(spec.affine)[:3, :3] @ affine[:3, 2]
    turned = label_map[:, :, ::-1] if step[2] < 0 else label_map
    return turned, turned


def _sizes(spec: SourceSpec, label_map: LabelMap, table: LabelTable) -> dict[str, tuple[float, str]]:
    """Volume or area of each structure that is there."""
    unit = 1.0 if spec.is_projection else abs(float(np.linalg.det(spec.affine[:3, :3]))) / 1000
    counts = {label.name: int((label_map == label.value).sum()) for label in table.labels}
    name = "pixels" if spec.is_projection else "ml"
    return {key: (count * unit, name) for key, count in counts.items() if count}


@functools.cache
def _validator(path: Path) -> ModuleType:
    loader = SourceFileLoader(path.name.replace("-", "_"), str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Beside the validators lies no place for compiled files.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@contextlib.contextmanager
def _without_places_of(validator: ModuleType) -> Iterator[None]:
    """Let check-seg go on where its own look at places ends: it knows the headers of single frames alone.

    Everything that it checks before (identity, references, bookkeeping) counts, and so do all programs
    that it asks afterwards; each frame is compared by its own plane as well.
    """
    whole = validator.check_pydicom

    def first_part(*arguments: Any) -> None:
        try:
            whole(*arguments)
        except AttributeError as err:
            if err.name != "ImageOrientationPatient" and "ImageOrientationPatient" not in str(err):
                raise

    validator.check_pydicom = first_part
    try:
        yield
    finally:
        validator.check_pydicom = whole


def judge(tool: Path, arguments: Sequence[str], *, many_frames: bool = False) -> str:
    """Run a validator on an object; "" where it passes, else its lines that are not "ok"."""
    said = io.StringIO()
    validator = _validator(tool)
    before, sys.argv = sys.argv, [str(tool), *arguments]
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            _without_places_of(validator) if many_frames else contextlib.nullcontext(),
        ):
            validator.main()
    except SystemExit as end:
        status = end.code
    else:
        status = "no verdict"
    finally:
        sys.argv = before
    if status == 0:
        return ""
    lines = [line for line in said.getvalue().splitlines() if not line.startswith(("ok", "skip", "warn"))]
    told = [line for line in lines if not _OF_A_CONVERTED_SOURCE.search(line)]
    only_the_source = len(told) < len(lines) and all(line.startswith("FAILED:") for line in told)
    return "" if only_the_source else "\n".join(told) or f"status {status}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """The line to show."""
    parts = []
    for tool in ("check-seg", "check-sr"):
        mine = [verdict for verdict in verdicts if verdict.tool == tool]
        whole = sum(verdict.passed and not verdict.excused for verdict in mine)
        parts.append(f"{tool} {whole} of {len(mine)} objects passed")
    excused = sum(verdict.passed and bool(verdict.excused) for verdict in verdicts)
    tilted = f"; {excused} of tilted series, by all judges that can hold a sheared grid" if excused else ""
    return f"validator battery: {', '.join(parts)}{tilted}"
