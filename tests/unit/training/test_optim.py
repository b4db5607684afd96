"""Schedules with values worked out by hand; optimisers; freezing; the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medseg.errors import ConfigError
from medseg.models.options import UNetOptions
from medseg.models.registry import build_network
from medseg.training.ema import MovingAverage
from medseg.training.loop import place_network
from medseg.training.optim import build_optimiser, learning_rate_at, set_frozen, set_learning_rate
from medseg.training.options import (
    AdamwOptions,
    ConstantOptions,
    CosineOptions,
    OneCycleOptions,
    PolyOptions,
    SgdOptions,
    TrainingOptions,
)


def rates(options: object, steps: int, *, peak: float = 2.0, steps_per_epoch: int = 5) -> list[float]:
    return [
        learning_rate_at(options, peak=peak, step=step, steps=steps, steps_per_epoch=steps_per_epoch)  # type: ignore[arg-type]
        for step in range(steps)
    ]


def test_one_cycle_rises_and_falls_in_half_cosines():
    found = rates(OneCycleOptions(warmup=0.5, start_factor=0.1, end_factor=0.01), 9)
    expected_up = [0.2 + 1.8 * 0.5 * (1 - math.cos(math.pi * k / 4)) for k in range(5)]
    expected_down = [0.02 + 1.98 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    assert found == pytest.approx([*expected_up, *expected_down[1:]])
    assert found[4] == max(found) == 2.0


def test_one_cycle_equals_the_one_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=2.0,
        total_steps=21,
        pct_start=0.3,
        div_factor=25,
        final_div_factor=400,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(21):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(expected) < 21:
            reference.step()
    # torch ends its rise at pct_start * total_steps - 1, one step lower than a share of all steps.
    warmup = (0.3 * 21 - 1) / 20
    assert rates(OneCycleOptions(warmup=warmup, start_factor=0.04, end_factor=1e-4), 21) == pytest.approx(
        expected
    )


def test_cosine_warms_up_and_ends_where_it_is_told():
    found = rates(CosineOptions(warmup_epochs=1, end_factor=0.1), 16)
    assert found[:5] == pytest.approx([2 * k / 6 for k in range(1, 6)])
    assert found[5] == pytest.approx(2.0)
    assert found[10] == pytest.approx(1.1)
    assert found[15] == pytest.approx(0.2)


def test_poly_and_constant():
    assert rates(PolyOptions(power=0.9), 4) == pytest.approx([2 * (1 - k / 4) ** 0.9 for k in range(4)])
    assert rates(ConstantOptions(), 3) == [2.0, 2.0, 2.0]
    warmed = rates(ConstantOptions(warmup=0.5), 7)
    assert warmed == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    "options", [OneCycleOptions(), OneCycleOptions(warmup=0), CosineOptions(warmup_epochs=9), PolyOptions()]
)
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_rates_are_never_negative_nor_above_the_peak(options, steps):
    assert all(0 <= rate <= 2.0 + 1e-12 for rate in rates(options, steps))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_biases_and_norms_are_not_decayed():
    optimiser = build_optimiser(network(), AdamwOptions(weight_decay=0.3), learning_rate=0.1)
    sizes = {group["weight_decay"]: len(group["params"]) for group in optimiser.param_groups}
    assert sizes == {0.3: 2, 0.0: 4}
    set_learning_rate(optimiser, 0.7)
    assert [group["lr"] for group in optimiser.param_groups] == [0.7, 0.7]


def test_one_sgd_step_by_hand():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    optimiser = build_optimiser(
        net, SgdOptions(momentum=0.5, nesterov=False, weight_decay=0.1), learning_rate=0.1
    )
    net.weight.grad = torch.full((1, 1), 3.0)
    optimiser.step()
    assert net.weight.item() == pytest.approx(2.0 - 0.1 * (3.0 + 0.1 * 2.0))


def test_freezing_by_name():
    net = network().train()
    set_frozen(net, ["1", "2"], frozen=True)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["0.weight", "0.bias"]
    assert [module.training for module in net] == [True, False, False]
    set_frozen(net, ["1", "2"], frozen=False)
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ConfigError, match="no part of the network is named 'encoder'; parts: 0, 1, 2"):
        set_frozen(net, ["encoder"], frozen=True)
    with pytest.raises(ConfigError, match="freezes the whole network"):
        set_frozen(net, ["0", "1", "2"], frozen=True)


def test_a_prefix_does_not_reach_into_the_middle_of_a_name():
    net = nn.ModuleDict({"down": nn.Linear(1, 1), "down_last": nn.Linear(1, 1)})
    set_frozen(net, ["down"], frozen=True)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == [
        "down_last.weight",
        "down_last.bias",
    ]


def test_the_moving_average_follows_the_formula():
    net = nn.BatchNorm1d(1)
    average = MovingAverage(net, decay=0.5)
    expected = 1.0
    for number, weight in enumerate([3.0, 5.0, -2.0], start=1):
        nn.init.constant_(net.weight, weight)
        net.num_batches_tracked += 1
        average.update(net)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    assert average.network.weight.item() == pytest.approx(expected, abs=1e-6)
    assert average.network.num_batches_tracked == 3
    assert not average.network.training
    other = MovingAverage(net, decay=0.5)
    other.load_state_dict(average.state_dict())
    assert other.updates == 3
    assert torch.equal(other.network.weight, average.network.weight)


def test_options_refuse_what_does_not_fit():
    with pytest.raises(ValidationError, match="freeze names no part"):
        TrainingOptions(freeze_epochs=2)
    with pytest.raises(ValidationError, match="nesterov needs a momentum"):
        SgdOptions(momentum=0)
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainingOptions.model_validate({"learnig_rate": 1})
    assert TrainingOptions().optimiser == AdamwOptions()


def tiny_volume_network(*, norm: str = "instance") -> nn.Module:
    options = UNetOptions(channels=(4, 8), norm=norm, groups=4)  # type: ignore[arg-type]
    return build_network(options, spatial_dims=3, in_channels=1, class_count=3, seed=0)


def test_the_longest_prefix_gives_the_factor_of_the_learning_rate():
    network = tiny_volume_network()
    optimiser = build_optimiser(
        network, AdamwOptions(), learning_rate=1.0, factors={"encoder": 0.1, "encoder.1": 0.5}
    )
    set_learning_rate(optimiser, 0.02)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        expected = 0.01 if name.startswith("encoder.1.") else 0.002 if name.startswith("encoder.") else 0.02
        assert rates[id(parameter)] == pytest.approx(expected), name
        assert (decays[id(parameter)] > 0) == (parameter.ndim > 1), name
    assert len(rates) == len(list(network.parameters()))


def test_a_factor_for_a_part_that_is_not_there_lists_the_parts():
    with pytest.raises(
        ConfigError, match=r"training.learning_rates: no part .* named 'encodr'; parts: decoder, enc"
    ):
        build_optimiser(tiny_volume_network(), SgdOptions(), learning_rate=1.0, factors={"encodr": 0.1})
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainingOptions(learning_rates={"encoder": 0.0})


@pytest.mark.parametrize("options", [AdamwOptions(), SgdOptions()])
def test_one_kernel_makes_the_step_of_many_in_the_layout_of_volumes(options):
    """Weights in channels_last_3d, among them sizes of one, whose strides may be read in two ways."""
    found = []
    for fused in (True, False):
        network = place_network(tiny_volume_network(), torch.device("cpu"), "channels_last")
        optimiser = build_optimiser(network, options, learning_rate=0.01)
        for group in optimiser.param_groups:
            group["fused"] = fused
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            optimiser.zero_grad()
            network(torch.randn(2, 1, 8, 12, 16, generator=generator)).square().mean().backward()
            optimiser.step()
        found.append(network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_frozen_parts_of_a_volume_network_thaw_with_a_state_that_fits():
    network = tiny_volume_network()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = build_optimiser(network, AdamwOptions(), learning_rate=0.01, factors={"encoder": 0.1})
    image = torch.randn(1, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        optimiser.zero_grad()
        network(image).square().mean().backward()
        optimiser.step()

    set_frozen(network, ["encoder"], frozen=True)
    step()
    for name, value in network.state_dict().items():
        assert torch.equal(value, start[name]) == name.startswith("encoder"), name
    saved = optimiser.state_dict()
    set_frozen(network, ["encoder"], frozen=False)
    optimiser.load_state_dict(saved)
    step()
    assert not any(
        torch.equal(v, start[n]) for n, v in network.state_dict().items() if n.endswith("0.0.weight")
    )
