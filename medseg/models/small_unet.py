"""small_unet: a residual U-Net for CPUs that sees the whole window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from medseg.models.blocks import (
    ContextGate,
    ConvNorm,
    ResidualBlock,
    activation_layer,
    convolution,
    normalisation,
    resize,
)
from medseg.models.cells import depth_to_space, space_to_depth
from medseg.models.network import SegmentationNetwork
from medseg.models.options import SmallUNetOptions


class SmallUNet(SegmentationNetwork):
    """U-Net at half resolution: cells of 2 x 2 (x 2) voxels go in as channels and come out as channels.

    On a CPU the convolutions at full resolution cost most of the time and are bound by memory; here
    there are none, unless `refine` asks for one. Folding cells into channels loses nothing, so contours stay
    sharp to the voxel. Skips are added, not joined; the coarsest level is gated by its average over the window
    (`ContextGate`).

    References
    ----------
    Shi et al. (pixel shuffle), CVPR 2016, doi:10.1109/CVPR.2016.207.
    """

    options: SmallUNetOptions

    def __init__(
        self, options: SmallUNetOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        channels, steps = options.channels, options.steps(spatial_dims)
        self._cell, cells = steps[0], prod(steps[0])
        pairs, blocks = list(pairwise(channels)), options.level_blocks
        self.stem = self._conv(0, in_channels * cells, channels[0])
        self.encoder = nn.ModuleList(
            self._block(level, fine, coarse, stride=steps[level])
            for level, (fine, coarse) in enumerate(pairs, start=1)
        )
        self.bottom = self._block(len(pairs), channels[-1], channels[-1]) if blocks[-1] > 1 else nn.Identity()
        self.context = ContextGate(channels[-1]) if options.context else nn.Identity()
        self.dropout = (nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d)(options.dropout)
        self.lateral = nn.ModuleList(
            convolution(spatial_dims, coarse, fine, kernel=1) for fine, coarse in pairs
        )
        join = self._conv if options.decoder == "plain" else self._block
        self.decoder = nn.ModuleList(join(level, fine, fine) for level, (fine, _) in enumerate(pairs))
        heads = pairs if options.deep_supervision else pairs[:1]
        self.heads = nn.ModuleList(
            convolution(spatial_dims, fine, class_count * (cells if level == 0 else 1), kernel=1, bias=True)
            for level, (fine, _) in enumerate(heads)
        )
        # Blocks beyond those that every network has.
        counted = (0, *(1,) * (len(pairs) - 1), 2)
        self.more = nn.ModuleList(
            nn.Sequential(*(self._block(level, n, n) for _ in range(count - base)))
            for level, (n, count, base) in enumerate(zip(channels, blocks, counted, strict=True))
        )
        self.refine = Refinement(self) if options.refine else None

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def input_cells(self) -> dict[str, tuple[int, ...]]:
        """The stem reads cells, the refinement voxels."""
        refined = {} if self.refine is None else {"refine.image": (1,) * self.spatial_dims}
        return {"stem.0": self._cell, **refined}

    @property
    def head_names(self) -> tuple[str, ...]:
        """`heads.0` is the finest; its channels are (class, cell), class slowest."""
        refined = () if self.refine is None else ("refine.head",)
        return (*(f"heads.{level}" for level in range(len(self.heads))), *refined)

    @property
    def head_cells(self) -> dict[str, tuple[int, ...]]:
        """The finest head gives cells, the others voxels."""
        return super().head_cells | {"heads.0": self._cell}

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first; with `refine` the image before them."""
        maps = [self.more[0](self.stem(space_to_depth(x, self._cell)))]
        for level, more in zip(self.encoder, self.more[1:], strict=True):
            maps.append(more(level(maps[-1])))
        maps[-1] = self.context(self.bottom(maps[-1]))
        return maps if self.refine is None else [x, *maps]

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits at full resolution and, in training with deep supervision, at coarser levels."""
        levels = maps if self.refine is None else maps[1:]
        x = self.dropout(levels[-1])
        logits: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            skip = levels[level]
            x = self.decoder[level](skip + resize(self.lateral[level](x), tuple(skip.shape[2:])))
            if self.training and 0 < level < len(self.heads):
                logits.insert(0, self.heads[level](x))
        finest = depth_to_space(self.heads[0](x), self._cell)
        return [finest if self.refine is None else finest + self.refine(maps[0], x), *logits]

    def _conv(self, level: int, before: int, after: int) -> nn.Module:
        options = self.options
        return ConvNorm(
            self.spatial_dims,
            before,
            after,
            norm=options.norm,
            groups=options.groups,
            kernel=options.kernel(level, self.spatial_dims),
            activation=options.activation,
        )

    def _block(self, level: int, before: int, after: int, *, stride: Sequence[int] | int = 1) -> nn.Module:
        options = self.options
        return ResidualBlock(
            self.spatial_dims,
            before,
            after,
            norm=options.norm,
            groups=options.groups,
            kernel=options.kernel(level, self.spatial_dims),
            stride=stride,
            activation=options.activation,
        )


class Refinement(nn.Module):
    """Logits at full resolution from the image and the finest features, to be added to those of the cells.

    One convolution over both, then normalisation, activation and the classes.

    Parameters
    ----------
    network : SmallUNet
        What it belongs to; its options say how wide it is.
    """

    def __init__(self, network: SmallUNet) -> None:
        super().__init__()
        options, dims = network.options, network.spatial_dims
        self.cell, channels, kernel = options.steps(dims)[0], options.refine, options.kernel(0, dims)
        self.lift = convolution(dims, options.channels[0], channels * prod(self.cell), kernel=1)
        self.image = convolution(dims, network.in_channels, channels, kernel=kernel)
        self.features = convolution(dims, channels, channels, kernel=kernel)
        self.norm = normalisation(dims, channels, norm=options.norm, groups=options.groups)
        self.activation = activation_layer(options.activation)
        self.head = convolution(dims, channels, network.class_count, kernel=1, bias=True)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """(B, C, *sp) image and (B, F, *sp / cell) features -> (B, L, *sp) logits."""
        voxels = depth_to_space(self.lift(features), self.cell)
        logits: Tensor = self.head(self.activation(self.norm(self.image(image) + self.features(voxels))))
        return logits
