"""The benchmark of metrics: its label maps, its child process, and the table with its targets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medseg.bench import metrics
from medseg.bench.io import Measured
from medseg.bench.metrics_tasks import LABELS, TOOLS, label_maps


def test_label_maps_hold_all_labels_with_small_errors_and_an_island():
    reference, prediction = label_maps(0.15)
    assert reference.shape == prediction.shape == (77, 77, 45)
    rows = TOOLS["medseg"](reference, prediction)()
    assert len(rows) == LABELS
    dice, hd95, nsd = np.array(rows).T
    assert (dice > 0.5).all()
    assert (hd95 > 0).all()
    assert ((nsd > 0.5) & (nsd <= 1)).all()
    assert prediction[4, 4, 2] == 3
    assert reference[4, 4, 2] == 0


def test_a_child_process_measures_one_tool():
    found = metrics._child("medseg", 0.1)
    assert found["seconds"] > 0
    assert len(json.loads(found["check"])) == LABELS


def measured(name, seconds, values=(0.9, 2.0, 0.8), peak=500.0):
    check = json.dumps([list(values)] * LABELS)
    return Measured(name, seconds=[seconds], cpu=[seconds], peak_mb=[peak], checks={check})


def test_table_tells_ratios_targets_and_the_difference_of_the_numbers():
    tools = [
        measured("medseg", 2.0),
        measured("MONAI", 30.0, (0.9, 2.001, 0.8)),
        Measured("surface-distance", failed="not installed (surface_distance)"),
    ]
    text = "\n".join(metrics.to_lines(tools))
    assert "10 x faster than MONAI: 15.0 x, reached" in text
    assert "3 x faster than surface-distance: no figure" in text
    assert "peak at most 1000 MB above the label maps: 500 MB, reached" in text
    assert "HD95 1.0e-03 mm" in text
    assert metrics.to_rows(tools)[2] == {
        "tool": "surface-distance",
        "failed": "not installed (surface_distance)",
    }


def test_without_a_figure_of_ours_there_is_no_ratio():
    tools = [Measured("medseg", failed="killed"), measured("MONAI", 1.0), measured("surface-distance", 1.0)]
    assert "target" not in "\n".join(metrics.to_lines(tools))


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("name", ["MONAI", "surface-distance"])
def test_peers_give_the_numbers_that_they_should(name):
    pytest.importorskip({"MONAI": "monai", "surface-distance": "surface_distance"}[name])
    maps = label_maps(0.1)
    theirs, ours = (np.array(TOOLS[tool](*maps)()) for tool in (name, "medseg"))
    np.testing.assert_allclose(theirs[:, 0], ours[:, 0], atol=1e-6)
    if name == "MONAI":
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
