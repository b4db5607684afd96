import warnings

import numpy as np
import pytest
from pydantic import TypeAdapter

from medseg.errors import ConfigError, InputRefusedError
from medseg.transforms.clahe import clahe
from medseg.transforms.denoise import noise_deviation
from medseg.transforms.intensity import otsu_threshold
from medseg.transforms.options import PreprocessStep
from medseg.transforms.preprocess import preprocess
from medseg.volume import Volume

STEP = TypeAdapter(PreprocessStep)


@pytest.fixture(scope="module")
def monai_transforms():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.transforms

    return monai.transforms


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 600.0, shape or (1, 40, 61)).astype(np.float32)


def apply(array: np.ndarray, statistics: dict | None = None, **step) -> np.ndarray:
    return preprocess(Volume(array=array), [STEP.validate_python(step)], statistics=statistics).array


def test_normalise_agrees_with_monai(monai_transforms):
    array = image(2, 40, 61)
    pairs = [
        (
            {"method": "percentile", "low": 2, "high": 97},
            monai_transforms.ScaleIntensityRangePercentiles(2, 97, 0, 1, clip=True, channel_wise=True),
        ),
        (
            {
                "method": "percentile",
                "low": 2,
                "high": 97,
                "clip": False,
                "channelwise": False,
                "to": [-1, 1],
            },
            monai_transforms.ScaleIntensityRangePercentiles(2, 97, -1, 1),
        ),
        (
            {"method": "window", "low": 100, "high": 2000},
            monai_transforms.ScaleIntensityRange(100, 2000, 0, 1, clip=True),
        ),
        ({"method": "range", "to": [-1, 1]}, monai_transforms.ScaleIntensity(-1, 1, channel_wise=True)),
    ]
    for step, reference in pairs:
        np.testing.assert_allclose(
            apply(array, use="normalise", **step), np.asarray(reference(array.copy())), atol=5e-6
        )


def test_standardise_agrees_with_monai(monai_transforms):
    array = image(2, 40, 61)
    reference = monai_transforms.NormalizeIntensity(channel_wise=True)
    np.testing.assert_allclose(
        apply(array, use="standardise"), np.asarray(reference(array.copy())), atol=1e-5
    )
    positive = np.where(array > 900, array, 0)
    reference = monai_transforms.NormalizeIntensity(nonzero=True, channel_wise=True)
    ours = apply(positive, use="standardise", method="masked")
    inside = positive > 0
    np.testing.assert_allclose(ours[inside], np.asarray(reference(positive.copy()))[inside], atol=1e-5)
    assert ours[~inside].max() < ours[inside].min()


def test_equalised_histogram_agrees_with_monai(monai_transforms):
    array = image()
    reference = monai_transforms.HistogramNormalize(num_bins=256, min=0, max=1)
    ours = apply(array, use="equalise", method="histogram")
    # MONAI interpolates within a bin, we do not: they may differ by what one bin holds.
    bins = np.histogram(array, 256)[0].max() / array.size
    assert np.abs(ours - np.asarray(reference(array))).max() < bins


def test_gaussian_and_median_agree_with_monai(monai_transforms):
    array = image(1, 30, 41)
    inner = (slice(None), slice(6, -6), slice(6, -6))
    ours = apply(array, use="denoise", method="median", radius=1)
    np.testing.assert_array_equal(ours[inner], np.asarray(monai_transforms.MedianSmooth(1)(array))[inner])
    ours = apply(array, use="denoise", method="gaussian", sigma=1.0)
    theirs = np.asarray(monai_transforms.GaussianSmooth(1.0, approx="sampled")(array))
    np.testing.assert_allclose(ours[inner], theirs[inner], rtol=2e-4)


def test_dataset_statistics_are_used_and_asked_for():
    array = np.array([[[1.0, 3.0], [5.0, 7.0]]])
    found = apply(array, statistics={"mean": 3, "std": 2}, use="standardise", method="dataset")
    np.testing.assert_array_equal(found[0], [[-1, 0], [1, 2]])
    with pytest.raises(ConfigError, match="needs the training data's mean and std"):
        apply(array, use="standardise", method="dataset")
    with pytest.raises(ConfigError, match="needs the training data's std"):
        apply(array, statistics={"mean": 3}, use="standardise", method="dataset")


@pytest.mark.parametrize(
    "step",
    [
        {"use": "normalise"},
        {"use": "normalise", "method": "range"},
        {"use": "standardise"},
        {"use": "equalise"},
        {"use": "equalise", "method": "histogram"},
        {"use": "binarise"},
    ],
)
def test_no_contrast_is_refused(step):
    with pytest.raises(InputRefusedError, match=r"no contrast|do not vary"):
        apply(np.full((1, 20, 30), 4.0), **step)


def test_masked_standardise_without_foreground_is_refused():
    with pytest.raises(InputRefusedError, match="no voxel lies above the threshold 9"):
        apply(np.ones((1, 4, 5)), use="standardise", method="masked", threshold=9)


def test_otsu_cuts_between_two_populations():
    random = np.random.default_rng(3)
    low, high = random.normal(10, 2, 3000), random.normal(50, 4, 1000)
    level = otsu_threshold(np.concatenate([low, high]).astype(np.float32))
    assert 17 < level < 36
    found = apply(np.concatenate([low, high]).reshape(1, 40, 100), use="binarise")
    assert found.sum() == 1000
    assert set(np.unique(found)) == {0, 1}


def test_otsu_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    array = image(1, 80, 91)[0]
    theirs = sitk.OtsuThresholdImageFilter()
    theirs.SetNumberOfHistogramBins(256)
    theirs.Execute(sitk.GetImageFromArray(array))
    assert otsu_threshold(array) == pytest.approx(
        theirs.GetThreshold(), abs=1.01 * float(np.ptp(array)) / 256
    )


def test_fixed_threshold_is_exclusive():
    found = apply(np.array([[[1.0, 2.0, 3.0]] * 2]), use="binarise", method="fixed", threshold=2)
    np.testing.assert_array_equal(found[0, 0], [0, 0, 1])


def test_clahe_of_one_tile_without_limit_is_the_plain_rank():
    array = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    found = clahe(array, bins=100, clip_limit=100, tiles=1)
    np.testing.assert_allclose(found.ravel(), (np.arange(100) + 0.5) / 100, atol=1e-6)


def test_clahe_limit_of_one_leaves_a_straight_line():
    array = image(1, 32, 48) ** 2
    found = clahe(array, clip_limit=1.0, tiles=4)
    unit = (array - array.min()) / np.ptp(array)
    assert np.abs(found - unit).max() < 0.45
    assert np.corrcoef(found.ravel(), unit.ravel())[0, 1] > 0.8


def test_clahe_raises_local_contrast_and_is_symmetric_in_polarity():
    random = np.random.default_rng(5)
    shade = np.linspace(0, 10, 120)[:, None] + random.normal(0, 0.2, (120, 90))
    array = shade[None].astype(np.float32)
    found = clahe(array, clip_limit=4.0)
    assert found.min() >= 0
    assert found.max() <= 1
    unit = (array - array.min()) / np.ptp(array)
    assert np.diff(found, axis=2).std() > 2 * np.diff(unit, axis=2).std()
    inverted = clahe(-array, clip_limit=4.0)
    np.testing.assert_allclose(inverted, 1 - found, atol=0.03)


def test_clahe_slabs_join_in_3d(monkeypatch):
    array = image(1, 20, 17, 13)
    whole = clahe(array, tiles=3)
    monkeypatch.setattr("medseg.transforms.clahe._SLAB_VOXELS", 3 * 17 * 13)
    np.testing.assert_array_equal(clahe(array, tiles=3), whole)


@pytest.mark.parametrize(
    "step",
    [
        {"method": "median"},
        {"method": "gaussian"},
        {"method": "bilateral", "sigma": 2, "range_sigma": 0.15},
        {"method": "nlm", "search": 3},
    ],
)
def test_denoising_brings_an_edge_nearer_to_the_truth(step):
    truth = np.zeros((1, 60, 80), dtype=np.float32)
    truth[:, :, 40:] = 1
    noisy = truth + 0.1 * np.random.default_rng(6).standard_normal(truth.shape).astype(np.float32)
    found = apply(noisy, use="denoise", **step)
    flat = (slice(None), slice(None), slice(10, 30))
    assert np.abs(found - truth)[flat].std() < 0.6 * np.abs(noisy - truth)[flat].std()
    if step["method"] in ("bilateral", "nlm", "median"):
        assert found[:, :, 41:43].mean() - found[:, :, 37:39].mean() > 0.95


def test_non_local_means_forgives_patches_the_difference_that_noise_makes():
    noise = 0.1 * np.random.default_rng(6).standard_normal((1, 60, 80)).astype(np.float32)
    # 49 voxels of the search window averaged nearly evenly would give 0.014.
    assert apply(noise, use="denoise", method="nlm", search=3).std() < 0.03


def test_denoising_works_in_3d_and_on_each_channel():
    array = image(2, 8, 9, 10)
    for method in ("median", "gaussian", "bilateral"):
        assert apply(array, use="denoise", method=method).shape == array.shape
    assert apply(array, use="denoise", method="nlm", search=1).shape == array.shape


def test_noise_deviation_of_a_ramp_with_noise():
    random = np.random.default_rng(7)
    array = np.linspace(0, 1, 200)[:, None] + random.normal(0, 0.05, (200, 150))
    assert noise_deviation(array.astype(np.float32)) == pytest.approx(0.05, rel=0.03)
