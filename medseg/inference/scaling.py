"""Temperature: how sure probabilities are said to be, without a change of any mask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medseg.transforms.class_choice import ClassChoice

# Probabilities that a softmax in float32 rounds to zero have a logarithm of about -87.
_LEAST_PROBABILITY = 1e-38


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Divides what was averaged over versions, windows and networks by a temperature.

    Logits z become z / T; of probabilities, p becomes p^(1/T) over its sum, which is the same where one window and one
    network gave them. It is the mean that is scaled, not each network of an ensemble. Masks are chosen by the unscaled
    values, so they stay as they are to the last voxel; in exact arithmetic they would anyway, since neither the largest
    of z / T nor the side of 0 that z / T lies on depends on T > 0.

    Parameters
    ----------
    choice : ClassChoice
        Of what was averaged.
    class_count : int
    temperature : float
        1 leaves everything as it is; above 1 probabilities are drawn to the middle.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, arXiv:1706.04599. Rahaman and Thiery, Uncertainty
    quantification and deep ensembles, NeurIPS 2021, arXiv:2007.08792 (scale the pooled answer).
    """

    choice: ClassChoice
    class_count: int
    temperature: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to scale."""
        return self.temperature != 1.0

    def probabilities(self, values: Tensor, unscaled: Tensor) -> Tensor:
        """Class probabilities of averaged values.

        Parameters
        ----------
        values : (C, ...) float32 tensor
            What was averaged; left as it is.
        unscaled : (L, ...) float32 tensor
            Their probabilities without scaling.

        Returns
        -------
        (L, ...) float32 tensor
        """
        if not self.changes:
            return unscaled
        if self.choice.scale == "logits":
            return self.choice.probabilities(values / self.temperature, class_count=self.class_count)
        # A softmax in place: one copy of the block, not two.
        scaled = values.clamp(min=_LEAST_PROBABILITY).log_().div_(self.temperature)
        scaled.sub_(scaled.amax(dim=0, keepdim=True)).exp_()
        return scaled.div_(scaled.sum(dim=0, keepdim=True))
