"""A training that starts from a bundle says what was taken, on the screen and in the run folder."""

from __future__ import annotations

import json
from types import SimpleNamespace

from medseg.labels import Label, LabelTable
from medseg.models.bundle import read_bundle
from medseg.pipeline import bundling, fit
from medseg.pipeline.progress import SilentReporter


class Reporter(SilentReporter):
    def __init__(self):
        self.notes, self.tables = [], []

    def note(self, text):
        self.notes.append(text)

    def table(self, title, columns, rows):
        self.tables.append((title, [dict(zip(columns, row, strict=True)) for row in rows]))


def test_the_start_is_told_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "spatial_dims", lambda *_: 3)
    names = ("heart", "lung_left", "lung_right")
    table = LabelTable(labels=tuple(Label(name=n, value=v, colour="#3aa0ff") for v, n in enumerate(names, 1)))
    shipped = read_bundle("chest-xray-lungs")
    model = shipped.network.model_copy(update={"start_from": shipped.name})
    context = SimpleNamespace(
        config=SimpleNamespace(model=model, training=None),
        facts={},
        table=table,
        reporter=Reporter(),
        run=SimpleNamespace(path=tmp_path),
    )
    network, record = fit.start_network(context, in_channels=4)
    assert network.in_channels == 4
    assert record["from"] == "chest-xray-lungs"
    written = json.loads((tmp_path / "transfer.json").read_text())
    assert written["resized"]["stem.0.weight"] == "inflated to 3-D, 1 -> 4 image channels"
    assert written["labels"] == {
        "background": ["background"],
        "heart": [],
        "lung_left": ["lung_left"],
        "lung_right": ["lung_right"],
    }
    assert written["weights_sha256"] == shipped.weights_sha256
    assert "starts from chest-xray-lungs 1.0.0: " in context.reporter.notes[0]
    [(title, rows)] = context.reporter.tables
    assert title == "Weights at the start"
    assert {"": "labels new", "tensors": "1", "which": "heart"} in rows
