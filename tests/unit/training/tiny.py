"""A network, a loss and cases small enough to train in a test; also started as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.data.dataset import PreparedCase
from medseg.data.loader import BatchLoader
from medseg.data.patches import View
from medseg.training.options import TrainingOptions
from medseg.training.trainer import TrainingResult, train


class Discs:
    """Bright discs on a dark ground with noise; the label is the disc. Rows and columns differ."""

    def __init__(self, count: int = 6, *, size: tuple[int, int] = (20, 16)) -> None:
        self.case_ids = tuple(f"disc-{number}" for number in range(count))
        self.size = size

    def fingerprint(self) -> str:
        return f"discs {len(self.case_ids)} {self.size}"

    def __getitem__(self, index: int) -> PreparedCase:
        random = np.random.default_rng(index)
        rows, columns = np.mgrid[: self.size[0], : self.size[1]]
        centre = random.uniform(6, 10, 2)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < random.uniform(9, 20)
        image = disc + random.normal(0, 0.3, self.size)
        return PreparedCase(
            case_id=self.case_ids[index],
            image=image[None].astype(np.float32),
            label=disc[None].astype(np.int16),
        )


def shifted(image: Tensor, label: Tensor, seed: int, view: View) -> tuple[Tensor, Tensor]:
    """Noise that follows from the seed."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + 0.05 * noise, label


class TinyNet(nn.Module):
    """Two convolutions with what makes resuming hard: running statistics and dropout."""

    def __init__(self, *, width: int = 8, dropout: float = 0.1, batch_norm: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))  # type: ignore[no-any-return]


class CrossEntropy(nn.Module):
    """Cross-entropy of logits (B, 2, I, J), or of the finest of several."""

    def forward(self, logits: Tensor | list[Tensor], label: Tensor) -> Tensor:
        finest = logits[0] if isinstance(logits, list) else logits
        return nn.functional.cross_entropy(finest, label[:, 0])


def build_network(seed: int = 0, **changes: Any) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(**changes)


def dice_of(network: nn.Module, *, indices: tuple[int, ...] = (0, 1)) -> dict[str, float]:
    """Dice of the disc over some fixed cases."""
    cases = Discs()
    overlap = total = 0
    for index in indices:
        case = cases[index]
        found = network(torch.from_numpy(case.image)[None]).argmax(1).numpy() == 1
        overlap += int((found & (case.label == 1)).sum())
        total += int(found.sum() + (case.label == 1).sum())
    return {"dice": 2 * overlap / max(1, total)}


def without_clock(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the history without the columns that differ from run to run."""
    return {name: value for name, value in row.items() if name != "seconds" and not name.endswith("_s")}


def options(**changes: Any) -> TrainingOptions:
    settings = {
        "epochs": 3,
        "batch_size": 2,
        "learning_rate": 0.02,
        "ema": 0.9,
        "checkpoint_every_steps": 1,
        **changes,
    }
    return TrainingOptions.model_validate(settings)


def run(folder: Path, **changes: Any) -> TrainingResult:
    """Train the tiny network; keywords of `train`, of `BatchLoader` (`loader_...`) or of the options."""
    own = {"network", "validate", "loss", "progress", "tell", "on_validation"}
    own |= {"resume", "settings", "loader", "device"}
    given = {name: changes.pop(name) for name in list(changes) if name in own}
    loading = {
        name.removeprefix("loader_"): changes.pop(name)
        for name in list(changes)
        if name.startswith("loader_")
    }
    chosen = options(**changes)
    with BatchLoader(
        loading.pop("cases", Discs()),
        batch_size=chosen.batch_size,
        seed=chosen.seed,
        workers=loading.pop("workers", 0),
        augment=shifted,
        samples_per_epoch=chosen.samples_per_epoch,
        **loading,
    ) as loader:
        arguments = {
            "loader": loader,
            "validate": dice_of,
            "loss": CrossEntropy(),
            **given,
        }
        if "network" not in arguments:
            arguments["network"] = build_network()
        return train(options=chosen, folder=folder, **arguments)
