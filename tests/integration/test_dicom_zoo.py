"""Each folder of the DICOM collection gives the images that its tables say, or the refusal that they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zoo import JUDGEMENTS, Expectation, FoundImage, Image, differences, expectations

from medseg.io.discover import discover

pytestmark = pytest.mark.slow


def found_images(folder: Path) -> list[FoundImage]:
    """What medseg's discovery finds; radiographs left out."""
    images = []
    for image in discover([folder]).images:
        volume = image.volume
        if volume is None:
            continue
        size = (*volume.grid.shape, 1)[:3]
        problem = volume.problems[0] if volume.problems else ""
        images.append(FoundImage(size, volume.grid.affine, volume.tilt_degrees, problem))
    return images


@pytest.fixture(scope="module")
def zoo(shared_data) -> Path:
    return Path(shared_data / "dicom")


CASES = """
broken_and_hostile charsets charsets_b cr_monochrome1_chest cr_monochrome1_j2k cr_monochrome2_j2k
ct_empty_uids_j2k ct_enhanced_perfusion ct_gantry_tilt_philips ct_gantry_tilt_siemens
ct_jpeg_fragments_no_bot ct_legacy_enhanced_and_seg ct_localizer ct_missing_slice ct_nema_wg04
ct_oblique_no_numbers ct_one_slice_oblique ct_plain ct_same_position_series ct_tilt_step_change_ge
decimal_rescale dicomdir_tree dx_monochrome1_small high_bits_garbage htj2k_rgb mixed_series_one_folder
mr_brain_oblique mr_cine_multiframe mr_duplicate_files mr_dwi_3_bvalues mr_empty_slice_thickness
mr_enhanced_4d mr_enhanced_philips mr_enhanced_small mr_fmri_2_volumes mr_hippocampus_crop_1
mr_hippocampus_crop_2 mr_hitachi_oblique mr_knee_j2k mr_localizer_3plane mr_missing_slice mr_mosaic
mr_prone mr_two_echoes mr_two_orientations mr_two_slices no_meta_header non_image_objects overlays
parametric_map_float per_slice_rescale rgb_volume rtstruct_two_slices same_ct_many_syntaxes
same_mosaic_many_syntaxes seg_encodings seg_encodings_b seg_highdicom seg_liver series_j2k series_jpegls
series_rle series_uncompressed us_palette_and_ybr
""".split()  # noqa: SIM905


def test_every_case_is_tried(zoo):
    assert set(expectations(zoo)) == set(CASES)
    assert set(JUDGEMENTS) <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_folder_holds_what_the_tables_say(zoo, case):
    assert differences(expectations(zoo)[case], found_images(zoo / case)) == []


def test_differences_are_noticed():
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    good = FoundImage((8, 9, 4), affine, 0.0, "")
    want = Image((8, 9, 4), (2.0, 2.0, 3.0), 0.0, ((0.0, 0.0, 9.0), (0.0, 0.0, 0.0)))
    assert differences(Expectation((want,)), [good]) == []
    for wrong in (
        [],
        [good, good],
        [FoundImage((8, 9, 5), affine, 0.0, "")],
        [FoundImage((8, 9, 4), np.diag([2.0, 2.0, 3.1, 1.0]), 0.0, "")],
        [FoundImage((8, 9, 4), affine, 14.0, "")],
        [FoundImage((8, 9, 4), affine, 0.0, "a gap")],
        [FoundImage((8, 9, 4), np.diag([2.0, 2.0, -3.0, 1.0]), 0.0, "")],
    ):
        assert len(differences(Expectation((want,)), wrong)) == 1
    refused = Expectation((Image((8, 9, 4), refused="gap"),))
    assert differences(refused, [FoundImage((8, 9, 4), None, 0.0, "a gap of 6 mm")]) == []
    assert differences(refused, [good]) != []
    assert differences(refused, [FoundImage((8, 9, 4), None, 0.0, "bad")]) != []
