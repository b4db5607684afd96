"""Network, or ensemble of networks, and Volume in, label map on the source grid out."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError, InputRefusedError
from medseg.geometry import GridMap
from medseg.inference.ceiling import Demand, Fit, extra_bytes, fit, shared_voxels
from medseg.inference.certainty import CertaintyMap, source_certainty
from medseg.inference.confidence import ConfidenceTally
from medseg.inference.members import Members, SingleNetwork
from medseg.inference.options import InferenceOptions, RefineOptions
from medseg.inference.refine import crop_volume, cut_out, main_components, refine_classes, source_voxels
from medseg.inference.sliding_window import Copy, Sweep, copies, joined, window_slices, with_copies
from medseg.inference.window_blend import Block, Box, FileTiles, TileStore
from medseg.labels import LabelTable
from medseg.memory import resident_bytes
from medseg.transforms.block_restore import BlockRestorer, restore_blocks
from medseg.transforms.image_view import ArrayView, ImageView, channel_maxima, channel_minima
from medseg.transforms.options import Crop, Orient, PreprocessStep
from medseg.transforms.preprocess import Prepared, prepare
from medseg.transforms.straighten import Shear, straighten, unstraighten_labels
from medseg.volume import Volume

# A smaller tilt moves the slices of a whole scan by less than a few voxels; networks do not notice.
_LEAST_TILT_DEGREES = 0.5
# Probabilities that a softmax in float32 rounds to zero have a logarithm of about -87.
_LEAST_PROBABILITY = 1e-38
# A prepared image that takes more than this is made window by window from its source.
_KEEP_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is kept of a prediction once its probabilities are gone.

    Parameters
    ----------
    label_map : (*source) integer array
        Class indices on the grid of the volume that was given; not yet postprocessed.
    confidence : mapping of str to mapping of str to float
        See `confidence.label_confidence`; labels that were not found are left out.
    entropy : mapping of str to float
        See `confidence.image_entropy`.
    features : (F,) float32 array or None
        The network's feature vector of the first pass, for the input gate; None where the
        network has none. Of an ensemble that of its first member.
    passes : int
        2 where the result is that of the second pass.
    notes : tuple of str
        What a reader of the result must know, one sentence each.
    certainty : CertaintyMap or None
        Probability of the winning class by voxel, where the predictor keeps it.
    """

    label_map: NDArray[Any]
    confidence: Mapping[str, Mapping[str, float]]
    entropy: Mapping[str, float]
    features: NDArray[np.float32] | None
    passes: int = 1
    notes: tuple[str, ...] = ()
    certainty: CertaintyMap | None = None

    def bare(self, label_map: NDArray[Any]) -> Answer:
        """The same for another label map, without what a subclass keeps beside it."""
        return Answer(
            label_map=label_map,
            confidence=self.confidence,
            entropy=self.entropy,
            features=self.features,
            passes=self.passes,
            notes=self.notes,
            certainty=self.certainty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Answer):
    """What a network makes of one image.

    Parameters
    ----------
    prepared : Prepared
        Image as the network saw it, in the pass that counts.
    grid : GridMap
        From the source grid to that of `prepared` and `probabilities`; for a tilted volume from its
        straight grid.
    shear : Shear or None
        The straight grid of a tilted volume, and the way back from it; None where it was not tilted.
    probabilities : (L, *prepared) float32 array or None
        Kept where the options say so.
    """

    prepared: Prepared
    grid: GridMap
    shear: Shear | None = None
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """What is left of one pass: its probabilities were there block by block, and whole only where they are kept."""

    prepared: Prepared
    grid: GridMap
    tally: ConfidenceTally
    label_map: NDArray[Any]
    probabilities: NDArray[np.float32] | None


class Predictor:
    """Prepares images, shows them to a network, and brings the answer back to their grid.

    Parameters
    ----------
    network : nn.Module or Members
        (B, C, *sp) -> (B, L, *sp) logits; moved to `device`. It is put into evaluation mode for
        each prediction and left in the mode it was in. Several are asked one after the other, and
        their answers averaged as `options.ensemble` says.
    steps : sequence of PreprocessStep
        What the network was trained on.
    table : LabelTable
        L classes.
    options : InferenceOptions
    statistics : mapping of str to float, optional
        Of the training data, for `standardise: dataset`.
    device : torch.device or str
        Where the network runs and the probabilities are summed.
    dtype : torch.dtype
        float32, or the lower precision of autocast; softmax and sums are float32 always.
    max_bytes : int, optional
        Ceiling of the memory of this process, kept while an image is predicted.
    scratch : Path, optional
        Folder for sums that do not fit below it; the system's for temporary files unless given.
    keep_certainty : bool, optional
        Whether the probability of the winning class is kept with the result, three bytes a voxel of the
        prepared image.

    Raises
    ------
    ConfigError
        A second pass is asked for, but a step cuts out a fixed box.
    """

    def __init__(
        self,
        network: nn.Module | Members,
        *,
        steps: Sequence[PreprocessStep],
        table: LabelTable,
        options: InferenceOptions,
        statistics: Mapping[str, float] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_bytes: int | None = None,
        scratch: Path | None = None,
        keep_certainty: bool = False,
    ) -> None:
        if options.refine is not None and any(isinstance(s, Crop) and s.method == "box" for s in steps):
            raise ConfigError(
                "inference.refine does not go with preprocess crop: box, a place that the second pass does "
                "not have; use crop: foreground or border, or leave refine out"
            )
        self.device = torch.device(device)
        self.members: Members = (
            SingleNetwork(network, self.device) if isinstance(network, nn.Module) else network
        )
        self.steps = tuple(steps)
        self.table = table
        self.options = options
        self.statistics = statistics
        self.dtype = dtype
        self.max_bytes, self.scratch = max_bytes, scratch
        self.keep_certainty = keep_certainty
        self._network_bytes: dict[tuple[int, ...], int] = {}
        self._side_axis = side_axis(steps)

    def predict(self, volume: Volume) -> Prediction:
        """Label map of a volume on its own grid.

        A volume whose slices are tilted against their axis is straightened first, and the label map
        brought back onto the tilted grid; a note says so.

        Raises
        ------
        InputRefusedError
            The image holds values that are not finite.
        BundleError
            The network's answer is not finite, or has another number of classes than the table.
        ConfigError
            A window that does not fit the image's axes.
        GeometryError
            No two axes of the volume are at right angles.
        """
        volume, shear = straighten(volume, least_degrees=_LEAST_TILT_DEGREES)
        first = self._run(volume, GridMap.identity(volume.spatial_shape))
        chosen, passes = first, 1
        notes: tuple[str, ...] = ()
        if self.options.refine is not None:
            chosen, passes, notes = self._refine(volume, first, self.options.refine)
        label_map = chosen.label_map
        return Prediction(
            label_map=label_map if shear is None else unstraighten_labels(label_map, shear),
            confidence=chosen.tally.labels(),
            entropy=chosen.tally.image(),
            features=self.features(first.prepared.image),
            prepared=chosen.prepared,
            grid=chosen.grid,
            shear=shear,
            probabilities=chosen.probabilities,
            passes=passes,
            notes=(*_tilt_notes(shear), *chosen.prepared.notes, *notes),
            certainty=source_certainty(chosen.tally.label_map, chosen.tally.winning, chosen.grid, shear)
            if self.keep_certainty
            else None,
        )

    def probabilities(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities of a prepared image, one pass, on its own grid.

        Parameters
        ----------
        image : (C, *sp) float32 array

        Returns
        -------
        (L, *sp) float32 array
        """
        if not np.isfinite(image).all():
            raise InputRefusedError(
                "the prepared image holds values that are not finite; look for NaN in the file"
            )
        view = ArrayView(image)
        sweep = self._sweep_over(view)
        return cast("NDArray[np.float32]", joined(self._blocks(view, sweep), sweep.size).numpy())

    def _sweep_over(self, image: ImageView) -> Sweep:
        options = self.options
        return Sweep.over(image.shape, options.window, overlap=options.overlap, batch_size=options.batch_size)

    def _blocks(self, image: ImageView, sweep: Sweep, store: TileStore | None = None) -> Iterator[Block]:
        """Finished blocks of a prepared image on the CPU, as they are asked for."""
        versions = copies(
            len(image.shape),
            lambda: _value_range(image),
            tta=self.options.tta_names,
            flip_axes=self.options.flip_axes,
        )
        filling = float(channel_minima(image).min()) if sweep.fills_up else 0.0

        def read(box: Box) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(image.read(box))).to(self.device)

        asked = sweep.blocks(
            read, lambda batch: self._averaged(batch, versions), filling=filling, store=store
        )
        for block in asked:
            yield Block(place=block.place, values=block.values.cpu())

    @torch.inference_mode()
    def _averaged(self, batch: Tensor, versions: Sequence[Copy]) -> Tensor:
        """(B, L, *window) mean answer of the members to a batch of windows, one member after the other."""
        count = len(self.members)
        logarithms = self.options.ensemble == "logits" and count > 1
        total: Tensor | None = None
        for position in range(count):
            found = self._answer(position, batch, versions)
            found = found.clamp_(min=_LEAST_PROBABILITY).log_() if logarithms else found
            total = found if total is None else total.add_(found)
            del found
        if total is None:
            raise ValueError("there is no network to ask")
        if count > 1:
            total.div_(count)
        return torch.softmax(total, dim=1) if logarithms else total

    def _answer(self, position: int, batch: Tensor, versions: Sequence[Copy]) -> Tensor:
        """(B, L, *window) probabilities of one member, checked."""
        with self._evaluating(position) as network:
            found = with_copies(
                network,
                versions,
                side_axis=self._side_axis,
                mirror_classes=self.table.mirror_classes.tolist(),
            )(batch)
        self._check(found)
        return found

    def features(self, image: NDArray[np.float32] | ImageView) -> NDArray[np.float32] | None:
        """Feature vector of a prepared image: the network's, averaged over windows side by side.

        Parameters
        ----------
        image : (C, *sp) float32 array or ImageView

        Returns
        -------
        (F,) float32 array, or None where the network has no `features`
        """
        view = ArrayView(image) if isinstance(image, np.ndarray) else image
        window = tuple(min(n, w) for n, w in zip(view.shape, self.options.window or view.shape, strict=True))
        with self._evaluating(0) as network:
            read = getattr(network, "features", None)
            if read is None:
                return None
            vectors = [
                read(torch.from_numpy(np.ascontiguousarray(view.read(place)))[None].to(self.device)).float()
                for place in window_slices(view.shape, window, 0.0)
            ]
            mean: Tensor = torch.cat(vectors).mean(dim=0)
        return cast("NDArray[np.float32]", mean.cpu().numpy())

    def _run(self, volume: Volume, cut: GridMap) -> _Pass:
        """One pass over a volume that `cut` took from the source."""
        bounded = self.max_bytes is not None
        prepared = prepare(
            volume, self.steps, statistics=self.statistics, keep_bytes=0 if bounded else _KEEP_BYTES
        )
        grid, classes = cut.then(prepared.grid), self.table.class_count
        sweep = self._sweep_over(prepared.image)
        with contextlib.ExitStack() as stack:
            store: TileStore | None = None
            if self.max_bytes is not None:
                found = self._fit(volume, prepared, grid, sweep, max_bytes=self.max_bytes)
                sweep = replace(sweep, batch_size=found.batch_size)
                prepared = prepared.kept(found.keep_bytes)
                if found.in_file:
                    folder = self.scratch or Path(tempfile.gettempdir())
                    store = stack.enter_context(contextlib.closing(FileTiles(folder)))
            tally = ConfidenceTally(sweep.size, self.table)
            kept = np.empty((classes, *sweep.size), np.float32) if self.options.save_probabilities else None

            def looked_at() -> Iterator[tuple[Box, Tensor]]:
                for block in self._blocks(prepared.image, sweep, store):
                    tally.add(block.place, block.values)
                    if kept is not None:
                        kept[(slice(None), *block.place)] = block.values.numpy()
                    yield block.place, block.values

            label_map = restore_blocks(looked_at(), grid, order=sweep.order, class_count=classes)
        return _Pass(prepared=prepared, grid=grid, tally=tally, label_map=label_map, probabilities=kept)

    def _fit(self, volume: Volume, prepared: Prepared, grid: GridMap, sweep: Sweep, *, max_bytes: int) -> Fit:
        """How this image is predicted below a ceiling."""
        axes, window = sweep.axes, sweep.window
        if window not in self._network_bytes:
            versions = copies(len(window), lambda: (0.0, 1.0))
            shown = torch.zeros((1, prepared.image.channels, *window), device=self.device)
            self._network_bytes[window] = extra_bytes(lambda: self._averaged(shown, versions))
        blocks = [max(axis.finished(n) - axis.starts[n] for n in range(len(axis.starts))) for axis in axes]
        demand = Demand(
            source_voxels=math.prod(volume.spatial_shape),
            prepared_voxels=math.prod(sweep.size),
            in_channels=prepared.image.channels,
            class_count=self.table.class_count,
            window=window,
            batch_size=sweep.batch_size,
            carried=shared_voxels(axes, sweep.order),
            rim=BlockRestorer(grid, sweep.order).kept_values(blocks),
            network_bytes=self._network_bytes[window],
        )
        return fit(demand, max_bytes=max_bytes, taken_bytes=resident_bytes())

    def _refine(
        self, volume: Volume, first: _Pass, options: RefineOptions
    ) -> tuple[_Pass, int, tuple[str, ...]]:
        classes = refine_classes(options, self.table)
        mask = main_components(first.tally.label_map, classes)
        share = source_voxels(mask, first.grid) / np.prod(volume.spatial_shape)
        if share <= 0 or share < options.min_share:
            return first, 1, (_kept(f"the first found only {share:.1%} of the image"),)
        start, size = cut_out(mask, first.grid, margin=options.margin)
        if size == volume.spatial_shape:
            return first, 1, ()
        cut = GridMap.crop_or_pad(volume.spatial_shape, start, size)
        second = self._run(crop_volume(volume, start, size), cut)
        areas = [source_voxels(main_components(p.tally.label_map, classes), p.grid) for p in (first, second)]
        change = abs(areas[0] - areas[1]) / max(areas)
        if change > options.max_change:
            return first, 1, (_kept(f"the masks of the two differ in size by {change:.0%}"),)
        return second, 2, ()

    @contextlib.contextmanager
    def _evaluating(self, position: int) -> Iterator[nn.Module]:
        """A member in evaluation mode, in the precision of this predictor."""
        with self.members.network(position) as network:
            training = network.training
            network.eval()
            try:
                with (
                    torch.inference_mode(),
                    torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32),
                ):
                    yield network
            finally:
                network.train(training)
                del network

    def _check(self, probabilities: Tensor) -> None:
        if probabilities.shape[1] != self.table.class_count:
            raise BundleError(
                f"the network gives {probabilities.shape[1]} classes, the label table has "
                f"{self.table.class_count} with background; weights and labels do not belong together"
            )
        if not bool(torch.isfinite(probabilities).all()):
            raise BundleError(
                "the network gave probabilities that are not finite for a finite image "
                f"(precision {str(self.dtype).removeprefix('torch.')}); use float32, or check the weights"
            )


def side_axis(steps: Sequence[PreprocessStep]) -> int | None:
    """Left-right axis of prepared images: by the last `orient`, else axis 0; None where there is none."""
    orients = [step for step in steps if isinstance(step, Orient)]
    if not orients:
        return 0
    return next((axis for axis, letter in enumerate(orients[-1].to) if letter in "LR"), None)


def _tilt_notes(shear: Shear | None) -> tuple[str, ...]:
    if shear is None:
        return ()
    return (
        f"The slices are tilted by {shear.degrees:.1f} degrees against their axis; the image was straightened "
        "for the network and the result brought back onto the tilted slices.",
    )


def _value_range(image: ImageView) -> tuple[float, float]:
    return float(channel_minima(image).min()), float(channel_maxima(image).max())


def _kept(reason: str) -> str:
    return f"The second pass was not used, because {reason}; the result is that of the first."
