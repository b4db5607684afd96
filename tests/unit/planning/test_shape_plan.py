"""Network, patch and batch by image size, spacing and memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.models.options import SmallUNetOptions, UNetOptions, check_window
from medseg.planning.grids import Grid
from medseg.planning.machine import Machine
from medseg.planning.network_memory import weigh_network
from medseg.planning.network_plan import Sampling, plan_patch, plan_topology
from medseg.planning.shape_plan import ShapePlanner, Wishes

GB = 10**9


def planner(shapes, spacing, *, ram=16 * GB, gpu=None, channels=1, classes=3, **wishes):
    grids = [Grid(case_id=str(n), shape=shape, spacing_mm=spacing) for n, shape in enumerate(shapes)]
    return ShapePlanner(
        grids=grids,
        largest_voxels=max(grid.voxels for grid in grids),
        in_channels=channels,
        class_count=classes,
        machine=Machine(device="cuda" if gpu else "cpu", cores=2, ram_bytes=ram, gpu_bytes=gpu),
        wishes=Wishes(**wishes),
    )


def values(plan):
    return {decision.name: decision.value for decision in plan.decisions}


def test_small_volumes_are_shown_whole_and_rounded_up():
    found = values(planner([(35, 50, 36)] * 3, (1.0, 1.0, 1.0)).plan())
    assert found["model"] == {"use": "unet", "channels": [8, 32, 64, 128], "convolutions": 1}
    assert found["training.patch_size"] == [40, 56, 40]
    assert found["training.batch_size"] == 4
    assert found["inference.window"] == [40, 56, 40]


def test_large_volumes_are_shown_in_cubes_of_equal_length():
    found = values(planner([(240, 240, 155)], (1.0, 1.0, 1.0), channels=2, classes=5).plan())
    assert found["training.patch_size"] == [64, 64, 64]
    assert found["training.batch_size"] == 2


def test_thick_slices_stay_apart_until_the_voxels_are_even():
    found = values(planner([(320, 320, 20)], (0.5, 0.5, 4.0)).plan())
    model = found["model"]
    assert model["strides"] == [[2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert model["kernels"][0] == [3, 3, 1]
    assert model["kernels"][-1] == [3, 3, 3]
    assert found["training.patch_size"] == [128, 128, 16], "64 mm along each axis"


def test_pictures_of_one_size_are_shown_whole():
    found = values(planner([(480, 360)] * 4, None, channels=3, classes=11).plan())
    assert found["training.patch_size"] is None
    assert found["inference.window"] is None
    assert found["training.batch_size"] == 3
    assert found["model"]["use"] == "small_unet", "pictures have many pixels: half resolution"


def test_a_gpu_gets_a_deep_residual_network_and_what_its_memory_holds():
    found = planner([(48, 40, 33)], (1.0, 1.0, 1.0), gpu=8 * GB).plan()
    model = values(found)["model"]
    assert (model["use"], model["deep_supervision"]) == ("residual_unet", True)
    assert model["channels"] == [32, 64, 128, 256]
    assert values(found)["training.patch_size"] == [48, 40, 40]
    assert values(found)["training.batch_size"] == 8
    assert found.gpu_bytes <= 8 * GB


def test_what_is_given_stays_and_the_rest_follows_it():
    found = planner(
        [(35, 50, 36)],
        (1.0, 1.0, 1.0),
        model=UNetOptions(channels=(8, 16)),
        batch=7,
        patch=(24, 32, 24),
        window=(32, 32, 32),
    ).plan()
    assert all(decision.given for decision in found.decisions)
    assert found.candidate.sampling == Sampling(patch=(24, 32, 24), batch=7)
    chosen = values(planner([(35, 50, 36)], (1.0, 1.0, 1.0), model=UNetOptions(channels=(8, 16))).plan())
    assert chosen["training.patch_size"] == [36, 50, 36]


def test_a_patch_with_other_axes_is_refused():
    with pytest.raises(ConfigError, match=r"patch_size has 2 axes \[32, 32\], the images have 3"):
        planner([(35, 50, 36)], (1.0, 1.0, 1.0), patch=(32, 32)).plan()


def test_a_budget_that_holds_nothing_names_the_least_that_would():
    with pytest.raises(ConfigError, match=r"budget.ram is 100 MB, but the smallest training") as refusal:
        planner([(35, 50, 36)], (1.0, 1.0, 1.0), ram=10**8).plan()
    least = float(str(refusal.value).partition("set budget.ram to ")[2].partition("MB")[0])
    planner([(35, 50, 36)], (1.0, 1.0, 1.0), ram=int(least * 10**6)).plan()


def test_a_second_try_is_smaller():
    shapes = planner([(64, 64, 64)], (1.0, 1.0, 1.0))
    first = shapes.plan()
    second = shapes.plan(after=first.number)
    assert second.candidate.sampling.voxels < first.candidate.sampling.voxels


shape = st.tuples(*[st.integers(8, 300)] * 3)
spacing = st.tuples(*[st.sampled_from([0.4, 0.7, 1.0, 3.0, 8.0])] * 3)


@settings(max_examples=12, deadline=None)
@given(shape, spacing, st.integers(540, 3000), st.integers(540, 3000))
def test_plans_fit_the_network_the_images_and_the_memory(size, mm, first, second):
    low, high = sorted((first, second))
    found = []
    for ram in (low, high):
        try:
            found.append(planner([size], mm, ram=ram * 10**6).plan())
        except ConfigError:
            found.append(None)
    if found[0] is not None:
        assert found[1] is not None, "more memory never holds less"
        assert found[1].candidate.sampling.voxels >= found[0].candidate.sampling.voxels
        assert math.prod(found[1].candidate.patch) >= math.prod(found[0].candidate.patch)
    for plan, ram in zip(found, (low, high), strict=True):
        if plan is None:
            continue
        model, patch = plan.candidate.model, plan.candidate.patch
        stride = model.total_stride(3)
        check_window(model, patch)
        assert all(p % s == 0 for p, s in zip(patch, stride, strict=True))
        assert all(p <= max(-(-n // s) * s, 2 * s) for p, n, s in zip(patch, size, stride, strict=True)), (
            "not larger than the image rounded up"
        )
        assert plan.ram_bytes <= ram * 10**6


@given(shape, spacing, st.integers(1, 6))
def test_topologies_halve_no_axis_too_far(size, mm, levels):
    found = plan_topology(size, mm, most_levels=levels, fold=False)
    assert found.levels <= levels
    assert len(found.strides) == found.levels - 1
    for n, total in zip(size, found.total, strict=True):
        assert total == 1 or n / total >= 4


@given(shape, st.sampled_from([(1, 1, 1), (8, 8, 8), (16, 16, 4)]), st.integers(1000, 10**6))
def test_patches_are_cut_along_the_longest_edge(size, stride, most):
    mm = (1.0, 2.0, 4.0)
    patch = plan_patch(size, mm, stride=stride, most_voxels=most)
    least = tuple(2 * s for s in stride)
    assert math.prod(patch) <= most or patch == least
    full = plan_patch(size, mm, stride=stride, most_voxels=10**12)
    cut = [a for a in range(3) if patch[a] < full[a]]
    for a in cut:
        # What was cut last was the longest of those that could be cut.
        assert all(
            (patch[a] + stride[a]) * mm[a] >= patch[b] * mm[b] - 1e-9
            for b in range(3)
            if patch[b] - stride[b] >= least[b]
        )


def test_memory_grows_with_the_batch_and_the_classes():
    few = weigh_network(SmallUNetOptions(channels=(8, 16)), spatial_dims=3, in_channels=1, class_count=2)
    many = weigh_network(SmallUNetOptions(channels=(8, 16)), spatial_dims=3, in_channels=1, class_count=40)
    one, two = Sampling(patch=(32, 32, 32), batch=1), Sampling(patch=(32, 32, 32), batch=2)
    sizes = [few.training_bytes(s, largest_voxels=1000, device="cpu") for s in (one, two)]
    assert sizes[0] < sizes[1] < many.training_bytes(two, largest_voxels=1000, device="cpu")
    assert few.parameters < many.parameters
    assert one.voxels == 32**3
