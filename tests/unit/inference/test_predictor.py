import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import BundleError, ConfigError, InputRefusedError
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.sides import side_axis
from medseg.labels import Label, LabelTable
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network
from medseg.transforms.options import Crop, Normalise, Orient, Resample, Resize
from medseg.volume import Volume

TABLE = LabelTable(
    labels=(
        Label(name="lung_right", value=1, colour="#3aa0ff", side="right", pair="lung_left"),
        Label(name="lung_left", value=2, colour="#b684f5", side="left", pair="lung_right"),
    ),
    regions={"lung": ("lung_right", "lung_left")},
)
STEPS = (
    Orient(to="LF"),
    Normalise(method="range"),
    Resize(size=(64, 64), keep_aspect=True),
)


class Threshold(nn.Module):
    """Bright is lung: right in the first half of the columns, left in the second."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = level
        self.shown: list[tuple[int, ...]] = []
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(x.shape))
        self.modes.append(self.training)
        first = (torch.arange(x.shape[2]) < x.shape[2] / 2).float().reshape(1, 1, -1, 1)
        found = torch.sigmoid((x - self.level) * 40)
        return torch.log(torch.cat([1 - found, found * first, found * (1 - first)], dim=1) + 1e-6)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).mean(dim=2)


class Constant(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(x[:, 0], value) for value in self.values], dim=1)


def film(columns=150, rows=120, *, box=(20, 60, 30, 90), second=(90, 130, 30, 90), **facts) -> Volume:
    """Two bright boxes (first and last column, first and last row) on a dark film."""
    array = np.zeros((1, columns, rows), np.float32)
    for a, b, c, d in (box, second):
        array[0, a:b, c:d] = 900
    return Volume(**{"array": array, "patient_orientation": ("L", "F"), **facts})


def predictor(network=None, *, steps=STEPS, **options) -> Predictor:
    return Predictor(
        network or Threshold(), steps=steps, table=TABLE, options=InferenceOptions.model_validate(options)
    )


def dice(a, b) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


def test_label_map_lies_on_the_source_grid():
    prediction = predictor(window=[48, 48], overlap=0.5).predict(film())
    assert prediction.label_map.shape == (150, 120)
    assert prediction.label_map.dtype == np.uint8
    truth = film().array[0] > 0
    assert dice(prediction.label_map > 0, truth) > 0.95
    assert prediction.passes == 1
    assert prediction.maps == {}
    assert prediction.disagreement == {}
    assert prediction.grid.source_shape == (150, 120)
    assert prediction.prepared.array.shape == (1, 64, 64)


def test_film_seen_from_behind_is_turned_and_turned_back():
    plain = film(box=(10, 40, 30, 90), second=(100, 130, 50, 60))
    behind = Volume(array=plain.array[:, ::-1].copy(), patient_orientation=("R", "F"))
    whole = predictor()
    expected = whole.predict(plain).label_map
    np.testing.assert_array_equal(whole.predict(behind).label_map[::-1], expected)
    assert set(np.unique(expected)) == {0, 1, 2}


def test_features_are_averaged_over_windows_side_by_side():
    image = np.random.default_rng(0).random((1, 64, 48)).astype(np.float32)
    whole = predictor().features(image)
    parts = predictor(window=[32, 24]).features(image)
    np.testing.assert_allclose(whole, [image.mean()], rtol=1e-5)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert predictor(Constant(0, 1, 0)).features(image) is None


def test_probabilities_sum_to_one_on_the_prepared_grid():
    whole = predictor(tta=["flip", "gamma"])
    found = whole.probabilities(whole.predict(film()).prepared.array)
    assert found.shape == (3, 64, 64)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"refine": {"margin": 0.2, "min_share": 0.01}}, {"window": [48, 40]}]
)
def test_the_label_map_alone_is_that_of_a_prediction(options):
    image = film(600, 500, box=(240, 275, 300, 377), second=(290, 325, 300, 377))
    whole = predictor(**options)
    np.testing.assert_array_equal(whole.segment(image), whole.predict(image).label_map)


def test_second_pass_frames_what_the_first_found():
    image = film(600, 500, box=(240, 275, 300, 377), second=(290, 325, 300, 377))
    truth = image.array[0] > 0
    once = predictor().predict(image)
    network = Threshold()
    twice = predictor(network, refine={"margin": 0.2, "min_share": 0.01}).predict(image)
    assert twice.passes == 2
    assert len(network.shown) == 2
    assert twice.label_map.shape == (600, 500)
    assert dice(twice.label_map > 0, truth) > 0.95
    assert dice(twice.label_map > 0, truth) > dice(once.label_map > 0, truth)
    # The cut-out is 85 x 77 pixels and a fifth more on each side: 119 x 108, a pixel of 600 / 64 more or less.
    scales = [abs(scale) * 64 for _, scale, _ in twice.grid.axis_maps()]
    np.testing.assert_allclose(max(scales), 119, atol=20)


def test_specks_do_not_move_the_frame():
    image = film(600, 500, box=(240, 275, 300, 377), second=(290, 325, 300, 377))
    image.array[0, 2:25, 470:495] = 900
    found = predictor(refine={"labels": ["lung"], "min_share": 0.005, "margin": 0.2}).predict(image)
    assert found.passes == 2
    assert max(abs(scale) * 64 for _, scale, _ in found.grid.axis_maps()) < 150


def test_first_pass_stands_where_nothing_or_too_little_was_found():
    nothing = predictor(Constant(9, 0, 0), refine={"min_share": 0}).predict(film())
    assert nothing.passes == 1
    assert nothing.notes == (
        "The second pass was not used, because the first found only 0.0% of the image; "
        "the result is that of the first.",
    )
    little = predictor(refine={"min_share": 0.9}).predict(film())
    assert little.passes == 1
    assert "found only" in little.notes[0]
    np.testing.assert_array_equal(little.label_map, predictor().predict(film()).label_map)


class Fickle(nn.Module):
    """Sees the boxes in the first image that it is shown and a speck in the next."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return Threshold(0.5)(x) if self.count == 1 else Threshold(0.5)(x * (torch.rand(x.shape) > 0.9))


def test_first_pass_stands_where_the_second_disagrees():
    found = predictor(Fickle(), refine={}).predict(film(300, 300))
    assert found.passes == 1
    assert "the masks of the two differ in size by" in found.notes[0]


def test_no_second_pass_where_the_frame_is_the_film():
    network = Threshold()
    found = predictor(network, refine={"margin": 2}).predict(film())
    assert (found.passes, found.notes, len(network.shown)) == (1, (), 1)


def test_refine_works_with_a_crop_that_follows_the_image_and_refuses_a_fixed_box():
    found = predictor(steps=(Crop(method="foreground", threshold=100, margin=9), *STEPS), refine={}).predict(
        film()
    )
    assert dice(found.label_map > 0, film().array[0] > 0) > 0.95
    with pytest.raises(ConfigError, match=r"inference.refine does not go with preprocess crop: box"):
        predictor(steps=(Crop(method="box", start=(10, 20), size=(130, 90)), *STEPS), refine={})


def test_faults_of_network_and_image_are_named():
    with pytest.raises(BundleError, match=r"not finite for a finite image \(precision float32\)"):
        predictor(Constant(np.nan, 0, 0)).predict(film())
    with pytest.raises(BundleError, match="the network gives 2 classes, the label table has 3"):
        predictor(Constant(0, 0)).predict(film())
    broken = film()
    broken.array[0, 3, 3] = np.nan
    with pytest.raises(InputRefusedError, match="not finite"):
        predictor().predict(broken)
    with pytest.raises(InputRefusedError, match="not finite"):
        predictor().probabilities(broken.array)
    with pytest.raises(
        ConfigError, match=r"refine.labels names \['liver'\]; known: lung_right, lung_left, lung"
    ):
        predictor(refine={"labels": ["liver"]}).predict(film())


def test_network_is_left_in_the_mode_it_was_in():
    network = Threshold().train()
    predictor(network).predict(film())
    assert network.modes == [False]
    assert network.training


def test_low_precision_keeps_float32_probabilities():
    network = nn.Sequential(nn.Conv2d(1, 3, 1))
    runner = Predictor(network, steps=STEPS, table=TABLE, options=InferenceOptions(), dtype=torch.bfloat16)
    found = runner.probabilities(np.random.default_rng(0).random((1, 16, 12)).astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)


def test_side_axis_follows_orient():
    assert side_axis(()) == 0
    assert side_axis(STEPS) == 0
    assert side_axis((Orient(to="FL"),)) == 1
    assert side_axis((Orient(to="SPR"),)) == 2
    assert side_axis((Orient(to="AF"),)) is None


def test_network_of_the_registry_gives_labels_and_features():
    network = build_network(SmallUNetOptions(), spatial_dims=2, in_channels=1, class_count=3, seed=0)
    found = predictor(network, window=[64, 64], tta="flip").predict(film())
    assert found.label_map.shape == (150, 120)
    assert found.features.shape == (network.feature_count,)
    assert network.training


class Bright(nn.Module):
    """Bright is lung, in two or three dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.sigmoid((x - 0.5) * 40)
        return torch.log(torch.cat([1 - found, found, 0 * found], dim=1) + 1e-6)


@pytest.mark.parametrize("degrees", [0.3, 18])
def test_tilted_volumes_are_straightened_and_the_result_brought_back(degrees):
    affine = np.diag([-0.8, -1.0, 2.5, 1])
    affine[1, 2] = 2.5 * np.tan(np.radians(degrees))
    array = np.zeros((1, 40, 48, 24), np.float32)
    array[0, 10:30, 12:36, 6:18] = 900
    steps = (Orient(to="LAS"), Normalise(method="range"), Resample(spacing_mm=(1, 1, 2)))
    volume = Volume(array=array, affine=affine, spacing_mm=tuple(np.linalg.norm(affine[:3, :3], axis=0)))
    network = predictor(Bright(), steps=steps, window=[16, 16, 16])
    prediction = network.predict(volume)
    assert prediction.label_map.shape == (40, 48, 24)
    assert dice(prediction.label_map > 0, array[0] > 0) > 0.97
    told = [note for note in prediction.notes if "tilted" in note]
    if degrees < 0.5:
        assert (prediction.shear, told) == (None, [])
    else:
        assert prediction.shear is not None
        assert prediction.grid.source_shape == prediction.shear.straight_shape
        assert told == [
            "The slices are tilted by 18.0 degrees against their axis; the image was straightened for the "
            "network and the result brought back onto the tilted slices."
        ]
