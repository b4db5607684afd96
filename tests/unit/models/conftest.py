"""A small trained-looking bundle."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.labels import Code, Label, LabelTable
from medseg.models.bundle_record import BundleAbout, MetricRecord, TrainingRecord
from medseg.models.bundle_writer import write_bundle
from medseg.models.options import SmallUNetOptions
from medseg.models.registry import build_network

ABOUT = BundleAbout(
    name="test-lungs",
    version="1.0.0",
    description="Lungs on | synthetic <films>.",
    licence="CC0-1.0",
    attribution=("Nobody",),
    intended_use="Tests; never for diagnosis.",
    limitations=("Knows two shapes.",),
)
TRAINING = TrainingRecord(
    data="Synthetic films.", cases=12, patients=None, epochs=3, seconds=90.0, settings_sha256="0" * 64
)
OPTIONS = SmallUNetOptions(channels=(8, 16, 24))


def _table_of(*names):
    lung = Code(scheme="SCT", value="39607008", meaning="Lung")
    labels = tuple(
        Label(name=name, value=index, colour="#3aa0ff", code=lung)
        for index, name in enumerate(names, start=1)
    )
    return LabelTable(labels=labels, regions={"lung": names[:2]})


def _network_of(table, *, options=OPTIONS, in_channels=1, seed=0, spatial_dims=2):
    return build_network(
        options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=table.class_count, seed=seed
    )


@pytest.fixture
def table_of():
    """Label table by names; the first two are a region."""
    return _table_of


@pytest.fixture
def network_of():
    """Network for a label table."""
    return _network_of


@pytest.fixture
def write(tmp_path):
    """Write a bundle; keyword arguments replace those of `write_bundle`."""

    def _write(folder=tmp_path / "bundle", **changes):
        table = changes.pop("table", _table_of("right", "left"))
        precision = changes.pop("weights_precision", ABOUT.weights_precision)
        arguments = {
            "about": ABOUT.model_copy(update={"weights_precision": precision}),
            "network": _network_of(table),
            "table": table,
            "preprocess": [{"use": "gray"}, {"use": "resize", "size": [64, 64]}],
            "training": TRAINING,
            "window": (64, 64),
            "inference": {"overlap": 0.25},
            "postprocess": [{"use": "keep_largest"}],
            "metrics": [
                MetricRecord(
                    structure="lung", metric="dice", data="test", cases=9, value=0.95, low=0.94, high=0.96
                )
            ],
            "gate": {"mean": np.arange(24.0), "whitening": np.eye(24, dtype=np.float32)},
            "gate_limits": {"refuse": 3.5, "quantiles": {"0.5": 1.0}},
        } | changes
        return write_bundle(folder, **arguments)

    return _write
