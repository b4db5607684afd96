"""What every network of the registry does, in two and three dimensions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medseg.labels import Label, LabelTable
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.models.bundle_writer import write_bundle

SIZES = {2: (33, 22), 3: (17, 22, 9)}
EVEN = {2: (32, 24), 3: (16, 24, 8)}


def first(logits):
    return logits[0] if isinstance(logits, list) else logits


@pytest.mark.parametrize("in_channels", [1, 4])
def test_logits_lie_on_the_grid_and_every_weight_learns(case, in_channels, make, image):
    network = make(case, in_channels=in_channels)
    size = SIZES[case[1]]
    # Several images: one alone may leave every unit of the small context gate shut.
    logits = network(image(3, in_channels, *size))
    assert logits.shape == (3, 3, *size)
    F.cross_entropy(logits, torch.zeros(3, *size, dtype=torch.long)).backward()
    silent = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
    ]
    assert silent == []
    with torch.no_grad():
        vector = network.eval().features(image(1, in_channels, *size))
    assert vector.shape == (1, network.feature_count)


def test_an_odd_size_is_continued_by_its_border(case, make, image):
    network, size = make(case).eval(), SIZES[case[1]]
    missing = [
        max(-n % stride, least - n)
        for n, stride, least in zip(size, network.stride, network.least, strict=True)
    ]
    x = image(1, 1, *size)
    fitted = F.pad(x, [part for n in reversed(missing) for part in (0, n)], mode="replicate")
    inside = (slice(None), slice(None), *(slice(0, n) for n in size))
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(fitted)[inside], atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_mix(case, make, image):
    network = make(case).eval()
    x = image(3, 1, *EVEN[case[1]])
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), atol=1e-4, rtol=1e-4)


def test_same_seed_same_weights_and_the_random_state_is_left_alone(plain_case, make):
    before = torch.random.get_rng_state()
    networks = [make(plain_case, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(before, torch.random.get_rng_state())
    same, again, other = networks
    assert all(torch.equal(value, again[name]) for name, value in same.items())
    assert any(not torch.equal(value, other[name]) for name, value in same.items())


def test_deep_supervision_gives_coarser_levels_in_training_only(supervised_case, make, image):
    network, size = make(supervised_case, deep_supervision=True), SIZES[supervised_case[1]]
    levels = network(image(1, 1, *size))
    shapes = [tuple(part.shape[2:]) for part in levels]
    scales = network.options.scales(supervised_case[1])
    possible = [tuple(-(-n // s) for n, s in zip(size, scale, strict=True)) for scale in scales]
    assert shapes[0] == size
    assert len(shapes) > 1
    assert all(part.shape[:2] == (1, 3) for part in levels)
    assert set(shapes[1:]) <= set(possible)
    assert shapes == sorted(shapes, reverse=True)
    sum(part.square().mean() for part in levels).backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        assert network.eval()(image(1, 1, *size)).shape == (1, 3, *size)


def test_heads_hold_the_classes_and_inputs_the_channels(plain_case, make):
    network = make(plain_case)
    for others, names in (
        (make(plain_case, classes=5), network.head_names),
        (make(plain_case, in_channels=2), tuple(network.input_cells)),
    ):
        changed = {
            name
            for name, value in network.state_dict().items()
            if value.shape != others.state_dict()[name].shape
        }
        assert {name.rsplit(".", 1)[0] for name in changed} == set(names)
    assert set(network.head_cells) == set(network.head_names)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_one_phantom(case, make):
    size = EVEN[case[1]]
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    ball = sum(a**2 for a in axes) < 0.4
    label = (ball.long() + (ball & (axes[0] > 0)).long())[None]
    x = (ball.float() + axes[0])[None, None]
    network = make(case)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01 if case[0] != "swin_unetr" else 0.003)
    right = 0.0
    for _ in range(200):
        optimiser.zero_grad()
        logits = network(x)
        F.cross_entropy(logits, label).backward()
        optimiser.step()
        right = (logits.argmax(dim=1) == label).float().mean().item()
        if right > 0.98:
            break
    assert right > 0.98


def test_a_bundle_gives_the_same_network_again(case, make, image, tmp_path):
    network = make(case, in_channels=2).eval()
    labels = tuple(
        Label(name=name, value=value, colour="#3aa0ff") for value, name in enumerate(("a", "b"), start=1)
    )
    bundle = write_bundle(
        tmp_path / "bundle",
        about=BundleAbout(
            name="test", version="1.0.0", description="Test.", licence="CC0-1.0", intended_use="Tests."
        ),
        network=network,
        table=LabelTable(labels=labels),
        preprocess=[],
        training=TrainingRecord(data="None.", cases=0, epochs=0, seconds=0.0, settings_sha256="0" * 64),
        window=None,
    )
    assert bundle.network == network.options
    x = image(1, 2, *SIZES[case[1]])
    with torch.no_grad():
        assert torch.equal(bundle.load_network()(x), network(x))


def test_it_can_be_weighed_without_storage(plain_case, make):
    with torch.device("meta"):
        network = make(plain_case, seed=None)
        assert network(torch.empty(1, 1, *EVEN[plain_case[1]])).shape == (1, 3, *EVEN[plain_case[1]])
    assert all(p.is_meta for p in network.parameters())
