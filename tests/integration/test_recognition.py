"""Recognised targets on real masks against second implementations, and before the validators of DICOM."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import dicom_results as made_up
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from validator_battery import judge

from medseg.evaluation.detect_case import detect_case
from medseg.evaluation.detection import summarise_detection
from medseg.evaluation.image_facts import ImageFacts
from medseg.evaluation.instance_map import instance_map, predicted_structures
from medseg.evaluation.instance_options import DetectionOptions, RecogniseOptions
from medseg.evaluation.instances import find_instances
from medseg.evaluation.intensity import intensities_of
from medseg.export.coco import NumberedMask, coco_dataset, join_coco
from medseg.labels import Label, LabelTable
from medseg.pipeline.target_objects import export_instances

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCENES = LabelTable(
    labels=(
        Label(name="sign", value=6, colour="#c08080"),
        Label(name="car", value=8, colour="#400080"),
        Label(name="pedestrian", value=9, colour="#404000"),
    )
)
THINGS = RecogniseOptions(min_pixels=20)
THRESHOLDS = (0.1, 0.25, 0.5, 0.75)


def scenes(folder: Path, count: int) -> list[tuple[str, np.ndarray]]:
    """Class indices of real street scenes, columns first."""
    found = []
    for path in sorted((folder / "driving" / "masks").glob("*.png"))[::7][:count]:
        values = np.asarray(Image.open(path)).T
        label_map = np.zeros(values.shape, dtype=np.uint8)
        for index, label in enumerate(SCENES.labels, start=1):
            label_map[values == label.value] = index
        found.append((path.stem, label_map))
    return found


def worse(label_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a middling network might say: shifted, ragged, with blots."""
    shifted = np.roll(label_map, rng.integers(-3, 4, size=2), axis=(0, 1))
    shifted[rng.random(label_map.shape) < 0.03] = 0
    for _ in range(4):
        i, j = rng.integers(0, 300, size=2)
        shifted[i : i + 9, j : j + 11] = rng.integers(1, 4)
    return shifted


def coco_of(name: str, label_map: np.ndarray, confidences) -> dict:
    structures = predicted_structures(label_map, SCENES, THINGS)
    masks = {}
    for structure in structures.inside:
        found = instance_map(structures, structure, options=THINGS, axis=2, voxel_size=None)
        if found is not None:
            ((place, numbers),) = found.slabs()
            masks[structure] = NumberedMask(numbers=numbers[..., 0], start=(place[0].start, place[1].start))
        else:
            masks[structure] = None
    return coco_dataset(masks, case_id=name, shape=label_map.shape, table=SCENES, confidences=confidences)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_average_precision_is_that_of_cocoeval(shared_data, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    evaluate = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    options = DetectionOptions(ap_iou=THRESHOLDS)
    cases, truths, answers = [], [], []
    for name, reference in scenes(shared_data, 12):
        prediction = worse(reference, rng)
        image = ImageFacts(shape=prediction.shape)
        found = find_instances(prediction, image, table=SCENES, options=THINGS, case_id=name)
        sure = {(i.structure, i.number): float(rng.random()) for i in found.instances}
        cases.append(
            detect_case(
                prediction,
                reference.astype(np.int16),
                image,
                table=SCENES,
                recognise=THINGS,
                options=options,
                case_id=name,
                confidences=sure,
            )
        )
        truths.append(coco_of(name, reference, {}))
        answers.append(coco_of(name, prediction, sure))
    summary = summarise_detection(cases, options, samples=100, level=0.95, seed=1)
    (tmp_path / "truth.json").write_text(json.dumps(join_coco(truths)))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(tmp_path / "truth.json"))
        other = evaluate.COCOeval(truth, truth.loadRes(join_coco(answers)["annotations"]), "segm")
        other.params.iouThrs, other.params.maxDets = np.array(THRESHOLDS), [10_000]
        other.params.areaRng, other.params.areaRngLbl = [[0, 1e10]], ["all"]
        other.evaluate()
        other.accumulate()
    for column, category in enumerate(other.params.catIds):
        name = next(label.name for label in SCENES.labels if label.value == category)
        found = summary.structures[name]
        assert found.references > 10
        for row, threshold in enumerate(THRESHOLDS):
            theirs = float(other.eval["precision"][row, :, column, 0, 0].mean())
            assert found.rates[f"ap_{threshold:g}"].value == pytest.approx(theirs, abs=1e-6), (
                name,
                threshold,
            )


def test_panoptic_quality_counted_the_slow_way(shared_data):
    rng = np.random.default_rng(1)
    sums = dict.fromkeys((label.name for label in SCENES.labels), (0, 0.0, 0))
    cases = []
    for name, reference in scenes(shared_data, 8):
        prediction = worse(reference, rng)
        cases.append(
            detect_case(
                prediction,
                reference.astype(np.int16),
                ImageFacts(shape=prediction.shape),
                table=SCENES,
                recognise=RecogniseOptions(),
                options=DetectionOptions(),
                case_id=name,
            )
        )
        for index, label in enumerate(SCENES.labels, start=1):
            mine, m = ndimage.label(prediction == index, structure=np.ones((3, 3)))
            theirs, n = ndimage.label(reference == index, structure=np.ones((3, 3)))
            ious = [
                iou
                for p in range(1, m + 1)
                for r in np.unique(theirs[mine == p])
                if r > 0
                and (iou := np.sum((mine == p) & (theirs == r)) / np.sum((mine == p) | (theirs == r))) > 0.5
            ]
            pairs, overlap, alone = sums[label.name]
            sums[label.name] = (pairs + len(ious), overlap + sum(ious), alone + m + n - 2 * len(ious))
    summary = summarise_detection(cases, DetectionOptions(), samples=100, level=0.95, seed=1)
    for name, (pairs, overlap, alone) in sums.items():
        rates = summary.structures[name].rates
        assert pairs > 3
        assert rates["pq"].value == pytest.approx(overlap / (pairs + alone / 2), abs=1e-12)
        assert rates["rq"].value == pytest.approx(pairs / (pairs + alone / 2), abs=1e-12)


def test_vertebrae_whose_numbers_are_known(shared_data):
    """Instance maps of a spine, made by others: touching vertebrae are labels of their own."""
    folder = shared_data / "seg_metrics_spine"
    maps = [nib.load(folder / f"matched_instance_{kind}.nii.gz") for kind in ("pred", "ref")]
    values = sorted(set(np.unique(maps[1].dataobj)) - {0})
    table = LabelTable(labels=tuple(Label(name=f"v{v}", value=int(v), colour="#ffffff") for v in values))
    lookup = np.zeros(int(max(np.max(m.dataobj) for m in maps)) + 1, dtype=np.uint8)
    lookup[values] = np.arange(1, len(values) + 1)
    prediction, reference = (lookup[np.asarray(m.dataobj).astype(int)] for m in maps)
    spacing = tuple(float(v) for v in maps[0].header.get_zooms())
    image = ImageFacts(shape=prediction.shape, affine=maps[0].affine, spacing_mm=spacing)
    found = find_instances(
        reference, image, table=table, options=RecogniseOptions(min_pixels=1000), case_id="spine"
    )
    assert image.axis == int(np.argmax(spacing))
    largest = {i.structure: i for i in found.instances if i.number == 1}
    for index, label in enumerate(table.labels, start=1):
        components, _ = ndimage.label(reference == index, structure=np.ones((3, 3, 3)))
        size = np.bincount(components.ravel())[1:].max()
        if size >= 1000:
            one = largest[label.name]
            assert one.voxels == size
            centre = ndimage.center_of_mass(components == 1 + np.bincount(components.ravel())[1:].argmax())
            np.testing.assert_allclose(one.centroid, centre)
            assert one.quantities["volume"].value == pytest.approx(size * np.prod(spacing) / 1000, rel=1e-5)
    case = detect_case(
        prediction,
        reference.astype(np.int16),
        image,
        table=table,
        recognise=RecogniseOptions(min_pixels=1000),
        options=DetectionOptions(min_iou=0.5),
        case_id="spine",
    )
    assert sum(len(s.reference) for s in case.structures) > 15
    assert sum(t.matched is not None for s in case.structures for t in s.reference) > 12


def test_lesions_as_radiologists_measure_them(shared_data):
    """Long and short axes of lesions on CT whose in-plane axes are exchanged, against all pairs of pixels."""
    table = LabelTable(labels=(Label(name="lesion", value=1, colour="#ff0000"),))
    for path in sorted((shared_data / "ct_lesion" / "labels").glob("*.nii.gz"))[:4]:
        image = nib.load(path)
        mask = np.asarray(image.dataobj) > 0
        spacing = tuple(float(v) for v in image.header.get_zooms())
        facts = ImageFacts(shape=mask.shape, affine=image.affine, spacing_mm=spacing)
        found = find_instances(
            mask.astype(np.uint8), facts, table=table, options=RecogniseOptions(), case_id=path.stem
        )
        one = found.instances[0]
        points = np.argwhere(mask[:, :, one.plane])[:, :2] * np.array(spacing[:2])
        edge = points[_outline(mask[:, :, one.plane])]
        apart = np.linalg.norm(edge[:, None] - edge[None], axis=-1)
        long = one.quantities["long_axis"].value
        # From outer edge to outer edge, up to a diagonal of a pixel beyond the centres.
        assert apart.max() <= long <= apart.max() + np.hypot(*spacing[:2])
        assert one.quantities["short_axis"].value < long
        assert one.place.third is not None


def _outline(mask: np.ndarray) -> np.ndarray:
    """Which pixels of a mask, in the order of argwhere, are at its edge."""
    return (mask & ~ndimage.binary_erosion(mask))[mask]


@pytest.mark.parametrize("tilted", [False, True])
def test_segments_and_report_before_the_validators(shared_tools, tmp_path, tilted):
    shear = (0.0, 0.6) if tilted else (0.0, 0.0)
    made = made_up.write_series(tmp_path / "source", shape=(40, 32, 13), shear=shear)
    label_map = made.label_map.copy()
    label_map[2:6, 3:8, 4:7] = 3
    _judge(made, label_map, tmp_path, shared_tools, sheared=tilted)


def test_a_radiograph_before_the_validators(shared_tools, tmp_path):
    made = made_up.write_radiograph(tmp_path / "source")
    _judge(made, made.label_map, tmp_path, shared_tools, sheared=False)


def _judge(made, label_map: np.ndarray, folder: Path, tools: Path, *, sheared: bool) -> None:
    options = RecogniseOptions(min_pixels=5)
    found = find_instances(
        label_map,
        ImageFacts.of(made.volume, intensities=intensities_of(made.volume)),
        table=made_up.TABLE,
        options=options,
        case_id="case",
        certainty=lambda box, _: np.full([s.stop - s.start for s in box], 0.9, np.float32),
    )
    assert len(found.instances) >= 3
    record = {
        "case_id": "case",
        "model": {"name": "abdomen", "version": "1.2.0", "weights_sha256": "ab" * 32},
        "instances": {**found.to_json(), "options": options.model_dump(mode="json")},
    }
    for kind in ("instance_seg", "instance_sr"):
        export_instances(
            kind, folder, volume=made.volume, label_map=label_map, table=made_up.TABLE, record=record
        )
    seg, report = folder / "instances.dcm", folder / "instance_measurements.dcm"
    expected = [
        {"segment": n, "name": name, "value": item["quantities"][key]["value"], "tolerance": 1e-3}
        for n, item in enumerate(record["instances"]["instances"], start=1)
        for name, key in (("103339001", "long_axis"), ("103340004", "short_axis"))
    ]
    (folder / "values.json").write_text(json.dumps(expected))
    said = judge(
        tools / "check-sr",
        [str(report), str(folder / "source"), "--seg", str(seg), "--expect", str(folder / "values.json")],
    )
    assert said == ""
    if not sheared:
        assert judge(tools / "check-seg", [str(seg), str(folder / "source")]) == ""


def test_a_pipeline_tells_its_targets_to_the_end(project, tmp_path):
    settings = (
        "data.source.cases=12",
        "training.epochs=1",
        "training.batch_size=4",
        "recognise={min_pixels: 50}",
        "evaluation.detection={}",
        "export=[nifti, instance_seg, instance_sr, coco]",
    )
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "medseg",
                "run",
                str(project / "pipelines" / "chest_xray.yaml"),
                "--json",
            ),
            *("--output", str(tmp_path), *(word for text in settings for word in ("--set", text))),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    summary = json.loads((run / "evaluation" / "detection_summary.json").read_text())
    assert {name: s["found"] for name, s in summary["structures"].items()} == {
        "lung_right": 3,
        "lung_left": 3,
    }
    assert all(s["rates"]["pq"]["value"] > 0.8 for s in summary["structures"].values())
    assert all(s["rates"]["mean_froc"]["value"] is not None for s in summary["structures"].values())
    assert len((run / "instances.csv").read_text().splitlines()) == 7
    assert len(json.loads((run / "coco.json").read_text())["annotations"]) == 6
    assert len(list(run.glob("cases/*/instance_measurements.dcm"))) == 3
    assert json.loads((run / "model" / "bundle.json").read_text())["recognise"]["min_pixels"] == 50
    assert 'id="targets"' in (run / "report.html").read_text()
