"""U-Nets: plain, residual, with attention gates. One class, told apart by their options."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.models.blocks import (
    AttentionGate,
    ResidualBlock,
    convolution,
    convolution_layer,
    convolution_stack,
)
from medseg.models.network import SegmentationNetwork
from medseg.models.options import AttentionUNetOptions, ResidualUNetOptions, UNetOptions


class UNet(SegmentationNetwork):
    """Encoder and decoder joined at every resolution.

    Strided convolutions lead down and transposed convolutions up, as in nnU-Net.

    References
    ----------
    Ronneberger et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_28; Isensee et al., Nat Methods 2021,
    doi:10.1038/s41592-020-01008-z; Isensee et al., MICCAI 2024 (residual encoders), arXiv:2404.09556.
    """

    options: UNetOptions | ResidualUNetOptions | AttentionUNetOptions

    def __init__(
        self,
        options: UNetOptions | ResidualUNetOptions | AttentionUNetOptions,
        *,
        spatial_dims: int,
        in_channels: int,
        class_count: int,
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        channels = options.channels
        self.encoder = nn.ModuleList(
            self._encoder_level(level, before, after)
            for level, (before, after) in enumerate(zip((in_channels, *channels), channels, strict=False))
        )
        self.dropout = (nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d)(options.dropout)
        transposed = convolution_layer(spatial_dims, transposed=True)
        pairs = list(pairwise(channels))
        steps = options.steps(spatial_dims)[1:]
        self.up = nn.ModuleList(
            transposed(coarse, fine, step, stride=step)
            for (fine, coarse), step in zip(pairs, steps, strict=True)
        )
        gated = isinstance(options, AttentionUNetOptions)
        self.gates = nn.ModuleList(
            AttentionGate(spatial_dims, fine, coarse, stride=step)
            for (fine, coarse), step in (zip(pairs, steps, strict=True) if gated else ())
        )
        depth = 1 if isinstance(options, ResidualUNetOptions) else options.convolutions
        self.decoder = nn.ModuleList(
            self._stack(level, 2 * fine, fine, depth) for level, (fine, _) in enumerate(pairs)
        )
        heads = pairs if options.deep_supervision else pairs[:1]
        self.heads = nn.ModuleList(
            convolution(spatial_dims, fine, class_count, kernel=1, bias=True) for fine, _ in heads
        )

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def head_names(self) -> tuple[str, ...]:
        """`heads.0` is the finest."""
        return tuple(f"heads.{level}" for level in range(len(self.heads)))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits at every level that has a head, finest first."""
        x = self.dropout(maps[-1])
        logits: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            skip = maps[level]
            if self.gates:
                skip = self.gates[level](skip, x)
            x = self.decoder[level](torch.cat([skip, self.up[level](x)], dim=1))
            if level == 0 or (self.training and level < len(self.heads)):
                logits.insert(0, self.heads[level](x))
        return logits

    def _encoder_level(self, level: int, before: int, after: int) -> nn.Module:
        options, stride = self.options, self.options.steps(self.spatial_dims)[level]
        if not isinstance(options, ResidualUNetOptions):
            return self._stack(level, before, after, options.convolutions, stride=stride)
        count = options.blocks[level] if options.blocks is not None else min(level + 1, 4)
        stack = nn.Sequential()
        if level == 0:
            stack.append(self._stack(level, before, after, 1))
            before = after
        for block in range(count):
            stack.append(
                ResidualBlock(
                    self.spatial_dims,
                    before if block == 0 else after,
                    after,
                    norm=options.norm,
                    groups=options.groups,
                    kernel=options.kernel(level, self.spatial_dims),
                    stride=stride if block == 0 else 1,
                    activation=options.activation,
                )
            )
        return stack

    def _stack(
        self, level: int, before: int, after: int, count: int, *, stride: tuple[int, ...] | int = 1
    ) -> nn.Sequential:
        return convolution_stack(
            self.options, self.spatial_dims, level, channels=(before, after), count=count, stride=stride
        )
