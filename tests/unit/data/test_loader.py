"""Order, seeds and workers of the batch loader."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import loader_jobs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.loader import Batch, BatchLoader, auto_workers, epoch_order, sample_seed
from medseg.errors import ConfigError, GeometryError, LabelError, ManifestError, WorkerError

CASES = loader_jobs.SmallCases(7)
START_S = 15  # importing torch in the workers, on a busy machine


def make(workers: int = 0, **changes: object) -> BatchLoader:
    chosen: dict[str, object] = {"batch_size": 4, "seed": 11, "augment": loader_jobs.noisy, **changes}
    cases = chosen.pop("cases", CASES)
    return BatchLoader(cases, workers=workers, **chosen)  # type: ignore[arg-type]


def equal(left: Batch, right: Batch) -> bool:
    return (
        left.case_ids == right.case_ids
        and torch.equal(left.image, right.image)
        and torch.equal(left.label, right.label)
    )


def epochs(loader: BatchLoader, count: int) -> list[Batch]:
    return [batch for epoch in range(count) for batch in loader.epoch(epoch)]


def children() -> set[str]:
    task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(task.read_text().split())


def test_batches_have_the_shapes_and_types_that_the_network_needs():
    batches = list(make().epoch(0))
    assert len(batches) == make().steps == 2
    assert batches[0].image.shape == (4, 1, 6, 4)
    assert batches[0].image.dtype == torch.float32
    assert batches[0].label.shape == (4, 1, 6, 4)
    assert batches[0].label.dtype == torch.int64
    assert len(batches[0].case_ids) == 4


def test_every_case_comes_once_before_any_comes_again_also_across_epochs():
    drawn = np.concatenate(
        [epoch_order(case_count=7, sample_count=8, seed=3, epoch=epoch) for epoch in range(7)]
    )
    for start in range(0, 56, 7):
        assert sorted(drawn[start : start + 7]) == list(range(7))


def test_fewer_samples_than_cases_still_reach_every_case():
    drawn = [epoch_order(case_count=10, sample_count=4, seed=1, epoch=epoch) for epoch in range(5)]
    assert Counter(np.concatenate(drawn).tolist()) == Counter(dict.fromkeys(range(10), 2))


def test_weights_say_how_often_a_case_is_drawn():
    weights = np.array([1.0, 3.0, 0.0])
    drawn = epoch_order(case_count=3, sample_count=4000, seed=5, epoch=0, weights=weights)
    shares = np.bincount(drawn, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.25, 0.75, 0.0], atol=0.03)


def test_another_epoch_or_seed_is_another_order():
    base = [b.case_ids for b in make().epoch(0)]
    assert base == [b.case_ids for b in make().epoch(0)]
    assert base != [b.case_ids for b in make().epoch(1)]
    assert base != [b.case_ids for b in make(seed=12).epoch(0)]


def test_sample_seed_is_the_same_on_every_machine():
    assert sample_seed(1, 2, 3, "case-4") == 8790839689506669353
    assert sample_seed(1, 2, 3, "case-4") != sample_seed(1, 2, 4, "case-4")
    assert 0 <= sample_seed(0, 0, 0, "") < 2**63


def test_a_case_that_comes_twice_in_an_epoch_is_augmented_differently():
    loader = make(cases=loader_jobs.SmallCases(1), batch_size=2)
    batch = next(iter(loader.epoch(0)))
    assert not torch.equal(batch.image[0], batch.image[1])


def test_an_epoch_can_start_in_the_middle():
    whole = list(make().epoch(3))
    assert equal(next(iter(make().epoch(3, start_step=1))), whole[1])
    assert list(make().epoch(3, start_step=2)) == []


def test_the_parts_of_several_processes_make_the_batches_of_one():
    whole = list(make().epoch(2))
    parts = [list(make(rank=rank, world_size=2).epoch(2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.case_ids == parts[0][step].case_ids + parts[1][step].case_ids
        assert torch.equal(batch.image, torch.cat([parts[0][step].image, parts[1][step].image]))


def make_patches(workers: int = 0, **changes: object) -> BatchLoader:
    chosen: dict[str, object] = {
        "cases": loader_jobs.Volumes(),
        "augment": loader_jobs.augmentation(),
        "patches": loader_jobs.PATCHES,
        "samples_per_epoch": 12,
        **changes,
    }
    return make(workers, **chosen)


def test_patches_of_cases_of_any_shape_make_a_batch():
    batches = list(make_patches().epoch(0))
    assert batches[0].image.shape == (4, 2, 8, 10, 6)
    assert batches[0].label.shape == (4, 1, 8, 10, 6)
    assert batches[0].label.dtype == torch.int64


def test_the_asked_share_of_samples_shows_a_structure_and_the_small_one_is_not_rare():
    patches = replace(loader_jobs.PATCHES, structures=((1,), (2,)))
    loader = make_patches(augment=loader_jobs.unpadded, samples_per_epoch=120, patches=patches)
    labels = torch.cat([batch.label for batch in loader.epoch(0)]).flatten(1)
    assert (labels == 2).any(dim=1).float().mean() > 0.25
    without = make_patches(
        augment=loader_jobs.unpadded,
        samples_per_epoch=120,
        patches=replace(loader_jobs.PATCHES, foreground=0),
    )
    rare = torch.cat([batch.label for batch in without.epoch(0)]).flatten(1)
    assert (rare == 2).any(dim=1).float().mean() < 0.2


@pytest.mark.parametrize("world_size", [1, 2, 4])
@given(epoch=st.integers(0, 50), start=st.integers(0, 2), seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_patches_are_the_same_from_any_start_and_for_any_number_of_processes(world_size, epoch, start, seed):
    whole = list(make_patches(seed=seed).epoch(epoch))
    parts = [
        list(make_patches(seed=seed, rank=rank, world_size=world_size).epoch(epoch, start_step=start))
        for rank in range(world_size)
    ]
    for step, batch in enumerate(whole[start:]):
        assert batch.case_ids == sum((part[step].case_ids for part in parts), ())
        assert torch.equal(batch.image, torch.cat([part[step].image for part in parts]))
        assert torch.equal(batch.label, torch.cat([part[step].label for part in parts]))


def test_another_patch_or_share_is_another_training():
    base = make_patches().describe()
    for changes in ({"size": (8, 10, 8)}, {"foreground": 0.5}, {"structures": ((1,),)}):
        assert make_patches(patches=replace(loader_jobs.PATCHES, **changes)).describe() != base


@pytest.mark.slow
def test_patches_are_the_same_for_zero_one_two_and_four_workers():
    expected = [*make_patches().epoch(0), *make_patches().epoch(1, start_step=1)]
    for workers in (1, 2, 4):
        with make_patches(workers) as loader:
            found = [*loader.epoch(0), *loader.epoch(1, start_step=1)]
        assert all(equal(left, right) for left, right in zip(found, expected, strict=True))


def test_batches_are_the_same_for_zero_one_and_two_workers_and_nothing_is_left_afterwards():
    before, threads = children(), threading.active_count()
    expected = list(make_patches().epoch(0)) + list(make_patches().epoch(1, start_step=1))
    for workers in (1, 2):
        with make_patches(workers) as loader:
            found = list(loader.epoch(0)) + list(loader.epoch(1, start_step=1))
            pids = {str(pid) for pid in loader.process_ids}
            assert len(pids) == workers
            for left, right in zip(found, expected, strict=True):
                assert equal(left, right)
            # An epoch that is left early does not leak into the next.
            next(iter(loader.epoch(5)))
            assert equal(next(iter(loader.epoch(0))), expected[0])
        assert not pids & children()
    assert threading.active_count() == threads
    # multiprocessing keeps one tracker process of its own.
    assert len(children() - before) <= 1


def test_samples_do_not_depend_on_the_number_of_compute_threads():
    threads = torch.get_num_threads()
    # Large enough for torch to split a sum over it between threads.
    cases = loader_jobs.SmallCases(4, size=(256, 200))
    try:
        torch.set_num_threads(2)
        two = list(make(cases=cases).epoch(0))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert all(equal(left, right) for left, right in zip(two, make(cases=cases).epoch(0), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment", "text"),
    [
        (
            loader_jobs.die_on_case_3,
            r"ended by SIGKILL while it prepared case case-3, .* GB of memory free",
        ),
        (
            loader_jobs.stop_on_case_3,
            "not answered for 10 s while it prepared case case-3; the process is stopped",
        ),
        (loader_jobs.loop_on_case_3, "not answered for 10 s while it prepared case case-3"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_named_within_the_default_ten_seconds(augment, text):
    with make(2, augment=augment) as loader:
        loader.start()
        begin = time.monotonic()
        with pytest.raises(WorkerError, match=text):
            epochs(loader, 2)
        assert time.monotonic() - begin < 12 + START_S


@pytest.mark.parametrize(
    "what",
    ["SIGKILL", *(pytest.param(what, marks=pytest.mark.slow) for what in ("SIGSTOP", "memory", "full"))],
)
def test_a_run_that_may_fall_back_goes_on_with_the_same_samples(what, tmp_path, caplog):
    notes: list[str] = []
    expected = epochs(make(), 2)
    augment = loader_jobs.Once(what, tmp_path / "marker")
    with make(1, augment=augment, timeout_s=2.0, on_worker_failure="fall_back", note=notes.append) as loader:
        found = epochs(loader, 2)
        assert loader.process_ids == ()
    assert all(equal(left, right) for left, right in zip(found, expected, strict=True))
    assert len(notes) == 1
    assert "case-3" in notes[0]
    assert notes[0].endswith("goes on without loader processes, with the same samples")
    assert notes[0] in caplog.text


@pytest.mark.slow
def test_a_case_that_ends_every_process_ends_the_run_and_not_the_program(tmp_path):
    augment = loader_jobs.Once("SIGKILL", tmp_path / "marker", again=True)
    with (
        make(1, augment=augment, on_worker_failure="fall_back") as loader,
        pytest.raises(WorkerError, match=r"case case-3 ends every process that prepares it: .*SIGKILL"),
    ):
        epochs(loader, 2)


def test_an_error_in_this_process_keeps_its_type_and_names_the_case():
    with pytest.raises(ValueError, match="no such intensity") as caught:
        epochs(make(augment=loader_jobs.fail_on_case_3), 2)
    assert "case-3" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"cases": loader_jobs.SmallCases(0)}, ManifestError, "no case to train on"),
        ({"batch_size": 3, "world_size": 2}, ConfigError, "use a multiple of 2"),
        ({"weights": [1.0, 2.0]}, ConfigError, "must be 7 finite numbers"),
        ({"weights": [0.0] * 7}, ConfigError, "all case weights are zero"),
        ({"weights": [float("nan")] * 7}, ConfigError, "finite"),
        ({"rank": 1}, ConfigError, "rank 1 of 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, error, text):
    with pytest.raises(error, match=text):
        make(**changes)


def test_a_case_without_label_and_samples_of_two_shapes_are_refused():
    with pytest.raises(LabelError, match="case-2 has no label"):
        list(make(cases=loader_jobs.SmallCases(3, unlabelled="case-2")).epoch(0))
    cases = loader_jobs.SmallCases(3, other_shape="case-2")
    with pytest.raises(GeometryError, match=r"case-2 \(1, 5, 4\)"):
        list(make(cases=cases, augment=loader_jobs.unchanged).epoch(0))


def test_the_number_of_workers_follows_a_rule():
    assert [auto_workers(cores=n, device="cpu") for n in (1, 2, 4, 64)] == [0, 0, 1, 1]
    assert [auto_workers(cores=n, device="cuda") for n in (1, 2, 6, 64)] == [1, 1, 5, 8]
