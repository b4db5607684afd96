"""MONAI's UNet, AttentionUnet, BasicUNet, SegResNet and DynUNet as networks of the registry.

The layers, their names and their weights are MONAI's (Apache-2.0), below `body`; levels are run here one by one,
so that the coarsest maps can be looked at. Imports MONAI; import it where one is built.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.models.monai_arguments import monai_arguments
from medseg.models.network import SegmentationNetwork
from medseg.models.options import NetworkOptions

_CLASSES: dict[str, Any] = {
    "monai_unet": UNet,
    "monai_attention_unet": AttentionUnet,
    "monai_basic_unet": BasicUNet,
    "monai_segresnet": SegResNet,
    "monai_dynunet": DynUNet,
}


class MonaiNetwork(SegmentationNetwork):
    """A network of MONAI, run level by level."""

    def __init__(
        self, options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        arguments = monai_arguments(
            options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count
        )
        self.body: Any = _CLASSES[options.use](**arguments)

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    @abstractmethod
    def head(self) -> str:
        """Name of the last convolution, below `body`."""

    @property
    def head_names(self) -> tuple[str, ...]:
        """The last convolution."""
        return (f"body.{self.head}",)

    def initialise(self) -> None:
        """Keep the weights that MONAI's layers begin with."""


class MonaiUNet(MonaiNetwork):
    """Kerfoot et al., STACOM 2018, doi:10.1007/978-3-030-12029-0_40."""

    @property
    def head(self) -> str:
        """The last of the transposed convolution, or of the residual unit behind it."""
        return "model.2.1.conv.unit0.conv" if self._residual else "model.2.conv"

    @property
    def _residual(self) -> bool:
        return bool(cast(Any, self.options).residual_units)

    @property
    def input_cells(self) -> dict[str, tuple[int, ...]]:
        """Of a residual unit both branches read the image."""
        names = ("model.0.conv.unit0.conv", "model.0.residual") if self._residual else ("model.0.conv",)
        return {f"body.{name}": (1,) * self.spatial_dims for name in names}

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps: list[Tensor] = []
        level = self.body.model
        while isinstance(level, nn.Sequential) and len(level) == 3:
            maps.append(level[0](x if not maps else maps[-1]))
            level = level[1].submodule
        return [*maps, level(maps[-1])]

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits."""
        ups, level = [], self.body.model
        for _ in maps[:-1]:
            ups.append(level[2])
            level = level[1].submodule
        x = maps[-1]
        for up, skip in zip(reversed(ups), reversed(maps[:-1]), strict=True):
            x = up(torch.cat([skip, x], dim=1))
        return [x]


class MonaiAttentionUNet(MonaiNetwork):
    """Oktay et al., Attention U-Net, MIDL 2018, arXiv:1804.03999."""

    @property
    def head(self) -> str:
        """The reduction to classes."""
        return "model.2.conv"

    def _layers(self) -> tuple[list[Any], list[Any]]:
        """Convolutions that lead down, and the layers around them."""
        downs: list[Any] = []
        layers: list[Any] = []
        layer = self.body.model[1]
        while True:
            layers.append(layer)
            below = layer.submodule
            if not isinstance(below, nn.Sequential):
                return [*downs, below], layers
            downs.append(below[0])
            layer = below[1]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = [self.body.model[0](x)]
        for down in self._layers()[0]:
            maps.append(down(maps[-1]))
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits."""
        x = maps[-1]
        for layer, skip in zip(reversed(self._layers()[1]), reversed(maps[:-1]), strict=True):
            below = layer.upconv(x)
            x = layer.merge(torch.cat([layer.attention(g=below, x=skip), below], dim=1))
        return [self.body.model[2](x)]


class MonaiBasicUNet(MonaiNetwork):
    """Falk et al., Nat Methods 2019, doi:10.1038/s41592-018-0261-2."""

    @property
    def head(self) -> str:
        """The last convolution."""
        return "final_conv"

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        body, maps = self.body, [self.body.conv_0(x)]
        for down in (body.down_1, body.down_2, body.down_3, body.down_4):
            maps.append(down(maps[-1]))
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits."""
        body, x = self.body, maps[-1]
        ups = (body.upcat_4, body.upcat_3, body.upcat_2, body.upcat_1)
        for up, skip in zip(ups, reversed(maps[:-1]), strict=True):
            x = up(x, skip)
        return [body.final_conv(x)]


class MonaiSegResNet(MonaiNetwork):
    """Myronenko, BrainLes 2018, doi:10.1007/978-3-030-11726-9_28."""

    @property
    def head(self) -> str:
        """The last convolution."""
        return "conv_final.2.conv"

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        deepest, maps = self.body.encode(x)
        return [*maps[:-1], deepest]

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits."""
        return [self.body.decode(maps[-1], list(reversed(maps)))]


class MonaiDynUNet(MonaiNetwork):
    """Isensee et al., arXiv:1904.08128; Futrega et al., arXiv:2110.03352."""

    def __init__(
        self, options: NetworkOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        # It registers every layer a second time for TorchScript, and the weights would be stored twice.
        del self.body.skip_layers

    @property
    def head(self) -> str:
        """The last convolution."""
        return "output_block.conv.conv"

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = [self.body.input_block(x)]
        for down in (*self.body.downsamples, self.body.bottleneck):
            maps.append(down(maps[-1]))
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits."""
        x = maps[-1]
        for up, skip in zip(self.body.upsamples, reversed(maps[:-1]), strict=True):
            x = up(x, skip)
        return [self.body.output_block(x)]


MONAI_NETWORKS: dict[str, type[MonaiNetwork]] = {
    "monai_unet": MonaiUNet,
    "monai_attention_unet": MonaiAttentionUNet,
    "monai_basic_unet": MonaiBasicUNet,
    "monai_segresnet": MonaiSegResNet,
    "monai_dynunet": MonaiDynUNet,
}
