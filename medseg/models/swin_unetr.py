"""swin_unetr: MONAI's Swin UNETR as a network of the registry. Imports MONAI; import it where one is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinUNETR, compute_mask, get_window_size
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.blocks import convolution
from medseg.models.network import SegmentationNetwork
from medseg.models.options import SwinUNETROptions

_HEADS = (3, 6, 12, 24)


class SwinUNETRNetwork(SegmentationNetwork):
    """Attention within windows that shift from block to block leads down, residual convolutions lead up.

    The stages are run here and not by MONAI's own `forward`, which needs the package einops for what are
    permutations of axes.

    References
    ----------
    Hatamizadeh et al., Swin UNETR, BrainLes 2021, doi:10.1007/978-3-031-08999-2_22; He et al., SwinUNETR-V2,
    MICCAI 2023, doi:10.1007/978-3-031-43901-8_40; the layers are those of MONAI (Apache-2.0), the heads are our own.
    """

    options: SwinUNETROptions

    def __init__(
        self, options: SwinUNETROptions, *, spatial_dims: int, in_channels: int, class_count: int
    ) -> None:
        super().__init__(options, spatial_dims=spatial_dims, in_channels=in_channels, class_count=class_count)
        device = torch.get_default_device()
        # Its constructor reads numbers from tensors, which a device without storage does not have.
        with torch.device("cpu" if device.type == "meta" else device):
            self.body = SwinUNETR(
                in_channels=in_channels,
                out_channels=class_count,
                depths=options.blocks,
                num_heads=_HEADS,
                window_size=options.attention_window,
                feature_size=options.width,
                dropout_path_rate=options.drop_path,
                spatial_dims=spatial_dims,
                use_v2=options.residual_stages,
            ).to(device)
        self.body.out = nn.Identity()
        supervised = options.channels[:-1] if options.deep_supervision else options.channels[:1]
        self.heads = nn.ModuleList(
            convolution(spatial_dims, channels, class_count, kernel=1, bias=True) for channels in supervised
        )

    @property
    def feature_count(self) -> int:
        """Channels of the coarsest level."""
        return self.options.channels[-1]

    @property
    def input_cells(self) -> dict[str, tuple[int, ...]]:
        """The patches and both branches of the first residual block read the image."""
        names = ("swinViT.patch_embed.proj", "encoder1.layer.conv1.conv", "encoder1.layer.conv3.conv")
        found = {name for name, _ in self.body.named_modules()}
        return {f"body.{name}": (1,) * self.spatial_dims for name in names if name in found}

    @property
    def head_names(self) -> tuple[str, ...]:
        """`heads.0` is the finest."""
        return tuple(f"heads.{level}" for level in range(len(self.heads)))

    def initialise(self) -> None:
        """Keep the weights that MONAI's layers begin with."""

    def encode(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first."""
        body, swin = self.body, self.body.swinViT
        states = [swin.pos_drop(swin.patch_embed(x))]
        for number in range(1, 5):
            state = states[-1].contiguous()
            if self.options.residual_stages:
                state = getattr(swin, f"layers{number}c")[0](state).contiguous()
            states.append(_stage(getattr(swin, f"layers{number}")[0], state))
        encoders = (body.encoder2, body.encoder3, body.encoder4, nn.Identity(), body.encoder10)
        maps = [layer(_normalised(state)) for layer, state in zip(encoders, states, strict=True)]
        return [body.encoder1(x), *maps]

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits at every level that has a head, finest first."""
        body, x = self.body, maps[-1]
        decoders = (body.decoder1, body.decoder2, body.decoder3, body.decoder4, body.decoder5)
        features: list[Tensor] = []
        for up, skip in zip(reversed(decoders), reversed(maps[:-1]), strict=True):
            x = up(x, skip)
            features.insert(0, x)
        used = len(self.heads) if self.training else 1
        return [head(part) for head, part in zip(self.heads[:used], features, strict=False)]


def _stage(layer: nn.Module, x: Tensor) -> Tensor:
    """(B, C, *sp) -> (B, 2 C, *sp / 2): the attention blocks of a stage, then its merging of patches."""
    size = x.shape[2:]
    window, shift = get_window_size(size, layer.window_size, layer.shift_size)
    whole = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
    mask = compute_mask(whole, window, shift, x.device)
    x = x.movedim(1, -1)
    for block in layer.blocks:  # type: ignore[union-attr]
        x = block(x, mask)
    merged: Tensor = layer.downsample(x)  # type: ignore[operator]
    return merged.movedim(-1, 1)


def _normalised(x: Tensor) -> Tensor:
    """Each voxel's channels with mean 0 and variance 1."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)
