"""Which windows a network is shown: order, reuse of answers, batches that a device does not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import EnvironmentFailure
from medseg.inference.sliding_window import Sweep, joined, softmax
from medseg.inference.window_batches import Choice, WindowBatches, WindowTally, single_values
from medseg.inference.window_blend import WindowBlend, plan_axes

BACKGROUND = torch.tensor([1.0, 0.0, 0.0])
IMAGE = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 30, 21, 16)).astype(np.float32))


class Network:
    """Says what it was shown, and holds at most so many windows."""

    def __init__(self, holds: int = 1000) -> None:
        self.holds = holds
        self.shown: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        self.shown.append(len(batch))
        return softmax(torch.cat([batch[:, :1], batch[:, 1:], batch[:, :1] - batch[:, 1:]], dim=1))


def sweep(**options) -> Sweep:
    return Sweep.over(IMAGE.shape[1:], (12, 9, 7), **{"overlap": 0.5, "batch_size": 4} | options)


def swept(network, image=IMAGE, *, choice=None, **options) -> torch.Tensor:
    found = sweep(**options)
    blocks = found.blocks(
        lambda box: image[(slice(None), *box)], network, choice=choice, background=BACKGROUND
    )
    return joined(blocks, found.size)


def test_a_device_that_holds_fewer_windows_gets_fewer_and_the_result_is_the_same():
    wanted, network, tally = swept(Network()), Network(holds=1), WindowTally()
    torch.testing.assert_close(swept(network, choice=Choice(tally=tally)), wanted, rtol=0, atol=1e-6)
    assert set(network.shown) == {1}
    assert tally.batch_size == 1
    assert tally.shown == sweep().count == len(network.shown)
    assert tally.notes == (
        "The device had too little memory for the batch that was set; it was shown one window at a time.",
    )


def test_batches_are_halved_until_they_fit():
    network, tally = Network(holds=3), WindowTally()
    swept(network, choice=Choice(tally=tally), batch_size=11)
    # 11 and 5 are too many.
    assert max(network.shown) == tally.batch_size == 2
    assert "2 windows at a time" in tally.notes[0]


def test_a_device_that_holds_no_window_is_named_and_other_faults_pass():
    with pytest.raises(EnvironmentFailure, match=r"too little memory for one window of 12 x 9 x 7 voxels"):
        swept(Network(holds=0))

    def broken(batch):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        swept(broken)


def test_windows_of_one_value_are_shown_once():
    image = IMAGE.clone()
    image[0, 12:], image[1, 12:] = -1.0, 0.25
    wanted, network, tally = swept(Network(), image), Network(), WindowTally()
    found = swept(network, image, choice=Choice(reuse=True, tally=tally))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert tally.reused > 5
    assert sum(network.shown) == tally.shown == sweep().count - tally.reused


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, None]), min_size=1, max_size=24), st.integers(1, 5))
def test_each_window_gets_the_answer_to_itself_whatever_is_reused(values, size):
    rng = np.random.default_rng(0)
    parts = [
        torch.from_numpy(rng.normal(size=(1, 3, 2)).astype(np.float32))
        if value is None
        else torch.full((1, 3, 2), value)
        for value in values
    ]
    choice = Choice(reuse=True, wanted=lambda place: place[0].start % 5 != 4)
    batches = WindowBatches(lambda place: parts[place[0].start], lambda x: x * 2, size=size, choice=choice)
    windows = [((n,), (slice(n, n + 1),)) for n in range(len(parts))]
    found = list(batches.answers(windows))
    assert [index for index, _ in found] == [index for index, _ in windows]
    for (n,), answer in found:
        if n % 5 == 4:
            assert answer is None
        else:
            torch.testing.assert_close(answer, parts[n] * 2, rtol=0, atol=0)
    tally = choice.tally
    assert tally.shown + tally.reused + tally.outside == len(parts)


def test_windows_left_out_are_background_and_say_nothing_elsewhere():
    network, tally = Network(), WindowTally()
    choice = Choice(wanted=lambda place: place[0].start < 12, tally=tally)
    found, whole = swept(network, choice=choice), swept(Network())
    # Rows before the first window that was left out are what they are without it.
    torch.testing.assert_close(found[:, :12], whole[:, :12], rtol=0, atol=1e-6)
    # What only those see is background; beside it the windows that were shown decide alone.
    seen = max(s.start for _, (s, _, _) in _places() if s.start < 12) + 12
    torch.testing.assert_close(found[0, seen:], torch.ones_like(found[0, seen:]))
    assert float(found[1:, seen:].abs().max()) == 0
    torch.testing.assert_close(found.sum(dim=0), torch.ones(found.shape[1:]), rtol=0, atol=1e-5)
    assert tally.outside == sweep().count - tally.shown > 0
    assert tally.to_json() == {"shown": tally.shown, "reused": 0, "outside": tally.outside}


def _places():
    axes = plan_axes(IMAGE.shape[1:], (12, 9, 7), 0.5)
    return WindowBlend(axes, torch.ones(12, 9, 7), order=(0, 1, 2)).places()


@pytest.mark.parametrize("more", [{}, {"background": BACKGROUND, "ordered": True}])
def test_what_stands_for_windows_that_are_left_out_must_be_known_and_weigh_next_to_nothing(more):
    given = {"choice": Choice(wanted=bool), "background": more.get("background")}
    with pytest.raises(ValueError, match="windows are left out where"):
        list(
            sweep(ordered=more.get("ordered", False)).blocks(
                lambda box: IMAGE[(slice(None), *box)], Network(), **given
            )
        )


def test_single_values():
    part = torch.zeros(2, 40, 30)
    part[1] = 3
    assert single_values(part) == (0.0, 3.0)
    part[1, 17, 11] = 3.001
    assert single_values(part) is None
