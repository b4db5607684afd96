"""Name in the YAML -> network, in two or three dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch

from medseg.errors import ConfigError
from medseg.models.fcn import FCN
from medseg.models.network import SegmentationNetwork, as_channels_last
from medseg.models.options import MedNeXtOptions, NetworkOptions, SwinUNETROptions
from medseg.models.small_unet import SmallUNet
from medseg.models.unet import UNet


def _mednext(options: NetworkOptions, **shape: int) -> SegmentationNetwork:
    # MONAI takes seconds to import.
    from medseg.models.mednext import MedNeXtNetwork

    return MedNeXtNetwork(cast(MedNeXtOptions, options), **shape)


def _swin_unetr(options: NetworkOptions, **shape: int) -> SegmentationNetwork:
    from medseg.models.swin_unetr import SwinUNETRNetwork

    return SwinUNETRNetwork(cast(SwinUNETROptions, options), **shape)


def _monai(options: NetworkOptions, **shape: int) -> SegmentationNetwork:
    from medseg.models.monai_networks import MONAI_NETWORKS

    return MONAI_NETWORKS[options.use](options, **shape)


NETWORKS: dict[str, Callable[..., SegmentationNetwork]] = {
    "unet": UNet,
    "residual_unet": UNet,
    "attention_unet": UNet,
    "fcn": FCN,
    "small_unet": SmallUNet,
    "mednext": _mednext,
    "swin_unetr": _swin_unetr,
    "monai_unet": _monai,
    "monai_attention_unet": _monai,
    "monai_basic_unet": _monai,
    "monai_segresnet": _monai,
    "monai_dynunet": _monai,
}


def build_network(
    options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int, seed: int | None = None
) -> SegmentationNetwork:
    """A network with fresh weights, in training mode and channels-last layout.

    Parameters
    ----------
    options : NetworkOptions
        Which network, and its arguments. `start_from` is not followed here; see `transfer.load_matching`.
    spatial_dims : int
        2 or 3.
    in_channels : int
        Channels of the image.
    class_count : int
        Classes, background included.
    seed : int or None, optional
        The same seed gives the same weights and leaves torch's own random state alone. None draws from it.

    Raises
    ------
    ConfigError
        A number that no network can have, or strides and kernels for another number of axes.
    """
    if spatial_dims not in (2, 3):
        raise ConfigError(f"model {options.use} can be built in 2 or 3 dimensions, found {spatial_dims}")
    if in_channels < 1:
        raise ConfigError(f"model {options.use} needs at least one image channel, found {in_channels}")
    if class_count < 2:
        raise ConfigError(
            f"model {options.use} needs two classes or more (background and a label), found {class_count}; "
            "name a structure under labels"
        )
    with _random_state(seed):
        network = NETWORKS[options.use](
            options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count
        )
        network.initialise()
    return as_channels_last(network)


@contextlib.contextmanager
def _random_state(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
