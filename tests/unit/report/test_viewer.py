"""The 3D viewer: what goes into the page, how it is made small, and that NiiVue is the released one."""

import base64
import gzip
import hashlib
import json
import re

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import LabelError, StorageError
from medseg.report import niivue as vendored
from medseg.report.mosaic import Masks
from medseg.report.niivue import SHA256, VERSION, checked, niivue
from medseg.report.page import Structure
from medseg.report.viewer import viewer_section, wants_viewer
from medseg.report.viewer_grid import coarser, first_factors, pack, shrink_image, shrink_labels, shrunk_affine

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'\u202e\x07"
STRUCTURES = (
    Structure(name="lung_right", colour="#3aa0ff"),
    Structure(name=HOSTILE, colour="#ff8040"),
    Structure(name="lung", colour="#8a97a5", kind="region"),
)
OBLIQUE = np.array([[-1.9, 0.3, 0.0, 40.0], [0.3, 1.4, -0.4, -25.0], [0.1, 0.2, 3.0, 7.0], [0, 0, 0, 1]])


def gray(values):
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def scene():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (1, 17, 12, 10)).astype(np.int16)
    label_map = np.zeros((17, 12, 10), np.uint8)
    label_map[2:7, 3:9, 2:8], label_map[9:14, 3:9, 2:8] = 1, 2
    return image, label_map


def section(**changes):
    image, label_map = scene()
    options = {"gray": gray, "structures": STRUCTURES, "affine": OBLIQUE, "spacing_mm": None} | changes
    return viewer_section(image, label_map, **options)


def block(html, name):
    found = re.search(rf'<script type="[^"]+" id="viewer-{name}">([^<]*)</script>', html)
    assert found is not None
    return found[1]


def volume(html, name):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(block(html, name))))


def test_the_vendored_niivue_is_the_released_one():
    library = niivue()
    script = gzip.decompress(base64.b64decode(library.packed))
    assert hashlib.sha256(script).hexdigest() == SHA256
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert library.csp_hash == f"sha256-{digest}"
    assert f'"{VERSION}"'.encode() in script
    assert "Copyright (c) 2021, Niivue" in library.licences
    # Pages promise that nothing of this is used; a new release must be looked at again.
    for word in (b"eval(", b"new Function", b"new Worker", b"XMLHttpRequest", b"WebSocket(", b"import("):
        assert word not in script


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"alert(1)"), b"no gzip", gzip.compress(b"x" * 99)[:20]],
    ids=["another", "no gzip", "cut off"],
)
def test_another_script_is_not_taken_for_niivue(packed):
    with pytest.raises(StorageError, match="install medseg anew"):
        checked(packed)


def test_a_missing_file_is_told(monkeypatch):
    monkeypatch.setattr(vendored, "_FILE", "nothing.gz")
    niivue.cache_clear()
    with pytest.raises(StorageError, match=f"NiiVue {VERSION} is missing"):
        niivue()
    niivue.cache_clear()


def test_volume_and_mask_are_in_the_page_on_their_grid():
    image, label_map = scene()
    html = section().html
    shown, mask = volume(html, "volume"), volume(html, "mask")
    assert shown.get_data_dtype() == mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(shown.dataobj), image[0])
    np.testing.assert_array_equal(np.asarray(mask.dataobj), label_map)
    for file in (shown, mask):
        np.testing.assert_allclose(file.affine, OBLIQUE, atol=1e-4)
    assert mask.header.get_intent()[0] == "label"
    assert "Full resolution (17 × 12 × 10 voxels)" in html


def test_names_are_text_in_the_page_and_in_its_data():
    html = section().html
    options = json.loads(block(html, "options"))
    said = [row["name"].replace(" ", "") for row in options["structures"]]
    assert said == ["lungright", HOSTILE.replace(" ", "")]
    assert options["structures"][0]["rgb"] == [0x3A, 0xA0, 0xFF]
    assert html.count("<script") == html.count("</script>") == 4
    assert "<img" not in html


def test_structures_that_the_mask_lacks_have_no_box():
    image, label_map = scene()
    made = viewer_section(
        image,
        np.minimum(label_map, 1),
        gray=gray,
        structures=STRUCTURES,
        affine=None,
        spacing_mm=(2.0, 1.5, 3.0),
    )
    assert re.findall(r'data-structure="(\d+)"', made.html) == ["1"]
    options = json.loads(block(made.html, "options"))
    assert (options["known"], options["measured"]) == (False, True)
    np.testing.assert_allclose(volume(made.html, "volume").affine, np.diag([2, 1.5, 3, 1]))


def test_a_reference_is_in_the_page_in_lighter_colours_and_off():
    _, label_map = scene()
    # Sets of classes: 5 is the first structure, 6 is one of both, 7 may as well be background.
    sets = np.choose(label_map, [7, 5, 6])
    known = Masks(array=sets, names={5: "lung_right", 6: ""})
    html = section(reference=known).html
    np.testing.assert_array_equal(
        np.asarray(volume(html, "reference").dataobj), np.choose(label_map, [0, 1, 255])
    )
    assert '<input type="checkbox" id="viewer-known">' in html
    rows = {row["index"]: row["rgb"] for row in json.loads(block(html, "options"))["reference"]}
    assert rows[1] == [(c + 510) // 3 for c in (0x3A, 0xA0, 0xFF)]
    assert rows[255] == [255, 255, 255]
    assert "viewer-reference" not in section().html


def test_the_policy_needs_two_hashes_and_nothing_else():
    made = section()
    assert len(made.scripts) == 1
    assert made.script_hashes == (niivue().csp_hash,)
    assert not made.policy
    assert "fetch(" not in made.scripts[0]
    assert "style=" not in made.html


def test_both_languages_say_everything():
    english, chinese = section().html, section(language="zh").html
    assert "Open the 3D viewer" in english
    assert "打开三维查看器" in chinese
    assert "右肺" in chinese


def test_a_small_budget_gives_larger_blocks_and_a_note():
    whole, small = section(), section(max_bytes=1500)
    assert len(block(small.html, "volume")) + len(block(small.html, "mask")) <= 1500
    assert len(block(whole.html, "volume")) > 1500
    assert "Made smaller for this page" in small.html
    # The centre of the middle stays where it is, up to the voxels that fill up the last blocks.
    for name in ("volume", "mask"):
        file = volume(small.html, name)
        steps = np.linalg.norm(file.affine[:3, :3], axis=0) / np.linalg.norm(OBLIQUE[:3, :3], axis=0)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        outer = file.affine @ [-0.5, -0.5, -0.5, 1]
        np.testing.assert_allclose(outer, OBLIQUE @ [-0.5, -0.5, -0.5, 1], atol=1e-3)


def test_more_classes_than_a_byte_holds_are_told_not_shown():
    image, label_map = scene()
    many = label_map.astype(np.uint16) * 200
    with pytest.raises(LabelError, match="up to 255, found 400"):
        pack(image, many, gray=gray, affine=OBLIQUE, max_bytes=10**6)
    made = viewer_section(image, many, gray=gray, structures=STRUCTURES, affine=OBLIQUE, spacing_mm=None)
    assert made.html.startswith('<p class="m">No 3D viewer: ')
    assert made.scripts == made.script_hashes == ()


@pytest.mark.parametrize(
    ("option", "shape", "wanted"),
    [("auto", (40, 30, 20), True), ("auto", (512, 512, 5), False), (True, (512, 512, 5), True),
     (False, (40, 30, 20), False), (True, (512, 400), False), ("auto", (512, 400), False)],
)  # fmt: skip
def test_when_a_page_gets_a_viewer(option, shape, wanted):
    assert wants_viewer(option, shape) is wanted


def test_blocks_are_means_and_commonest_classes():
    image = np.arange(2 * 4 * 3 * 2, dtype=np.float32).reshape(2, 4, 3, 2)
    shown = shrink_image(image, gray, (2, 1, 2))
    mean = image.mean(axis=0)
    np.testing.assert_array_equal(shown[1, 2, 0], gray(mean[2:4, 2, 0:2].mean()))
    assert shown.shape == (2, 3, 1)
    label_map = np.array([[[0, 0, 5], [0, 7, 5]], [[7, 7, 5], [0, 7, 0]]], dtype=np.int16)
    # Four of 0 and four of 7: the structure; then one class alone with a voxel of background.
    assert shrink_labels(label_map, (2, 2, 2)).tolist() == [[[7, 5]]]


@settings(max_examples=30)
@given(
    label_map=arrays(np.uint8, st.tuples(*(st.integers(1, 7),) * 3), elements=st.integers(0, 3)),
    factors=st.tuples(*(st.integers(1, 3),) * 3),
)
def test_labels_of_a_block_are_in_it_and_as_common_as_any(label_map, factors):
    small = shrink_labels(label_map, factors)
    padded = np.pad(
        label_map, [(0, -n % f) for n, f in zip(label_map.shape, factors, strict=True)], mode="edge"
    )
    for place in np.ndindex(small.shape):
        cut = tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, factors, strict=True))
        counts = np.bincount(padded[cut].ravel(), minlength=4)
        assert counts[small[place]] == counts.max()


def test_the_finest_axis_is_made_coarser_first():
    spacing = np.array([0.7, 0.7, 2.5])
    assert coarser((1, 1, 1), spacing, (512, 400, 60)) == (2, 2, 1)
    assert coarser((4, 4, 1), spacing, (512, 400, 60)) == (4, 4, 2)
    assert coarser((2, 2, 1), spacing, (2, 2, 60)) == (2, 2, 2)
    i, j, k = first_factors((512, 400, 300), np.array([0.75, 0.75, 1.0]), 10_000_000)
    assert np.prod([-(-n // f) for n, f in zip((512, 400, 300), (i, j, k), strict=True)]) <= 10_000_000
    assert first_factors((30, 20, 10), spacing, 10_000_000) == (1, 1, 1)


def test_block_centres_are_means_of_voxel_centres():
    affine = shrunk_affine(OBLIQUE, (2, 3, 1))
    centres = [OBLIQUE @ [i, j, 5, 1] for i in (4, 5) for j in (6, 7, 8)]
    np.testing.assert_allclose(affine @ [2, 2, 5, 1], np.mean(centres, axis=0))
