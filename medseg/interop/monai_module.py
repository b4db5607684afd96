"""Networks of medseg by plain arguments, for `_target_` in the configuration of a MONAI bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from medseg.errors import BundleError
from medseg.models.network import SegmentationNetwork
from medseg.models.options import NETWORK_OPTIONS
from medseg.models.registry import build_network


def build(
    options: Mapping[str, Any], spatial_dims: int, in_channels: int, class_count: int
) -> SegmentationNetwork:
    """A network of the registry with fresh weights.

    Parameters
    ----------
    options : mapping
        `NetworkOptions` as JSON.
    spatial_dims, in_channels, class_count : int
        See `registry.build_network`.

    Raises
    ------
    BundleError
        The options are not those of a network.
    """
    try:
        checked = NETWORK_OPTIONS.validate_python(dict(options))
    except ValidationError as err:
        raise BundleError(f"the options of the network are damaged: {err.errors()[0]['msg']}") from err
    return build_network(
        checked, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count, seed=0
    )
