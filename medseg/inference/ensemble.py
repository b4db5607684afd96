"""The joint answer of one network, or of several, to windows of a prepared image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.errors import BundleError
from medseg.inference.engine_settle import Engines
from medseg.inference.members import Members
from medseg.inference.options import InferenceOptions
from medseg.inference.ordered_blend import fold_mean
from medseg.inference.sliding_window import Copy, softmax, unchanged, window_slices, with_copies
from medseg.inference.spread import SPREAD, MemberSpread
from medseg.labels import LabelTable
from medseg.transforms.class_choice import ClassChoice
from medseg.transforms.image_view import ImageView

# Probabilities that a softmax in float32 rounds to zero have a logarithm of about -87.
_LEAST_PROBABILITY = 1e-38
# Logits that leave no doubt.
_SURE = 20.0


class Ensemble:
    """Networks that are asked one after the other; their answers are averaged as the options say.

    Parameters
    ----------
    members : Members
    table : LabelTable
        L classes.
    options : InferenceOptions
    choice : ClassChoice
        How channels become classes; without regions there are L of them.
    side_axis : int or None
        Left-right axis of prepared images.
    device : torch.device
    dtype : torch.dtype
        float32, or the lower precision of autocast.
    engines : Engines, optional
        What runs the networks, on a CPU and in float32; the networks themselves unless given.
    """

    def __init__(
        self,
        members: Members,
        *,
        table: LabelTable,
        options: InferenceOptions,
        choice: ClassChoice,
        side_axis: int | None,
        device: torch.device,
        dtype: torch.dtype,
        engines: Engines | None = None,
    ) -> None:
        self.members, self.engines = members, engines
        self.device, self.dtype = device, dtype
        self.outputs = len(choice.regions) or table.class_count
        """C channels of each network: the L classes, or regions."""
        self._table, self._options, self._choice = table, options, choice
        self._side_axis = side_axis
        mirror = table.mirror_classes.tolist()
        self._mirror = None if choice.regions or mirror == list(range(table.class_count)) else mirror

    @property
    def channels(self) -> int:
        """Channels of `answer`: C, of sums that are rounded those of each member, and the spread of several."""
        return self.outputs * self._answer_count + (len(SPREAD) if len(self.members) > 1 else 0)

    @property
    def _answer_count(self) -> int:
        return len(self.members) if self._choice.rounded else 1

    def background(self) -> Tensor:
        """(channels,) what `answer` gives where nothing is, without a look."""
        values = torch.full((self.outputs,), 0.0 if self._options.average == "probabilities" else -_SURE)
        if not self._choice.regions:
            values[0] = 1.0 if self._options.average == "probabilities" else _SURE
        answers = values.repeat(self._answer_count)
        return torch.cat([answers, torch.zeros(self.channels - len(answers))])

    @torch.inference_mode()
    def answer(self, batch: Tensor, versions: Sequence[Copy]) -> Tensor:
        """What windows are summed of.

        Parameters
        ----------
        batch : (B, in channels, *window) float32 tensor
        versions : sequence of Copy
            Shown in turn, their answers averaged.

        Returns
        -------
        (B, channels, *window) float32 tensor
            The members' mean, then of several the channels of `MemberSpread`. Where sums are rounded, each
            member's answer instead of the mean.
        """
        if len(self.members) == 1:
            return self._ask(0, batch, versions)
        options = self._options
        geometric = options.ensemble == "logits" and options.average == "probabilities"
        answers: list[Tensor] = []
        spread = MemberSpread()
        for position in range(len(self.members)):
            found = self._ask(position, batch, versions)
            spread.add(self._probabilities(found))
            if geometric:
                found.clamp_(min=_LEAST_PROBABILITY).log_()
            if answers and not self._choice.rounded:
                answers[0].add_(found)
            else:
                answers.append(found)
            del found
        if not self._choice.rounded:
            mean = answers[0].div_(len(self.members))
            answers = [torch.softmax(mean, dim=1) if geometric else mean]
        return torch.cat([*answers, spread.channels()], dim=1)

    def parted(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(channels, ...) blended answers -> (C, ...) their mean, and of several networks their (2, ...) spread."""
        if len(self.members) == 1:
            return (fold_mean(values, 1) if self._choice.rounded else values), None
        answers, spread = values[: -len(SPREAD)], values[-len(SPREAD) :]
        return (fold_mean(answers, len(self.members)) if self._choice.rounded else answers), spread

    def features(self, view: ImageView, window: Sequence[int]) -> NDArray[np.float32] | None:
        """(F,) the first network's feature vector, averaged over windows side by side; None where it has none."""
        with self._evaluating(0) as network:
            read = getattr(network, "features", None)
            if read is None:
                return None
            vectors = [
                read(torch.from_numpy(np.ascontiguousarray(view.read(place)))[None].to(self.device)).float()
                for place in window_slices(view.shape, window, 0.0)
            ]
            mean: Tensor = torch.cat(vectors).mean(dim=0)
        return cast("NDArray[np.float32]", mean.cpu().numpy())

    def _ask(self, position: int, batch: Tensor, versions: Sequence[Copy]) -> Tensor:
        """(B, C, *window) probabilities or logits of one member, checked."""
        with self._asking(position, tuple(batch.shape[2:])) as ask:
            found = with_copies(
                ask,
                versions,
                activation=softmax if self._options.average == "probabilities" else unchanged,
                side_axis=self._side_axis,
                mirror_classes=self._mirror,
            )(batch)
        if found.shape[1] != self.outputs:
            raise BundleError(
                f"the network gives {found.shape[1]} classes, the label table has {self.outputs} with "
                "background; weights and labels do not belong together"
            )
        return found

    def _probabilities(self, found: Tensor) -> Tensor:
        """(B, C, *window) -> (B, L, *window)."""
        classes = self._choice.probabilities(found.transpose(0, 1), class_count=self._table.class_count)
        return classes.transpose(0, 1)

    @contextlib.contextmanager
    def _asking(self, position: int, window: tuple[int, ...]) -> Iterator[Callable[[Tensor], Tensor]]:
        """What answers for a member: its network, or the engine that runs it."""
        if self.engines is None:
            with self._evaluating(position) as network:
                yield network
        else:
            with torch.inference_mode(), self.engines.engine(position, window) as engine:
                yield engine

    @contextlib.contextmanager
    def _evaluating(self, position: int) -> Iterator[nn.Module]:
        """A member in evaluation mode, in the precision of this ensemble."""
        with self.members.network(position) as network:
            training = network.training
            network.eval()
            try:
                with (
                    torch.inference_mode(),
                    torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32),
                ):
                    yield network
            finally:
                network.train(training)
                del network
