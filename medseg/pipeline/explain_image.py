"""`medseg explain`: maps of what a bundle's mask of one image rests on, each with its randomisation test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError
from medseg.explain.explainer import METHODS, Explainer, ExplainOptions, FoundMap, Method
from medseg.explain.figure import write_heat_png
from medseg.explain.sanity import Sanity
from medseg.explain.target import Target, structure_channels, target_of
from medseg.inference.answer import Prediction
from medseg.io.write_image import write_image
from medseg.models.bundle import Bundle
from medseg.models.network import SegmentationNetwork
from medseg.pipeline.cohort_inputs import find_cases, read_case
from medseg.pipeline.cohort_settings import chosen_device
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.model_source import read_model
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.result import Result
from medseg.provenance import versions, write_json
from medseg.quality.options import GateOptions
from medseg.tilt import straighten_labels, unstraighten_slices
from medseg.transforms.preprocess import label_to_grid
from medseg.transforms.restore import restore_channel
from medseg.volume import Volume

RECORD = "explanations.json"
_KEEP_BYTES = 256 << 20


def chosen_methods(text: str) -> tuple[Method, ...]:
    """The methods of a comma-separated list.

    Raises
    ------
    ConfigError
        An unknown name, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ConfigError(f"--method {text!r}: expected one or more of {', '.join(METHODS)}")
    return tuple(cast(Method, name) for name in dict.fromkeys(names))


def explain_image(
    image: Path,
    *,
    model: str,
    labels: Sequence[str],
    output: Path,
    options: ExplainOptions | None = None,
    fold: int | None = None,
    device: str = "auto",
    series: str | None = None,
    accept_unlike: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Write maps of what the mask of one image rests on.

    Parameters
    ----------
    image : Path
        A file, or a folder with one image or DICOM volume.
    model : str
        Shipped name, or folder of a bundle.
    labels : sequence of str
        Labels and regions that are explained.
    output : Path
        explanations.json, and of each map a NIfTI file on the grid of the image and a PNG.
    options : ExplainOptions, optional
    fold : int, optional
        Of an ensemble, the one network that never saw this fold; else the mean of all members' maps.
    device, series, accept_unlike
        As for `predict_folder`.
    reporter : Reporter, optional

    Returns
    -------
    Result

    Raises
    ------
    ConfigError
        A label that the model does not have or did not find, a level or box that does not fit, several images.
    InputError
        The image cannot be read or is refused by the model.
    """
    options, reporter = options or ExplainOptions(), reporter or SilentReporter()
    bundle = read_model(model)
    bundle = bundle if fold is None else bundle.member(fold)
    for name in labels:
        structure_channels(bundle.table, name, bundle.record.regions)
    case_id, volume = _one_image(image, bundle, output=output, series=series)
    work = _Work(
        bundle=bundle,
        device=chosen_device(device),
        options=options,
        reporter=reporter,
        volume=volume,
        case_id=case_id,
        accept_unlike=accept_unlike,
    )
    reporter.title(f"{bundle.name} {bundle.version} · {case_id} · {output}")
    return work.write(labels, output)


def _one_image(image: Path, bundle: Bundle, *, output: Path, series: str | None) -> tuple[str, Volume]:
    cases = find_cases([image], output=output, bundle=bundle, series=series).cases
    if len(cases) != 1:
        raise ConfigError(
            f"{image} holds {len(cases)} images ({', '.join(case.case_id for case in cases[:5])}); explain takes one"
        )
    return cases[0].case_id, read_case(cases[0], bundle)


@dataclass(slots=True, kw_only=True)
class _Work:
    """One image and one bundle."""

    bundle: Bundle
    device: str
    options: ExplainOptions
    reporter: Reporter
    volume: Volume
    case_id: str
    accept_unlike: bool

    def write(self, labels: Sequence[str], output: Path) -> Result:
        """Segment, explain each label, write the files."""
        answer, label_map = self._segmented()
        view = answer.prepared.kept(_KEEP_BYTES).image
        networks = [self._network(position) for position in range(self.bundle.member_count)]
        targets = [self._target(answer, label_map, name) for name in dict.fromkeys(labels)]
        explainer = Explainer(networks=networks, view=view, window=self._window(answer), options=self.options)
        entries, lines = [], []
        for target in targets:
            begin = time.monotonic()
            self.reporter.stage_started("explain", target.name)
            for found in explainer.maps(target, self._tell):
                entries.append(self._write(found, target, answer, label_map, output))
                lines.append(f"{target.name}, {found.name.replace('_', ' ')}: {found.sanity.sentence}")
            self.reporter.stage_done("explain", target.name, time.monotonic() - begin)
        write_json(output / RECORD, self._record(entries))
        return Result(path=output / RECORD, lines=tuple(lines), facts={"explanations": entries})

    def _tell(self, text: str) -> None:
        self.reporter.advanced("explain", 0, 0, text)

    def _segmented(self) -> tuple[Prediction, NDArray[Any]]:
        model = LoadedModel(
            self.bundle, device=self.device, gate_options=GateOptions(refuse=not self.accept_unlike)
        )
        answer = model.answer(self.volume)
        if not isinstance(answer, Prediction):
            raise TypeError("a predictor gives predictions")
        return answer, model.judge(self.volume, answer, case_id=self.case_id).label_map

    def _network(self, position: int) -> SegmentationNetwork:
        # Of its own: networks that were loaded for inference hold tensors that have no gradient.
        network = self.bundle.load_network(position).to(self.device)
        return network.requires_grad_(False)

    def _target(self, answer: Prediction, label_map: NDArray[Any], name: str) -> Target:
        straight = label_map if answer.shear is None else straighten_labels(label_map, answer.shear)
        on_grid = label_to_grid(straight[np.newaxis], answer.grid)[0]
        return target_of(on_grid, self.bundle.table, name, regions=self.bundle.record.regions)

    def _window(self, answer: Prediction) -> tuple[int, ...] | None:
        window = self.bundle.inference.get("window")
        return None if window is None else tuple(int(n) for n in window)

    def _write(
        self, found: FoundMap, target: Target, answer: Prediction, label_map: NDArray[Any], output: Path
    ) -> dict[str, Any]:
        """The files of one map, and its entry of the record."""
        heat = restore_channel(found.values, answer.grid, outside=0.0)
        if answer.shear is not None:
            heat = unstraighten_slices(heat, answer.shear)
        stem = f"{found.name}_{target.name}"
        write_image(
            output / f"{stem}.nii.gz", replace(self.volume, array=np.ascontiguousarray(heat)[np.newaxis])
        )
        captions = [
            f"{found.name.replace('_', ' ')} of {target.name.replace('_', ' ')}",
            _caption(found.sanity),
        ]
        write_heat_png(
            output / f"{stem}.png", self.volume, label_map, heat, self.bundle.table, captions=captions
        )
        return {
            "label": target.name,
            "map": found.name,
            "method": found.method,
            "unit": found.unit,
            "files": [f"{stem}.nii.gz", f"{stem}.png"],
            **found.facts,
            **_places(heat, self.volume),
            "share_in_mask": _share(found.values, target.mask),
            "mask_share_of_image": float(target.mask.mean()),
            "sanity": found.sanity.to_json(),
        }

    def _record(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "format": 1,
            "case_id": self.case_id,
            "image_sha256": self.volume.source.sha256,
            "model": self.bundle.facts,
            "members": [member.fold for member in self.bundle.members] or None,
            "grid": {
                "shape": list(self.volume.spatial_shape),
                "affine": None if self.volume.affine is None else self.volume.affine.tolist(),
            },
            "settings": {
                "level": self.options.level,
                "fill": self.options.fill,
                "draws": self.options.draws,
                "seed": self.options.seed,
                "device": self.device,
            },
            "explanations": list(entries),
            "versions": versions(),
        }


def _caption(sanity: Sanity) -> str:
    if sanity.passed is None:
        return "randomisation test: nothing to compare"
    last = sanity.steps[-1].rank_correlation
    return f"randomisation test {'passed' if sanity.passed else 'FAILED'} ({last:.2f})"


def _places(heat: NDArray[np.float32], volume: Volume) -> dict[str, Any]:
    """Range of a map on the grid of the image, and where it is strongest."""
    peak = [int(n) for n in np.unravel_index(int(np.argmax(heat)), heat.shape)]
    world = None
    if volume.affine is not None and len(peak) == 3:
        world = [float(v) for v in (volume.affine @ [*peak, 1])[:3]]
    return {
        "minimum": float(heat.min()),
        "maximum": float(heat.max()),
        "peak_voxel": peak,
        "peak_ras_mm": world,
    }


def _share(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float | None:
    """Part of what speaks for the structure that lies in its mask."""
    positive = np.clip(values, 0, None)
    total = float(positive.sum(dtype=np.float64))
    return float(positive[mask].sum(dtype=np.float64)) / total if total > 0 else None
