"""Which regions share memory, and that a prediction counts on what they take."""

import torch

from medseg.geometry import GridMap
from medseg.inference.options import InferenceOptions
from medseg.inference.predictor import Predictor
from medseg.inference.union_plan import UnionPlan
from medseg.labels import Label, LabelTable

LABELS = tuple(Label(name=name, value=i, colour="#ffffff") for i, name in enumerate("abc", start=1))


def table(**regions):
    return LabelTable(labels=LABELS, regions=regions)


def test_regions_without_a_common_label_share_a_layer():
    assert UnionPlan.of(table()).voxel_bytes == 0
    assert UnionPlan.of(table(one=("a",))).voxel_bytes == 0
    assert UnionPlan.of(table(two=("b", "a"), rest=("c", "background"))).layers == (((1, 2), (0, 3)),)
    nested = UnionPlan.of(table(whole=("a", "b", "c"), core=("b", "c")))
    assert nested.layers == (((1, 2, 3),), ((2, 3),))
    assert (nested.layer((2, 3)), nested.voxel_bytes) == (1, 4)
    assert UnionPlan.from_json(nested.to_json()) == nested


def test_the_ceiling_of_memory_counts_on_them():
    grid = GridMap.identity((80, 80, 80))

    def bytes_of(regions, **more):
        found = Predictor(
            torch.nn.Conv3d(1, 4, 1), steps=(), table=table(**regions), options=InferenceOptions(), **more
        )
        return found.demand(grid, in_channels=1).probability_bytes

    assert bytes_of({}) == 2
    assert bytes_of({"two": ("a", "b")}) == 4
    assert bytes_of({"two": ("a", "b"), "all": ("a", "b", "c")}) == 6
    assert bytes_of({"two": ("a", "b")}, keep_certainty=True, temperature=1.5) == 8
