"""Start a training from the weights of a bundle, also where labels or channels differ."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from medseg.errors import BundleError
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.models.network import SegmentationNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What became of each tensor of the network.

    Parameters
    ----------
    bundle : str
        Name of the bundle.
    taken : tuple of str
        Tensors that are equal to those of the bundle.
    resized : tuple of str
        Tensors fitted to other channels or other labels.
    new : tuple of str
        Tensors with fresh weights.
    labels_taken, labels_new : tuple of str
        Classes whose part of the head comes from the bundle, and those that start fresh.
    """

    bundle: str
    taken: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    labels_taken: tuple[str, ...]
    labels_new: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report in one line, for a log."""
        total = len(self.taken) + len(self.resized) + len(self.new)
        text = f"{len(self.taken)} of {total} tensors taken from {self.bundle}"
        text += f", {len(self.resized)} fitted" if self.resized else ""
        text += f", {len(self.new)} fresh" if self.new else ""
        return text + (f"; labels that start fresh: {', '.join(self.labels_new)}" if self.labels_new else "")


def load_matching(network: SegmentationNetwork, bundle: Bundle, *, table: LabelTable) -> TransferReport:
    """Copy the weights of a bundle into a fresh network, tensor by tensor.

    A tensor of the same name and shape is taken. The head is mapped by label name: a class that both
    tables name keeps its weights whatever its index, any other class stays fresh. The first convolution
    is spread evenly over other numbers of image channels.

    Parameters
    ----------
    network : SegmentationNetwork
        Changed in place.
    bundle : Bundle
    table : LabelTable
        Labels of the new task, in the order of the network's output.

    Raises
    ------
    BundleError
        The bundle has another number of axes, is damaged, or none of its tensors fits the network.
    """
    if bundle.spatial_dims != network.spatial_dims:
        raise BundleError(
            f"bundle {bundle.name} is {bundle.spatial_dims}-D, the data are {network.spatial_dims}-D; "
            "choose another model.start_from"
        )
    state, own = bundle.load_state(), network.state_dict()
    heads = {f"{head}.{part}" for head in network.head_names for part in ("weight", "bias")}
    first = _first_convolution(network)
    same_labels = bundle.table.names == table.names
    taken, resized, new = [], [], []
    for name, value in own.items():
        source = state.get(name)
        if source is None or source.ndim != value.ndim:
            new.append(name)
        elif source.shape == value.shape and (name not in heads or same_labels):
            value.copy_(source)
            taken.append(name)
        elif (name in heads and _copy_classes(value, source, table, bundle.table)) or (
            name == first and _spread_channels(value, source, network.in_channels, bundle.in_channels)
        ):
            resized.append(name)
        else:
            new.append(name)
    if not any(name.endswith("weight") and own[name].ndim > 1 for name in taken):
        raise BundleError(
            f"none of the convolutions of bundle {bundle.name} ({bundle.network.use}, channels "
            f"{list(bundle.network.channels)}) fits the network {network.options.use}, channels "
            f"{list(network.options.channels)}; give model the same arguments or leave out start_from"
        )
    kept = [name for name in table.names if name in bundle.table.names and heads & {*taken, *resized}]
    return TransferReport(
        bundle=bundle.name,
        taken=tuple(taken),
        resized=tuple(resized),
        new=tuple(new),
        labels_taken=tuple(kept),
        labels_new=tuple(name for name in table.names if name not in kept),
    )


def _first_convolution(network: nn.Module) -> str:
    name = next(n for n, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    return f"{name}.weight"


def _copy_classes(value: Tensor, source: Tensor, table: LabelTable, other: LabelTable) -> bool:
    """Copy the rows of classes that both tables name; False where the heads differ in more than classes."""
    cells, spare = divmod(value.shape[0], table.class_count)
    if spare or source.shape[0] != cells * other.class_count or source.shape[1:] != value.shape[1:]:
        return False
    common = [(table.class_index(n), other.class_index(n)) for n in table.names if n in other.names]
    for here, there in common:
        value[here * cells : (here + 1) * cells] = source[there * cells : (there + 1) * cells]
    return True


def _spread_channels(value: Tensor, source: Tensor, channels: int, source_channels: int) -> bool:
    """Give each channel the mean of the source's, scaled so that equal channels give equal sums."""
    cells = value.shape[1] // channels
    if source.shape[0] != value.shape[0] or source.shape[2:] != value.shape[2:]:
        return False
    if source.shape[1] != cells * source_channels:
        return False
    parts = source.reshape(source.shape[0], source_channels, cells, *source.shape[2:])
    total = parts.sum(dim=1, keepdim=True) / channels
    value.copy_(total.expand(-1, channels, *total.shape[2:]).reshape(value.shape))
    return True
