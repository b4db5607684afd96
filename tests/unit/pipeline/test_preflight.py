"""Memory of a prediction, said from headers alone, before a pixel is read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.dicom_phantoms import asymmetric_phantom, write_series
from medseg.errors import ConfigError
from medseg.inference.ceiling import fit, least_ceiling
from medseg.io.discover import discover
from medseg.labels import Label, LabelTable
from medseg.memory import ResidentPeak, resident_bytes
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.models.bundle_writer import write_bundle
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network
from medseg.pipeline import cohort_inputs
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.predict_folder import predict_folder
from medseg.pipeline.preflight import foresee, header_of

MB = 10**6
AFFINE = np.diag([-1.0, -1.2, 3.0, 1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preflight") / "bundle"
    table = LabelTable(labels=(Label(name="spot", value=1, colour="#3aa0ff"),))
    network = build_network(
        UNetOptions(channels=(8, 8)), spatial_dims=3, in_channels=1, class_count=2, seed=0
    )
    write_bundle(
        folder,
        about=BundleAbout(
            name="spot", version="1.0.0", description="Spots.", licence="CC0-1.0", intended_use="Tests."
        ),
        network=network,
        table=table,
        preprocess=[{"use": "orient", "to": "RAS"}, {"use": "standardise"}],
        training=TrainingRecord(data="none", cases=0, epochs=0, seconds=0, settings_sha256="0" * 64),
        inference={"window": [16, 16, 16], "overlap": 0.25},
        window=(16, 16, 16),
    )
    return folder


def write_nifti(path: Path, shape=(48, 40, 20)) -> Path:
    array = np.random.default_rng(0).normal(100, 30, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def test_a_ceiling_that_holds_no_image_is_refused_before_one_is_read(tmp_path, bundle, monkeypatch):
    write_nifti(tmp_path / "a.nii.gz")

    def read(*args, **options):
        raise AssertionError("read before it was known to fit")

    monkeypatch.setattr(cohort_inputs, "read_image", read)
    with pytest.raises(
        ConfigError, match=r"max_ram is 90 MB, .* takes at least .* before|by its header.*; set it to"
    ) as told:
        predict_folder(
            [tmp_path], model=str(bundle), output=tmp_path / "out", formats="nifti", max_ram="90MB"
        )
    least = str(told.value).partition("set it to ")[2].split()[0]
    monkeypatch.undo()
    # This process may have grown since; a command is a new one.
    enough = f"{1.1 * float(least[:-2]):.2f}{least[-2:]}"
    assert (
        predict_folder(
            [tmp_path], model=str(bundle), output=tmp_path / "out", formats="nifti", max_ram=enough
        )
    ).exit_code in (0, 1, 3)


def test_images_that_do_not_fit_are_told_of_and_left_out_the_others_are_done(tmp_path, bundle):
    write_nifti(tmp_path / "small.nii.gz")
    write_nifti(tmp_path / "large.nii.gz", (256, 200, 110))
    model = LoadedModel(_read(bundle))
    needed = {
        image.case_id: least_ceiling(foresee(header_of(image, channels=False), model).least_bytes)
        for image in discover([tmp_path]).images
    }
    assert needed["large"] > needed["small"] + 15 * MB
    limit = f"{(needed['small'] + needed['large']) // 2 // MB}MB"
    notes: list[str] = []
    result = predict_folder(
        [tmp_path],
        model=str(bundle),
        output=tmp_path / "out",
        formats="nifti",
        max_ram=limit,
        reporter=_Notes(notes),
    )
    errors = {case["case_id"]: case.get("error", "") for case in result.facts["cases"]}
    assert "1 of 2 images will be left out" in notes[0]
    assert "by its header, before it was read" in errors["large"]
    assert "max_ram" not in errors["small"]


def test_headers_of_series_and_files_say_what_reading_gives(tmp_path):
    voxels, _ = asymmetric_phantom((24, 20, 9))
    write_series(tmp_path / "series", voxels, AFFINE, uid_root="preflight")
    write_nifti(tmp_path / "file.nii.gz")
    found = {image.kind: header_of(image, channels=False) for image in discover([tmp_path]).images}
    for kind, shape in (("dicom", (24, 20, 9)), ("nifti", (48, 40, 20))):
        header = found[kind]
        assert header is not None
        assert header.grid.shape == shape
        assert header.bytes == 2 * np.prod(shape)
        np.testing.assert_allclose(header.grid.spacing_mm, (1.0, 1.2, 3.0), atol=1e-5)


def test_pictures_have_no_header_to_look_into(tmp_path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 80)).astype(np.uint8)).save(
        tmp_path / "a.png"
    )
    (image,) = discover([tmp_path]).images
    assert header_of(image, channels=False) is None


def test_what_is_foreseen_is_what_is_asked_for_after_reading(tmp_path, bundle, monkeypatch):
    write_nifti(tmp_path / "a.nii.gz", (120, 90, 40))
    model = LoadedModel(_read(bundle), max_bytes=10**11)
    (image,) = discover([tmp_path]).images
    header = header_of(image, channels=False)
    assert header is not None
    said = foresee(header, model)
    seen = []

    def noted(demand, **options):
        seen.append(demand)
        return fit(demand, **options)

    monkeypatch.setattr("medseg.inference.predictor.fit", noted)
    from medseg.io.read import read_image

    model.predictor.predict(read_image(image.paths))
    (demand,) = seen
    assert demand.source_voxels == 120 * 90 * 40 == demand.prepared_voxels
    assert said.least_bytes - resident_bytes() < demand.least_bytes + 2 * header.bytes
    assert said.bytes >= said.least_bytes


def test_the_peak_of_a_block_is_seen():
    with ResidentPeak(every_s=0.002) as peak:
        np.ones(8 * MB, np.float64).sum()
    assert 50 * MB < peak.extra_bytes < 110 * MB
    assert peak.most_bytes == peak.before_bytes + peak.extra_bytes


def _read(folder: Path):
    from medseg.models.bundle import read_bundle

    return read_bundle(str(folder))


class _Notes:
    """A reporter that keeps its notes."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def note(self, text: str) -> None:
        self._notes.append(text)

    def __getattr__(self, name: str):
        return lambda *args, **options: None
