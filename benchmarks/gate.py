"""How many images of the wrong kind the shipped models refuse or flag, and how many right ones.

    MEDSEG_DATA=../shared/data python benchmarks/gate.py measure [--model NAME] [--split validation|test] [--cases 20]
    MEDSEG_DATA=../shared/data python benchmarks/gate.py profile        writes the profiles into the shipped bundles

Profiles are made of training images; limits come from training images left out of the fit and from validation images.
`measure` prints, per kind: images, refused before and after the network, flagged, passed. Right images are the test
split of the radiographs, and fold 0 of the hippocampus, whose images neither the first network nor the profile saw.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_images as made
import numpy as np
from mask_flags import lungs
from numpy.typing import NDArray

from medseg.errors import InputRefusedError, MedsegError
from medseg.evaluation.measure import measure_case
from medseg.inference.postprocess import postprocess
from medseg.io.nifti import read_nifti
from medseg.io.picture import read_picture
from medseg.io.read import read_image
from medseg.labels import LabelTable
from medseg.models.bundle import read_bundle
from medseg.models.bundle_writer import update_bundle
from medseg.pipeline.bundle_gate import FAMILY, PROFILE, RANGE
from medseg.pipeline.calibration import result_record
from medseg.pipeline.model import LoadedModel
from medseg.quality.cohort import cohort_record
from medseg.quality.family import cohort_margin, result_room
from medseg.quality.input_facts import input_facts
from medseg.quality.profile import fit_profile, profile_to_json
from medseg.quality.ranges import COHORT, fit_ranges
from medseg.quality.sides import fit_sides, side_test_to_json, side_vector
from medseg.volume import Volume

PROJECT = Path(__file__).resolve().parent.parent
Kinds = dict[str, Callable[[], Iterable[Volume]]]
CHEST, HIPPOCAMPUS = "chest-xray-lungs", "mr-hippocampus"


def data() -> Path:
    """Folder of the development data."""
    return Path(os.environ["MEDSEG_DATA"])


def rows(name: str) -> list[dict[str, str]]:
    """A manifest of the project."""
    with (PROJECT / "data_manifests" / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def films(*splits: str) -> Iterator[tuple[str, Volume]]:
    """Patient and radiograph."""
    for row in rows("chest_xray_lungs.csv"):
        if row["split"] in splits:
            yield row["patient_id"], read_picture(data() / "cxr" / row["image"])


def heads(*folds: int) -> Iterator[tuple[str, Volume]]:
    """Patient and image around a hippocampus."""
    for row in rows("hippocampus.csv"):
        if int(row["fold"]) in folds:
            yield row["patient_id"], read_nifti(data() / "hippocampus" / row["image"])


def clean_images(model: str, split: str) -> list[Volume]:
    """Right images of a split, in an order of their own."""
    if model == CHEST:
        found = [volume for _, volume in films(split)]
    else:
        found = [volume for _, volume in heads(0 if split == "test" else 1)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def write_profiles() -> None:
    """Fit the profiles of the shipped bundles and write them into bundle.json."""
    chest, validation = list(films("train")), [volume for _, volume in films("validation")]
    heads_of_training = list(heads(1, 2, 3, 4))
    for name, training, others, modalities in (
        (CHEST, chest, validation, ("CR", "DX", "RG")),
        (HIPPOCAMPUS, heads_of_training, [], ("MR",)),
    ):
        profile = fit_profile(
            [input_facts(volume) for _, volume in training],
            [input_facts(volume) for volume in others],
            groups=[patient for patient, _ in training],
            modalities=modalities,
            negatives=name == CHEST,
        )
        if profile is None:
            sys.exit(f"{name}: too few images")
        bundle = read_bundle(name)
        limits: dict[str, Any] = dict(profile_to_json(profile, PROFILE))
        limits |= result_limits(name)
        if bundle.record.gate is not None:
            # What `fit_gate` takes from the same left-out images today.
            limits["review"] = bundle.record.gate.limits["quantiles"]["0.99"]
        update_bundle(bundle, gate_limits=limits)
        print(f"{name}: profile of {len(training)} training and {len(others)} validation images")


def result_limits(name: str) -> dict[str, Any]:
    """Ranges of results and of reference masks, the room that lets few of either be flagged, and the sides."""
    model, results, patients, sides = LoadedModel(read_bundle(name)), [], [], []
    images = films("train", "validation") if name == CHEST else heads(1, 2, 3, 4)
    for patient, volume in images:
        answer = model.predictor.predict(volume)
        labels = postprocess(
            answer.label_map, model.cleaning, table=model.table, spacing_mm=volume.spacing_mm
        )
        results.append(result_record(labels, volume, model.table, answer.confidence))
        patients.append(patient)
        sides.append(side_vector(volume, labels, model.table, negatives=name == CHEST))
    count = (
        sum(row["split"] == "train" for row in rows("chest_xray_lungs.csv")) if name == CHEST else len(sides)
    )
    test = fit_sides(sides[:count], sides[count:], groups=patients[:count])
    masks = chest_masks() if name == CHEST else hippocampus_masks()
    references = [(patient, record_of(mask, model.table)) for patient, mask in masks]
    form = [{n: v for n, v in record.items() if not n.startswith(COHORT)} for record in results]
    cohort = fit_ranges([record for _, record in references])
    # Shares of a film and ratios are judged against results, sizes in ml and positions against reference masks.
    margins = (
        cohort_margin([r for _, r in references], [p for p, _ in references]),
        cohort_margin(form, patients) if name == CHEST else 0.0,
    )
    family = {"result_room": result_room(form, patients), "cohort_margin": max(margins)}
    found = {RANGE + what: values for what, values in (fit_ranges(form) | cohort).items()}
    found |= {} if test is None else side_test_to_json(test)
    found[FAMILY] = family | {"results": float(len(form))}
    return {what: {k: float(f"{v:.6g}") for k, v in values.items()} for what, values in found.items()}


def hippocampus_masks() -> Iterator[tuple[str, Volume]]:
    """Patient and reference mask of folds 1 to 4."""
    for row in rows("hippocampus.csv"):
        if row["fold"] != "0":
            yield row["patient_id"], read_nifti(data() / "hippocampus" / row["label"])


def chest_masks() -> Iterator[tuple[str, Volume]]:
    """Patient and reference mask of the training split, where it tells the visible lung."""
    for row in rows("chest_xray_lungs.csv"):
        if row["split"] == "train" and row["source"] == "shenzhen":
            yield row["patient_id"], Volume(array=lungs(data() / "cxr" / row["label"])[None])


def record_of(mask: Volume, table: LabelTable) -> dict[str, float]:
    """The numbers of one mask that a cohort bounds."""
    labels = np.asarray(mask.array[0], dtype=np.uint8)
    measures = measure_case(
        labels, table=table, measures=(), case_id="c", spacing_mm=mask.spacing_mm, affine=mask.affine
    )
    return cohort_record(labels, table=table, measures=measures, affine=mask.affine)


def changed(images: Sequence[Volume], change: made.Change, count: int) -> Callable[[], Iterator[Volume]]:
    """The first images, changed."""
    rng = np.random.default_rng(0)
    return lambda: (change(volume, rng) for volume in images[:count])


def chest_kinds(clean: Sequence[Volume], count: int) -> Kinds:
    """Wrong images for the radiograph model."""
    ct = ("ct_small/images/ct_torso.nii.gz", "ct_small/images/ct_heart.nii.gz")
    brain = ("mr_brats/images_ch0/brats_pat0003.nii.gz", "mr_brats/images_ch1/brats_pat0005.nii.gz")
    spine = ("mr_spine/images/sct_t2.nii.gz", "mr_spine/images/unf01_T1w.nii.gz")
    body = ("mr_abdomen/images/mr_abdomen_crop.nii.gz",)
    other = ("cr_monochrome2_j2k", "cr_monochrome1_j2k", "dx_monochrome1_small")
    one = lambda change: changed(clean, change, count)  # noqa: E731
    return {
        "street photograph, colour": lambda: made.street(data(), count, grey=False),
        "street photograph, grey": lambda: made.street(data(), count, grey=True),
        "CT slice, axial": lambda: made.slices(data(), ct, 2, count),
        "CT slice, coronal": lambda: made.slices(data(), ct, 1, count),
        "CT slice, sagittal": lambda: made.slices(data(), ct, 0, count),
        "MR slice of the brain": lambda: made.slices(data(), brain, 2, count),
        "MR slice of the spine": lambda: made.slices(data(), spine, 0, count),
        "MR slice of the abdomen": lambda: made.slices(data(), body, 2, count),
        "radiograph of hip, limb, animal": lambda: [
            replace(read_image([next((data() / "dicom" / name).iterdir())]), modality="") for name in other
        ],
        "film upside down": one(made.flipped(1)),
        "film mirrored": one(made.flipped(0)),
        "film turned by 180 degrees": one(lambda v, _: made.with_array(v, v.array[:, ::-1, ::-1])),
        "film turned by 90 degrees": one(lambda v, _: made.with_array(v, np.rot90(v.array, axes=(1, 2)))),
        "rows and columns exchanged": one(made.permuted(1, 0)),
        "part of a film, 40 % a side": one(made.corner(0.4)),
        "two films in one picture": one(made.two_in_one),
        "mask instead of a film": one(made.mask_of),
        "noise": one(made.noise),
        "blank": one(made.blank),
        "thumbnail of 40 pixels": one(lambda v, rng: made.zoomed(40 / max(v.spatial_shape))(v, rng)),
        "header says CT": one(made.modality("CT")),
        "a volume": one(made.as_volume),
    }


def hippocampus_kinds(clean: Sequence[Volume], count: int) -> Kinds:
    """Wrong images for the hippocampus model."""
    size, rng = (36.0, 50.0, 36.0), np.random.default_rng(0)
    one = lambda change: changed(clean, change, count)  # noqa: E731

    def crops(*names: str) -> Callable[[], list[Volume]]:
        each = max(1, count // len(names))
        return lambda: [c for v in made.volumes(data(), *names) for c in made.crops(v, size, each, rng)]

    def ct(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[], list[Volume]]:
        torso = crops("ct_small/images/ct_torso.nii.gz", "ct_small/images/ct_heart.nii.gz")
        return lambda: [made.with_array(v, change(v.array)) for v in torso()]

    return {
        "CT in HU": ct(lambda hu: hu),
        "CT of 0 to 255": ct(lambda hu: (np.clip((hu + 160) / 400, 0, 1) * 255).astype(np.uint8)),
        "CT without rescale": ct(lambda hu: hu + 1024),
        "MR of the abdomen": crops("mr_abdomen/images/mr_abdomen_crop.nii.gz"),
        "MR of the spine": crops("mr_spine/images/sct_t1.nii.gz", "mr_spine/images/sct_t2.nii.gz"),
        "MR of the breast": crops("mr_tumour_nrrd/images/breast1.nrrd"),
        "another part of the brain": crops(
            "mr_brats/images_ch1/brats_pat0003.nii.gz", "mr_brats/images_ch1/brats_pat0006.nii.gz"
        ),
        "whole head": lambda: list(
            made.volumes(
                data(),
                "orientations/RAS.nii.gz",
                "mr_brats/images_ch0/brats_pat0003.nii.gz",
                "mr_tumour_nrrd/images/brain1.nrrd",
            )
        ),
        "spacing in cm": one(made.scaled_spacing(0.1)),
        "spacing in m": one(made.scaled_spacing(0.001)),
        "spacing three times too large": one(made.scaled_spacing(3.0)),
        "half as many voxels, same spacing": one(made.zoomed(0.5)),
        "front and back exchanged": one(made.flipped(1)),
        "head and foot exchanged": one(made.flipped(2)),
        "axes i and j exchanged": one(made.permuted(1, 0, 2)),
        "axes j and k exchanged": one(made.permuted(0, 2, 1)),
        "axes in reversed order": one(made.permuted(2, 1, 0)),
        "front half only": one(made.part(0.5, 1.0, 1)),
        "lower half only": one(made.part(0.0, 0.5, 2)),
        "mask instead of an image": one(made.mask_of),
        "noise": one(made.noise),
        "blank": one(made.blank),
        "header says CT": one(made.modality("CT")),
        "two channels": one(made.doubled),
        "a single slice": one(made.middle_slice),
    }


def outcome(model: LoadedModel, volume: Volume) -> tuple[str, str]:
    """How an image ended: refused before or after the network, flagged by the gate, by a mask flag, passed; and why."""
    try:
        answer = model.answer(volume)
    except InputRefusedError as err:
        return "before", str(err).split(";")[0]
    try:
        result = model.judge(volume, answer, case_id="c")
    except InputRefusedError as err:
        return "after", str(err).split(";")[0]
    if result.gate.level != "pass":
        return "flagged", result.gate.sentence
    if result.flags.verdict in ("review", "fail"):
        return "mask flag", result.flags.flags[0].text
    return "passed", ""


COLUMNS = ("before", "after", "flagged", "mask flag", "passed")


def measure(name: str, split: str, count: int, *, only: str, verbose: bool) -> dict[str, dict[str, int]]:
    """Counts of outcomes per kind with `only` in its name; the first line is that of the right images."""
    model = LoadedModel(read_bundle(name))
    clean = clean_images(name, split)
    kinds: Kinds = {f"right images ({split})": lambda: clean}
    kinds |= (chest_kinds if name == CHEST else hippocampus_kinds)(clean, count)
    print(f"\n{name}\n{'kind':<36}{'images':>8}" + "".join(f"{column:>11}" for column in COLUMNS), flush=True)
    table = {}
    for kind, images in kinds.items():
        if only not in kind:
            continue
        found = [outcome(model, volume) for volume in images()]
        counts = Counter(how for how, _ in found)
        table[kind] = {column: counts[column] for column in COLUMNS}
        line = "".join(f"{counts[column]:>11}" for column in COLUMNS)
        print(f"{kind:<36}{len(found):>8}{line}", flush=True)
        if verbose:
            for text, times in Counter(why for _, why in found).most_common(4):
                print(f"    {times:>3} {text}", flush=True)
    return table


def main() -> None:
    """Write profiles, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["measure", "profile"])
    parser.add_argument("--model", choices=[CHEST, HIPPOCAMPUS])
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--cases", type=int, default=20, help="images per kind")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.task == "profile":
        write_profiles()
        return
    names = [given.model] if given.model else [CHEST, HIPPOCAMPUS]
    tables = {n: measure(n, given.split, given.cases, only=given.only, verbose=given.verbose) for n in names}
    if given.json is not None:
        given.json.write_text(json.dumps(tables, indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MedsegError as err:
        sys.exit(str(err))
