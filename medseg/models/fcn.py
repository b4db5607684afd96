"""Fully convolutional network: score maps of several strides, added up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from medseg.models.blocks import convolution, convolution_stack, resize
from medseg.models.network import SegmentationNetwork
from medseg.models.options import FCNOptions


class FCN(SegmentationNetwork):
    """An encoder, a score map from each of its coarsest levels, and linear interpolation between them.

    The coarsest score map is enlarged and added to the next finer one, and so on; the last sum is
    enlarged to the size of the image. With three score levels this is the scheme of FCN-8s.

    References
    ----------
    Long et al., CVPR 2015, doi:10.1109/CVPR.2015.7298965.
    """

    options: FCNOptions

    def __init__(self, options: FCNOptions, *, spatial_dims: int, in_channels: int, class_count: int) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        self.encoder = nn.ModuleList(
            convolution_stack(
                options, spatial_dims, level, channels=pair, count=options.convolutions, stride=step
            )
            for level, (pair, step) in enumerate(
                zip(pairwise((in_channels, *options.channels)), options.steps(spatial_dims), strict=True)
            )
        )
        self.dropout = (nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d)(options.dropout)
        self.scores = nn.ModuleList(
            convolution(spatial_dims, channels, class_count, kernel=1, bias=True)
            for channels in options.channels[-options.score_levels :]
        )

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def head_names(self) -> tuple[str, ...]:
        """`scores.0` is the finest that is used."""
        return tuple(f"scores.{level}" for level in range(len(self.scores)))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The fused score map at the size of the image; in training with deep supervision the coarser sums too."""
        total: Tensor = self.scores[-1](self.dropout(maps[-1]))
        logits = [total]
        for score, fine in zip(reversed(self.scores[:-1]), reversed(maps[:-1]), strict=False):
            total = score(fine) + resize(total, tuple(fine.shape[2:]))
            logits.insert(0, total)
        size = tuple(maps[0].shape[2:])
        if tuple(total.shape[2:]) == size:
            logits.pop(0)
        coarser = logits if self.training and self.options.deep_supervision else []
        return [resize(total, size), *coarser]
