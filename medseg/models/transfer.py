"""Start a training from the weights of a bundle, also where labels, channels, kernels or axes differ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medseg.errors import BundleError
from medseg.labels import LabelTable
from medseg.models.bundle import Bundle
from medseg.models.network import SegmentationNetwork
from medseg.models.refit import (
    Folding,
    Refit,
    edges_fit,
    fit_edge,
    fit_head,
    fit_inputs,
    inflate,
    inflate_transposed,
)
from medseg.models.registry import build_network
from medseg.models.transfer_report import TransferReport, label_sources, option_hints

_INFLATED = "inflated to 3-D"


def load_matching(network: SegmentationNetwork, bundle: Bundle, *, table: LabelTable) -> TransferReport:
    """Copy the weights of a bundle into a fresh network, tensor by tensor.

    A tensor of the same name and shape is taken. The head is mapped by label name: a class that both
    tables name keeps its weights whatever its index; a class that the bundle has as a region, or that is part
    of a region which the bundle has as a label, starts from those; any other class stays fresh. The first
    convolution is spread over other numbers of image channels, and kernels of pictures are inflated to those
    of volumes as `options.inflate` says.

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
        The bundle is of volumes and the data are pictures, it is damaged, or none of its convolutions fits the
        network; the message names the settings that differ.
    """
    if bundle.spatial_dims > network.spatial_dims:
        raise BundleError(
            f"bundle {bundle.name} is {bundle.spatial_dims}-D, the data are {network.spatial_dims}-D; "
            "kernels can be inflated, not flattened: choose another model.start_from"
        )
    if bundle.record.regions:
        raise BundleError(
            f"the outputs of bundle {bundle.name} are regions that overlap, not the classes that a training here has; "
            "choose another model.start_from"
        )
    matching = _Matching(network, bundle, table)
    state = bundle.load_state()
    fates = _copy(network, state, matching)
    hints = option_hints(
        network.options, bundle.network, same_axes=bundle.spatial_dims == network.spatial_dims
    )
    if not any(how is not None for name, how in fates.items() if matching.is_kernel(name)):
        raise BundleError(
            f"none of the convolutions of bundle {bundle.name} ({bundle.network.use}, channels "
            f"{list(bundle.network.channels)}) fits the network {network.options.use}, channels "
            f"{list(network.options.channels)}; {'; '.join((*hints, 'or leave out model.start_from'))}"
        )
    head_fits = any(fates[name] is not None for name in matching.heads)
    new = tuple(name for name, how in fates.items() if how is None)
    return TransferReport(
        bundle=_name(bundle),
        version=bundle.version,
        weights_sha256=bundle.weights_sha256,
        taken=tuple(name for name, how in fates.items() if how == ""),
        resized={name: how for name, how in fates.items() if how},
        new=new,
        unused=tuple(sorted(name for name in state if fates.get(name) is None)),
        labels={name: found if head_fits else () for name, found in matching.labels.items()},
        hints=hints if any(matching.is_body(name) for name in new) else (),
    )


def _name(bundle: Bundle) -> str:
    """Of an ensemble the member whose weights are taken: the first."""
    return f"{bundle.name}, member of fold {bundle.members[0].fold}" if bundle.members else bundle.name


def _copy(
    network: SegmentationNetwork, state: Mapping[str, Tensor], matching: _Matching
) -> dict[str, str | None]:
    """Fill the network; by tensor what was fitted, "" where nothing, None where the tensor stays fresh."""
    fates: dict[str, str | None] = {}
    for name, value in network.state_dict().items():
        refit = matching.refit(name, state[name], value) if name in state else None
        fates[name] = None if refit is None else refit.how
        if refit is not None:
            value.copy_(refit.tensor)
    return fates


class _Matching:
    """What is known of both networks while tensors are matched."""

    def __init__(self, network: SegmentationNetwork, bundle: Bundle, table: LabelTable) -> None:
        self.network, self.modules = network, dict(network.named_modules())
        self.kernels = {name: value.ndim > 1 for name, value in network.named_parameters()}
        with torch.device("meta"):
            other = build_network(
                bundle.network,
                spatial_dims=bundle.spatial_dims,
                in_channels=bundle.in_channels,
                class_count=bundle.record.channel_count,
            )
        self.inflates = network.spatial_dims > other.spatial_dims
        self.labels = label_sources(table, bundle.table)
        self.rows = [[bundle.table.class_index(n) for n in names] for names in self.labels.values()]
        self.same_labels = bundle.table.names == table.names
        self.inputs = self._foldings(network.input_cells, network.in_channels, parts=("weight",))
        self.heads = self._foldings(network.head_cells, network.class_count, parts=("weight", "bias"))
        self.other_inputs = self._foldings(other.input_cells, other.in_channels, parts=("weight",))
        self.other_heads = self._foldings(other.head_cells, other.class_count, parts=("weight", "bias"))

    def _foldings(
        self, cells: Mapping[str, tuple[int, ...]], count: int, *, parts: tuple[str, ...]
    ) -> dict[str, Folding]:
        missing = (1,) * self.network.spatial_dims
        return {
            f"{name}.{part}": Folding(count=count, cell=(*cell, *missing[len(cell) :]))
            for name, cell in cells.items()
            for part in parts
        }

    def is_body(self, name: str) -> bool:
        """Whether a tensor is neither of a head nor of a convolution that reads the image."""
        return name not in self.heads and name not in self.inputs

    def is_kernel(self, name: str) -> bool:
        """Whether a tensor is a matrix or kernel of the body."""
        return self.is_body(name) and self.kernels.get(name, False)

    def refit(self, name: str, source: Tensor, value: Tensor) -> Refit | None:
        """The bundle's tensor in the shape of the network's; None where it cannot be."""
        done: list[str] = []
        tensor = self._with_kernel(name, source, value, done)
        if tensor is None:
            return None
        if name in self.inputs and name in self.other_inputs:
            tensor = self._with_inputs(name, tensor, done)
        elif name in self.heads and name in self.other_heads:
            tensor = self._with_labels(name, tensor, value, done)
        elif name in self.heads or name in self.inputs:
            return None
        if tensor is None or tensor.shape != value.shape:
            return None
        return Refit(tensor=tensor, how=", ".join(done))

    def _with_kernel(self, name: str, source: Tensor, value: Tensor, done: list[str]) -> Tensor | None:
        """Number of axes and edges of the kernel; anything but a convolution passes as it is."""
        layer = self.modules.get(name.rpartition(".")[0])
        transposed = isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d)
        if value.ndim < 4 or not (transposed or isinstance(layer, nn.Conv2d | nn.Conv3d)):
            return source
        tensor = source
        if self.inflates and source.ndim + 1 == value.ndim:
            edge = value.shape[-1]
            if isinstance(layer, nn.ConvTranspose3d):
                tensor = inflate_transposed(source, edge, stride=layer.stride[-1])
            else:
                tensor = inflate(source, edge, mode=self.network.options.inflate)
            done.append(_INFLATED)
        found, wanted = tensor.shape[2:], value.shape[2:]
        if found == wanted:
            return tensor
        if transposed or tensor.ndim != value.ndim or not edges_fit(found, wanted):
            return None
        for axis, edge in enumerate(wanted, start=2):
            tensor = fit_edge(tensor, axis, edge)
        done.append(f"kernel {_by_x(found)} -> {_by_x(wanted)}")
        return tensor

    def _with_inputs(self, name: str, tensor: Tensor, done: list[str]) -> Tensor | None:
        source, target = self.other_inputs[name], self.inputs[name]
        if source == target:
            return tensor
        if source.count != target.count:
            done.append(f"{source.count} -> {target.count} image channels")
        if source.cell != target.cell and not self.inflates:
            done.append(f"cell {_by_x(source.cell)} -> {_by_x(target.cell)}")
        return fit_inputs(tensor, source, target)

    def _with_labels(self, name: str, tensor: Tensor, value: Tensor, done: list[str]) -> Tensor | None:
        source, target = self.other_heads[name], self.heads[name]
        if source == target and self.same_labels:
            return tensor
        if not self.same_labels:
            kept = sum(bool(row) for row in self.rows)
            done.append(f"{source.count} -> {target.count} classes, {kept} kept")
        if self.inflates and _INFLATED not in done:
            done.insert(0, _INFLATED)
        elif source.cell != target.cell and not self.inflates:
            done.append(f"cell {_by_x(source.cell)} -> {_by_x(target.cell)}")
        return fit_head(tensor, value, source, target, self.rows)


def _by_x(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
