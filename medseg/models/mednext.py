"""mednext: MONAI's MedNeXt as a network of the registry. Imports MONAI; import it where one is built."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.mednext import MedNeXt
from torch import Tensor, nn

from medseg.models.blocks import convolution
from medseg.models.network import SegmentationNetwork
from medseg.models.options import MedNeXtOptions


class MedNeXtNetwork(SegmentationNetwork):
    """Large depthwise convolutions, and wide mixing of channels, in residual blocks at every resolution.

    References
    ----------
    Roy et al., MedNeXt, MICCAI 2023, doi:10.1007/978-3-031-43901-8_39; the blocks are those of MONAI
    (Apache-2.0), the heads are our own.
    """

    options: MedNeXtOptions

    def __init__(
        self, options: MedNeXtOptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        *sides, bottom = options.blocks
        *wide, wide_bottom = options.expansion or (2,) * options.levels
        self.body = MedNeXt(
            spatial_dims=spatial_dims,
            init_filters=options.width,
            in_channels=in_channels,
            out_channels=class_count,
            encoder_expansion_ratio=wide,
            decoder_expansion_ratio=wide[::-1],
            bottleneck_expansion_ratio=wide_bottom,
            kernel_size=options.kernel,
            use_residual_connection=True,
            blocks_down=sides,
            blocks_bottleneck=bottom,
            blocks_up=sides[::-1],
            global_resp_norm=options.response_norm,
        )
        self.body.out_0 = nn.Identity()
        supervised = options.channels if options.deep_supervision else options.channels[:1]
        self.heads = nn.ModuleList(
            convolution(spatial_dims, channels, class_count, kernel=1, bias=True) for channels in supervised
        )

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def head_names(self) -> tuple[str, ...]:
        """`heads.0` is the finest."""
        return tuple(f"heads.{level}" for level in range(len(self.heads)))

    def initialise(self) -> None:
        """Keep the weights that MONAI's layers begin with: those of torch."""

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        maps = [self.body.enc_stages[0](self.body.stem(x))]
        for down, stage in zip(
            self.body.down_blocks, [*self.body.enc_stages[1:], self.body.bottleneck], strict=True
        ):
            maps.append(stage(down(maps[-1])))
        return maps

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits at every level that has a head, finest first."""
        x = maps[-1]
        features = [x]
        for up, stage, skip in zip(
            self.body.up_blocks, self.body.dec_stages, reversed(maps[:-1]), strict=True
        ):
            x = stage(up(x) + skip)
            features.insert(0, x)
        used = len(self.heads) if self.training else 1
        return [head(part) for head, part in zip(self.heads[:used], features, strict=False)]
