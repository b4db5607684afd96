"""CUDA: mixed precision trains, and predictions agree with the CPU."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from medseg.calibration.voxels import start_watch
from medseg.errors import BundleError
from medseg.inference.confidence import ConfidenceTally
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.labels import Label, LabelTable
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network
from medseg.training.loss_options import DiceCrossEntropyOptions, LossOptions
from medseg.training.losses import build_loss
from medseg.training.precision import choose_precision
from medseg.volume import Volume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
TABLE = LabelTable(labels=(Label(name="disc", value=1, colour="#ff0000"),))


def disc() -> tuple[np.ndarray, np.ndarray]:
    i, j = np.mgrid[:64, :64]
    label = ((i - 30) ** 2 + (j - 34) ** 2 < 200).astype(np.int64)
    return (label + np.random.default_rng(0).normal(0, 0.1, label.shape)).astype(np.float32), label


def network():
    return build_network(
        SmallUNetOptions(channels=(16, 24, 32)), spatial_dims=2, in_channels=1, class_count=2, seed=0
    )


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
def test_training_in_each_precision_lowers_the_loss(name):
    device = torch.device("cuda")
    precision = choose_precision(name, device)
    model, (image, label) = network().to(device), disc()
    loss = build_loss(
        DiceCrossEntropyOptions(), set_matrix=TABLE.set_matrix, regions=TABLE.region_classes()
    ).to(device)
    optimiser, scaler = torch.optim.AdamW(model.parameters(), 3e-3), precision.scaler(device)
    x = torch.from_numpy(image)[None, None].to(device)
    y = torch.from_numpy(label)[None, None].to(device)
    values = []
    for _ in range(40):
        optimiser.zero_grad()
        with precision.autocast(device):
            value = loss(model(x), y)
        scaler.scale(value).backward()
        scaler.step(optimiser)
        scaler.update()
        values.append(float(value.detach()))
    assert np.isfinite(values).all()
    assert values[-1] < 0.5 * values[0]


def test_predictions_agree_with_the_cpu():
    image = disc()[0][None]
    found = [
        Predictor(
            network(), steps=(), table=TABLE, options=InferenceOptions(window=(48, 48)), device=device
        ).probabilities(image)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize(
    "use",
    [
        "dice_ce",
        "dice_focal",
        "focal_tversky",
        "top_k_ce",
        "dice_top_k",
        "dice_ce_boundary",
        "generalised_dice",
    ],
)
def test_losses_and_their_slopes_agree_with_the_cpu_and_repeat_to_the_bit(use):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 20, 24, 16, generator=generator)
    label = torch.randint(0, 5, (2, 1, 20, 24, 16), generator=generator)
    sets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.bool_)
    loss = build_loss(
        TypeAdapter(LossOptions).validate_python({"use": use}),
        set_matrix=sets,
        regions={"a": (1,), "b": (2,), "both": (1, 2)},
    )
    loss.set_progress(1.0)
    found = []
    torch.use_deterministic_algorithms(True)
    try:
        for device in ("cpu", "cuda", "cuda"):
            there = logits.clone().to(device).requires_grad_()
            value = loss.to(device)(there, label.to(device))
            value.backward()
            found.append((value.detach().cpu(), there.grad.cpu()))
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(found[0], found[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(found[1], found[2], strict=True))


def volume_of_discs() -> Volume:
    image = disc()[0]
    return Volume(array=np.stack([image] * 40, axis=-1)[None])


class Hungry(torch.nn.Module):
    """Asks for far more than the device has when it is shown more than two windows."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            torch.empty(1 << 44, dtype=torch.uint8, device=x.device)
        self.sizes.append(len(x))
        return torch.cat([0.5 - x, x - 0.5], dim=1) * 8


def test_out_of_memory_is_answered_by_a_smaller_batch():
    model = Hungry()
    found = Predictor(
        model,
        steps=(),
        table=TABLE,
        options=InferenceOptions(window=(32, 32, 16), batch_size=8),
        device="cuda",
        features=False,
    ).predict(volume_of_discs())
    assert max(model.sizes) == 2
    assert any("too little memory" in note for note in found.notes)
    np.testing.assert_array_equal(found.label_map, volume_of_discs().array[0] > 0.5)


@pytest.mark.parametrize("free", [1 << 40, 1 << 10])
def test_sums_on_the_device_and_on_the_host_give_the_mask_of_the_cpu(monkeypatch, free):
    monkeypatch.setattr("medseg.inference.device.free_device_bytes", lambda device: free)
    network3d = build_network(
        SmallUNetOptions(channels=(16, 24, 32)), spatial_dims=3, in_channels=1, class_count=2, seed=0
    )
    masks = [
        Predictor(
            network3d,
            steps=(),
            table=TABLE,
            options=InferenceOptions(window=(32, 32, 16), overlap=0.5, tta="flip"),
            device=device,
        )
        .predict(volume_of_discs())
        .label_map
        for device in ("cpu", "cuda")
    ]
    assert np.mean(masks[0] == masks[1]) > 0.999


def test_the_loop_over_windows_does_not_wait_for_the_device():
    """What waits for the device is what is read at the end, not each window."""
    predictor = Predictor(
        Hungry(),
        steps=(),
        table=TABLE,
        options=InferenceOptions(window=(32, 32, 16), batch_size=2, empty_windows="show"),
        device="cuda",
        features=False,
    )
    expected = predictor.predict(volume_of_discs()).label_map
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = predictor.predict(volume_of_discs()).label_map
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in told if "called a synchronizing" in str(one.message)]
    # Once for each thing that is gathered, whatever the number of windows (there are 45).
    assert len(waits) <= 12, waits
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_confidence_gathered_on_the_device_is_that_of_the_cpu(temperature):
    network3d = build_network(
        SmallUNetOptions(channels=(16, 24, 32)), spatial_dims=3, in_channels=1, class_count=2, seed=0
    )
    found = [
        Predictor(
            network3d,
            steps=(),
            table=TABLE,
            options=InferenceOptions(window=(32, 32, 16), overlap=0.5),
            device=device,
            keep_certainty=True,
            temperature=temperature,
        ).predict(volume_of_discs())
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*[(f.entropy, *f.confidence.values()) for f in found], strict=True):
        for name, value in one.items():
            assert other[name] == pytest.approx(value, abs=2e-3), name
    steps = [f.certainty.winning.astype(np.float64) / 65535 for f in found]
    np.testing.assert_allclose(steps[0], steps[1], atol=2e-3)


def test_answers_that_are_not_finite_are_refused_by_name():
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x / 0], dim=1)

    predictor = Predictor(
        Broken(),
        steps=(),
        table=TABLE,
        options=InferenceOptions(window=(32, 32, 16)),
        device="cuda",
        features=False,
    )
    with pytest.raises(BundleError, match="not finite"):
        predictor.predict(volume_of_discs())


def test_confidence_of_regions_gathered_on_the_card_is_that_of_the_processor():
    labels = tuple(Label(name=name, value=i, colour="#ffffff") for i, name in enumerate("abc", start=1))
    table = LabelTable(
        labels=labels, regions={"whole": ("a", "b", "c"), "core": ("b", "c"), "two": ("a", "b")}
    )
    values = torch.softmax(
        3 * torch.randn((4, 24, 20, 18), generator=torch.Generator().manual_seed(0)), dim=0
    )
    found = {}
    for device in ("cpu", "cuda"):
        tally = ConfidenceTally(values.shape[1:], table, device=device)
        for start in range(0, 24, 7):
            place = (slice(start, min(24, start + 7)), slice(0, 20), slice(0, 18))
            tally.add(place, values[(slice(None), *place)].to(device))
        found[device] = (tally.labels(), tally.unions)
    for name, known in found["cpu"][0].items():
        assert found["cuda"][0][name] == pytest.approx(known, rel=1e-5)
    for one, other in zip(found["cpu"][1], found["cuda"][1], strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_a_watched_prediction_on_the_card_has_the_same_mask_and_is_looked_at_as_on_the_processor():
    image, label = disc()
    reference = label[None].astype(np.int16)
    volume, sums = Volume(array=image[None]), {}
    for device in ("cpu", "cuda"):
        predictor = Predictor(
            network(), steps=(), table=TABLE, options=InferenceOptions(), device=device, temperature=1.5
        )
        start = partial(start_watch, reference=reference, volume=volume, table=TABLE, scaled=True)
        found = predictor.predict(volume, watch=start)
        np.testing.assert_array_equal(found.label_map, predictor.predict(volume).label_map)
        sums[device] = found.watch.calibrated()["disc"]
    assert sums["cuda"].table[:, 0].sum() == pytest.approx(sums["cpu"].table[:, 0].sum(), rel=0.01)
    assert sums["cuda"].squares == pytest.approx(sums["cpu"].squares, rel=0.01)
