"""One case of a stress test: its image corrupted or attacked, segmented, judged and held against its mask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, InputError
from medseg.evaluation.cases import evaluate_case
from medseg.evaluation.metric_values import MetricValue
from medseg.inference.answer import Prediction
from medseg.pipeline.model import CaseResult, LoadedModel
from medseg.stress.attacks import EPSILON_UNIT, EPSILONS, Attacker, AttackName, epsilon_of, source_units
from medseg.stress.corruptions import Corruption, corrupted, levels_of
from medseg.stress.options import ATTACKS, StressOptions
from medseg.stress.summary import CLEAN, Trial
from medseg.tilt import straighten_labels, unstraighten_labels
from medseg.training.loss_options import DiceCrossEntropyOptions
from medseg.training.losses import build_loss
from medseg.transforms.image_view import ArrayView, GridView, whole
from medseg.transforms.preprocess import label_to_grid
from medseg.transforms.restore import restore_label_map
from medseg.transforms.straighten import straighten
from medseg.volume import Volume


def attacker_of(model: LoadedModel, *, device: str) -> Attacker:
    """The networks of a bundle with gradients, and the loss that an attack raises: Dice and cross-entropy.

    Raises
    ------
    ConfigError
        Channels of the network are regions, which this loss does not know.
    """
    bundle, table = model.bundle, model.table
    if bundle.record.regions:
        raise ConfigError(
            f"model {bundle.name}: channels that are regions cannot be attacked; "
            f"leave out {', '.join(ATTACKS)} (--only)"
        )
    # Of their own: networks that were loaded for inference hold tensors that have no gradient.
    networks = [
        bundle.load_network(position).to(device).requires_grad_(False)
        for position in range(bundle.member_count)
    ]
    loss = build_loss(
        DiceCrossEntropyOptions(), set_matrix=table.set_matrix, regions=table.region_classes()
    ).to(device)
    return Attacker(networks=networks, loss=loss, window=model.predictor.options.window)


@dataclass(slots=True, kw_only=True)
class StressedCase:
    """A case in memory, and the model that segments it.

    Parameters
    ----------
    case_id, patient_id : str
    volume : Volume
    sets : (1, *spatial) integer array
        Mask as set indices, on the grid of the image.
    model : LoadedModel
        With a gate that judges and does not refuse.
    attacker : Attacker or None
        Where attacks are asked for.
    options : StressOptions
    """

    case_id: str
    patient_id: str
    volume: Volume
    sets: NDArray[np.int16]
    model: LoadedModel
    attacker: Attacker | None
    options: StressOptions
    _answer: Prediction | None = field(default=None)

    def trials(self, test: str) -> list[Trial]:
        """The case under one test at every severity; `clean` has one."""
        if test == CLEAN:
            return [self._corrupted(self.volume, self.sets, test=CLEAN, severity=0, level=0.0, unit="")]
        if test in ATTACKS:
            return [self._attacked(cast(AttackName, test), severity) for severity in self.options.severities]
        kind = cast(Corruption, test)
        levels, unit = levels_of(kind, self.volume.spatial_dims)
        found = []
        for severity in self.options.severities:
            level = levels[severity - 1]
            volume, sets = corrupted(self.volume, self.sets, kind, level, seed=self._seed(test))
            found.append(self._corrupted(volume, sets, test=test, severity=severity, level=level, unit=unit))
        return found

    def _seed(self, test: str) -> int:
        """One pattern for a case and a test, whatever the severity and the other cases."""
        text = f"stress\x00{self.options.seed}\x00{self.case_id}\x00{test}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:4], "little")

    def _corrupted(
        self,
        volume: Volume,
        sets: NDArray[Any],
        *,
        test: str,
        severity: int,
        level: float,
        unit: str,
    ) -> Trial:
        place = {"test": test, "severity": severity, "level": level, "unit": unit}
        try:
            result = self.model.segment(volume, case_id=self.case_id)
        except InputError as err:
            return self._trial(place, None, volume, sets, note=str(err))
        return self._trial(place, result, volume, sets)

    def _attacked(self, kind: AttackName, severity: int) -> Trial:
        if self.attacker is None:
            raise TypeError("an attack needs an attacker")
        level = EPSILONS[severity - 1]
        place = {"test": kind, "severity": severity, "level": level, "unit": EPSILON_UNIT}
        answer = self._prediction()
        image = answer.prepared.array
        epsilon = epsilon_of(image, level)
        changed = self.attacker.attacked(
            image, self._on_grid(answer), kind, epsilon, seed=self._seed(kind), steps=self.options.steps
        )
        result = self.model.judge(self.volume, self._answered(answer, changed), case_id=self.case_id)
        scale = self._source_scale(answer, image)
        facts = {
            "epsilon_prepared": epsilon,
            "epsilon_source": None if scale is None else epsilon * scale,
        }
        return self._trial(place, result, self.volume, self.sets, facts=facts)

    def _prediction(self) -> Prediction:
        """What the network makes of the clean image."""
        if self._answer is None:
            answer = self.model.predictor.predict(self.volume)
            self._answer = answer
        return self._answer

    def _on_grid(self, answer: Prediction) -> NDArray[Any]:
        sets = (
            self.sets if answer.shear is None else straighten_labels(self.sets[0], answer.shear)[np.newaxis]
        )
        return label_to_grid(sets, answer.grid)

    def _answered(self, answer: Prediction, image: NDArray[np.float32]) -> Prediction:
        """The answer to another prepared image on the same grid."""
        predictor = self.model.predictor
        label_map = restore_label_map(predictor.probabilities(image), answer.grid)
        if answer.shear is not None:
            label_map = unstraighten_labels(label_map, answer.shear)
        features = None if self.model.gate is None else predictor.features(image)
        return replace(answer, label_map=label_map, features=features, confidence={}, certainty=None)

    def _source_scale(self, answer: Prediction, image: NDArray[np.float32]) -> float | None:
        """Units of the file in one unit of the prepared image, by its first channel."""
        volume, _ = straighten(self.volume, least_degrees=0.5)
        mean = volume.array.mean(axis=0, dtype=np.float32, keepdims=True)
        source = whole(GridView(ArrayView(mean), answer.grid))
        return source_units(image[0], source[0])

    def _trial(
        self,
        place: Mapping[str, Any],
        result: CaseResult | None,
        volume: Volume,
        sets: NDArray[Any],
        *,
        note: str = "",
        facts: Mapping[str, float | None] | None = None,
    ) -> Trial:
        return Trial(
            case_id=self.case_id,
            patient_id=self.patient_id,
            gate="refuse" if result is None else result.gate.level,
            flags="fail" if result is None else result.flags.verdict,
            metrics={} if result is None else self._metrics(result, volume, sets),
            note=note,
            facts=facts or {},
            **place,
        )

    def _metrics(
        self, result: CaseResult, volume: Volume, sets: NDArray[Any]
    ) -> dict[str, dict[str, MetricValue]]:
        found = evaluate_case(
            result.label_map,
            sets,
            table=self.model.table,
            case_id=self.case_id,
            patient_id=self.patient_id,
            spacing_mm=volume.spacing_mm,
            options=self.options.metrics,
            affine=volume.affine,
        )
        return {s.structure: dict(s.metrics) for s in found.structures}
