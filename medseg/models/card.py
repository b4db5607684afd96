"""Model card: what bundle.json says, for people to read before they use the model."""

from __future__ import annotations

from collections.abc import Iterable

from medseg.models.bundle_record import BundleRecord, MetricRecord
from medseg.models.calibration_record import CalibrationRecord


def model_card(record: BundleRecord) -> str:
    """CARD.md of a bundle, Markdown; the same record gives the same text."""
    parts = [
        f"# {_line(record.name)} {record.version}",
        _line(record.description),
        "## Intended use",
        _line(record.intended_use),
        "## Structures",
        _structures(record),
        "## Results",
        _results(record.metrics),
        *([] if record.calibration is None else ["## Calibration", _calibration(record.calibration)]),
        "## Training data",
        _training(record),
        "## Input",
        _input(record),
        "## Limits",
        _bullets(record.limitations) or "None are written down; that does not mean there are none.",
        "## Licence",
        f"Weights: {_line(record.licence)}.",
    ]
    if record.attribution:
        parts += ["Attribution:", _bullets(record.attribution)]
    digests = "\n".join(f"- `{name}`: SHA-256 `{digest}`" for name, digest in record.files.items())
    return "\n\n".join([*parts, "## Files", digests]) + "\n"


def _line(text: str) -> str:
    """Text as one line that cannot start a table cell, a heading or a tag."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_line(line)}" for line in lines)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _structures(record: BundleRecord) -> str:
    table = record.table()
    rows = [
        (_line(label.name), str(label.value), _line(label.code.meaning) if label.code else "not coded")
        for label in table.labels
    ]
    text = _table(("label", "value in the mask", "meaning"), rows)
    regions = [f"{name} = {' + '.join(members)}" for name, members in table.regions.items()]
    return text + ("\n\nRegions:\n\n" + _bullets(regions) if regions else "")


def _results(metrics: tuple[MetricRecord, ...]) -> str:
    if not metrics:
        return "Not measured."
    rows = [
        (
            _line(metric.structure),
            _line(metric.metric),
            f"{metric.value:.4g} {_line(metric.unit)}".strip(),
            "none"
            if metric.low is None or metric.high is None
            else f"{metric.low:.4g} to {metric.high:.4g} ({100 * metric.level:g} %)",
            str(metric.cases),
            _line(metric.data),
        )
        for metric in metrics
    ]
    return _table(("structure", "measure", "mean", "interval", "cases", "data"), rows)


def _calibration(found: CalibrationRecord) -> str:
    whose = (
        "its own answers" if found.of == "model" else "single networks, each on the fold that it never saw"
    )
    lines = [f"Fitted on {_line(found.data)} ({whose}). Masks are the same without it."]
    heat = found.temperature
    if heat is not None:
        lines.append(
            f"Probabilities are divided by the temperature {heat.value:.3f} (as logits): negative log-likelihood "
            f"{heat.nll_before:.4f} before, {heat.nll_after:.4f} after, {heat.voxels} voxels of {heat.cases} images of "
            f"{heat.patients} patients."
            + (" It is not used on the mean of the ensemble." if found.of == "members" else "")
        )
    rows = [
        (
            _line(name),
            f"{100 * size.level:g} %",
            _line(size.text),
            str(size.cases),
            str(size.patients),
        )
        for name, size in found.sizes.items()
    ]
    if rows:
        lines.append(_table(("true size of", "asked", "beside the predicted", "images", "patients"), rows))
    return "\n\n".join(lines)


def _training(record: BundleRecord) -> str:
    training = record.training
    patients = (
        "an unknown number of patients" if training.patients is None else f"{training.patients} patients"
    )
    effort = f"{training.epochs} epochs, {training.seconds / 60:.0f} minutes"
    lines = [_line(training.data), f"{training.cases} images of {patients}; {effort}."]
    if record.members:
        lines.append(
            f"An ensemble of {len(record.members)} networks of the same kind, whose answers are averaged; each was "
            "trained without the patients of one fold, and the results are those of the networks on the folds that "
            "they never saw."
        )
        lines.append(_members(record))
    if training.input_ranges:
        rows = [
            (_line(name), f"{low:.4g}", f"{high:.4g}") for name, (low, high) in training.input_ranges.items()
        ]
        lines.append(_table(("of the training images", "lowest", "highest"), rows))
    if training.started_from:
        lines.append(f"Started from the weights of {_line(training.started_from)}.")
    return "\n\n".join(lines)


def _members(record: BundleRecord) -> str:
    rows = [
        (
            str(member.fold),
            str(member.cases),
            "unknown" if member.patients is None else str(member.patients),
            str(member.epochs),
            f"{member.seconds / 60:.0f}",
            member.file,
        )
        for member in record.members
    ]
    return _table(("without fold", "images", "patients", "epochs", "minutes", "file"), rows)


def _input(record: BundleRecord) -> str:
    steps = ", ".join(_line(str(step.get("use", "?"))) for step in record.preprocess) or "none"
    axes = "pictures (2-D)" if record.spatial_dims == 2 else "volumes (3-D)"
    window = " x ".join(str(n) for n in record.window) if record.window else "any size"
    return _bullets(
        (
            f"{axes} of {record.in_channels} channel{'s' if record.in_channels > 1 else ''}, window {window}",
            f"preprocessing: {steps}",
            f"network: {record.network.use}, channels {' - '.join(str(n) for n in record.network.channels)}",
            f"input gate: {'yes' if record.gate is not None else 'no'}",
        )
    )
