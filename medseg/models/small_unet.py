"""small_unet: a residual U-Net for CPUs that sees the whole window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from medseg.models.blocks import (
    ContextGate,
    ConvNorm,
    ResidualBlock,
    convolution,
    depth_to_space,
    resize,
    space_to_depth,
)
from medseg.models.network import SegmentationNetwork
from medseg.models.options import SmallUNetOptions


class SmallUNet(SegmentationNetwork):
    """U-Net at half resolution: cells of 2 x 2 (x 2) voxels go in as channels and come out as channels.

    On a CPU the convolutions at full resolution cost most of the time and are bound by memory; here
    there are none. Folding cells into channels loses nothing, so contours stay sharp to the voxel. Skips
    are added, not joined; the coarsest level is gated by its average over the window (`ContextGate`).

    References
    ----------
    Shi et al. (pixel shuffle), CVPR 2016, doi:10.1109/CVPR.2016.207.
    """

    options: SmallUNetOptions

    def __init__(
        self, options: SmallUNetOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        channels, cell = options.channels, 2**spatial_dims
        pairs = list(pairwise(channels))
        self.stem = self._conv(in_channels * cell, channels[0])
        self.encoder = nn.ModuleList(self._block(fine, coarse, stride=2) for fine, coarse in pairs)
        self.bottom = self._block(channels[-1], channels[-1])
        self.context = ContextGate(channels[-1]) if options.context else nn.Identity()
        self.dropout = (nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d)(options.dropout)
        self.lateral = nn.ModuleList(
            convolution(spatial_dims, coarse, fine, kernel=1) for fine, coarse in pairs
        )
        self.decoder = nn.ModuleList(self._conv(fine, fine) for fine, _ in pairs)
        heads = pairs if options.deep_supervision else pairs[:1]
        self.heads = nn.ModuleList(
            convolution(spatial_dims, fine, class_count * (cell if level == 0 else 1), kernel=1, bias=True)
            for level, (fine, _) in enumerate(heads)
        )

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def head_names(self) -> tuple[str, ...]:
        """`heads.0` is the finest; its channels are (class, cell), class slowest."""
        return tuple(f"heads.{level}" for level in range(len(self.heads)))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest (half resolution) first."""
        maps = [self.stem(space_to_depth(x))]
        for level in self.encoder:
            maps.append(level(maps[-1]))
        maps[-1] = self.context(self.bottom(maps[-1]))
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits at full resolution and, in training with deep supervision, at coarser levels."""
        x = self.dropout(maps[-1])
        logits: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](
                maps[level] + resize(self.lateral[level](x), tuple(maps[level].shape[2:]))
            )
            if level == 0:
                logits.insert(0, depth_to_space(self.heads[0](x)))
            elif self.training and level < len(self.heads):
                logits.insert(0, self.heads[level](x))
        return logits

    def _conv(self, before: int, after: int) -> nn.Module:
        return ConvNorm(
            self.spatial_dims,
            before,
            after,
            norm=self.options.norm,
            groups=self.options.groups,
            activation="relu",
        )

    def _block(self, before: int, after: int, *, stride: int = 1) -> nn.Module:
        return ResidualBlock(
            self.spatial_dims,
            before,
            after,
            norm=self.options.norm,
            groups=self.options.groups,
            stride=stride,
            activation="relu",
        )
