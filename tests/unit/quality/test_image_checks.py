import numpy as np
import pytest

from medseg.quality.image_checks import check_image
from medseg.quality.options import GateOptions


def film(shape=(200, 150)):
    i, j = np.mgrid[: shape[0], : shape[1]]
    noise = np.random.default_rng(0).normal(0, 5, shape)
    return (100 + 60 * np.sin(i / 20) * np.cos(j / 30) + noise)[None]


def only(found):
    assert len(found) == 1
    assert found[0].level == "refuse"
    return found[0]


def test_plain_image_passes():
    assert check_image(film(), in_channels=1) == ()
    assert check_image(film().astype(np.uint8), in_channels=1) == ()
    assert check_image(np.repeat(film(), 3, axis=0), in_channels=1) == ()


def test_large_image_is_sampled(monkeypatch):
    monkeypatch.setattr("medseg.quality.image_checks._SAMPLE", 1000)
    assert check_image(film(), in_channels=1) == ()
    speck = np.full((1, 200, 150), 7.0)
    speck[0, 0, 0] = 9.0
    assert only(check_image(speck, in_channels=1)).check == "contrast"


def test_small_image():
    finding = only(check_image(film((63, 150)), in_channels=1))
    assert (finding.check, finding.measured, finding.limit) == ("size", 63.0, 64.0)
    assert finding.text == "the image is 63 x 150 voxels; at least 64 a side are needed"


def test_few_slices_are_no_small_image():
    volume = np.random.default_rng(0).normal(size=(1, 80, 90, 5))
    assert check_image(volume, in_channels=1) == ()


def test_long_strip():
    finding = only(check_image(film((400, 100)), in_channels=1))
    assert finding.check == "aspect"
    assert "4.0 times as long as wide" in finding.text


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    image = film()
    image[0, 3, 4] = bad
    finding = only(check_image(image, in_channels=1))
    assert finding.text == "1 of 30000 values are NaN or infinite; the file is damaged"


def test_blank_image():
    assert only(check_image(np.zeros((1, 100, 100)), in_channels=1)).text == (
        "99 % of the pixels have the value 0: the image is blank"
    )
    nearly = np.zeros((1, 100, 100))
    nearly[0, :2, :2] = 4000
    assert only(check_image(nearly, in_channels=1)).check == "contrast"


def test_hot_pixel_does_not_blank_a_faint_image():
    image = film()
    image[0, 5, 5] = 1e9
    assert check_image(image, in_channels=1) == ()


def test_mask_is_no_image():
    finding = only(check_image((film() > 100).astype(np.uint8), in_channels=1))
    assert (finding.check, finding.measured) == ("levels", 2.0)


def test_colour_photograph():
    tint = np.array([1.0, 0.7, 0.4])[:, None, None]
    finding = only(check_image(film() * tint, in_channels=1))
    assert finding.check == "colour"
    assert check_image(film() * tint, in_channels=3) == ()
    # JPEG leaves small differences between the channels of a grey picture.
    noise = np.random.default_rng(1).normal(0, 1, (3, 200, 150))
    assert check_image(film() + noise, in_channels=1) == ()


def test_empty_array():
    assert only(check_image(np.zeros((1, 0, 5)), in_channels=1)).check == "size"


def test_limits_can_be_changed():
    options = GateOptions(smallest_side=20, largest_aspect=10, fewest_levels=2, colour_tolerance=1.0)
    mask = (film((30, 200)) > 100).astype(np.uint8)
    assert check_image(mask, in_channels=1, options=options) == ()


def test_limits_that_contradict_each_other():
    with pytest.raises(ValueError, match="refuse_distance 1 lies below review_distance 2"):
        GateOptions(review_distance=2, refuse_distance=1)
    with pytest.raises(ValueError, match="doubt_distance 1 lies below review_distance 2"):
        GateOptions(review_distance=2, doubt_distance=1, refuse_distance=3)


def test_street_photographs_are_refused(shared_data):
    from PIL import Image

    paths = sorted((shared_data / "driving" / "images").glob("*.jpg"))[::10]
    assert len(paths) == 10
    for path in paths:
        image = np.moveaxis(np.asarray(Image.open(path)), 2, 0)
        assert only(check_image(image, in_channels=1)).check == "colour"


def test_chest_films_pass(shared_data):
    from PIL import Image

    paths = sorted((shared_data / "cxr" / "images").iterdir())[::40]
    for path in paths:
        assert check_image(np.asarray(Image.open(path).convert("L"))[None], in_channels=1) == (), path.name
