"""A result folder of nnU-Net v2 -> a bundle: its network, its preparation of images, its way of predicting.

Nothing that the folder names is imported, called or looked up. Trainers are known by their names: only those are taken
that train the network of the plans, since another class may build another network of the same shape.
"""

from __future__ import annotations

import colorsys
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from medseg.errors import BundleError
from medseg.interop.nnunet_checkpoint import NnunetCheckpoint, read_checkpoint
from medseg.interop.nnunet_plans import NnunetPlans, read_plans
from medseg.interop.nnunet_steps import inference_options, preprocess_steps
from medseg.labels import BACKGROUND, Label, LabelTable
from medseg.models.bundle import Bundle
from medseg.models.bundle_record import BundleAbout, TrainingRecord
from medseg.models.bundle_writer import write_bundle
from medseg.models.ensemble_writer import write_ensemble
from medseg.models.network import SegmentationNetwork
from medseg.models.nnunet import NnunetNetwork, nnunet_network, nnunet_state
from medseg.models.registry import build_network
from medseg.provenance import sha256_json

CHECKPOINT = "checkpoint_final.pth"
# The trainers of nnunetv2 2.8 that change the training and not the network.
_TRAINERS = re.compile(
    r"nnUNetTrainer(_?(\d+epochs?|\d+ep|NoMirroring|onlyMirror01|DA5|DA5ord0|DA5Segord0|NoDA|DASegOrd0|noDummy2DDA|"
    r"warmup|CosAnneal|VanillaAdam|Adam|Adan|1en1|1en3|3en4|DiceCELoss|DiceTopK10Loss|DiceLoss|CELoss|noSmooth|"
    r"Topk10LossLS01|Topk10Loss|NoDeepSupervision|probabilisticOversampling|010|033|Benchmark|noDataLoading))*"
)
_FOLD = re.compile(r"fold_(\d+|all)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What is taken of a result folder.

    Parameters
    ----------
    folds : tuple of str
        Such as "0" or "all"; empty: every numbered fold that has the checkpoint, or else `all`.
    checkpoint : str
        File in the folder of a fold.
    trainer : str or None
        A trainer class of one's own that is taken, too, because it builds the network of the plans.
    mirroring : bool
        Whether images are mirrored along the axes that the checkpoint allows.
    name, licence : str or None
        Of the bundle; the name is made of data set and configuration unless given.
    """

    folds: tuple[str, ...] = ()
    checkpoint: str = CHECKPOINT
    trainer: str | None = None
    mirroring: bool = True
    name: str | None = None
    licence: str | None = None


def import_nnunet(folder: Path, output: Path, options: ImportOptions | None = None) -> Bundle:
    """Write a bundle with the networks of a result folder.

    Parameters
    ----------
    folder : Path
        With plans.json, dataset.json and fold_0 and so on, as nnU-Net v2 leaves it.
    output : Path
        Absent, empty, or a bundle.
    options : ImportOptions, optional

    Returns
    -------
    Bundle
        An ensemble where several folds are taken.

    Raises
    ------
    BundleError
        A file is missing, damaged, or asks for code; a configuration, network or trainer that is not known; files
        that do not belong together.
    StorageError
        `output` cannot be written.
    """
    options = options or ImportOptions()
    paths = {fold: folder / f"fold_{fold}" / options.checkpoint for fold in find_folds(folder, options)}
    first = read_checkpoint(next(iter(paths.values())))
    model = _Model(folder, first, options)
    if len(paths) == 1:
        return model.write(output, first)
    with tempfile.TemporaryDirectory(prefix=".nnunet-", dir=_parent(output)) as parts:
        members = {
            int(fold): model.write(Path(parts) / fold, first if path == first.path else read_checkpoint(path))
            for fold, path in paths.items()
        }
        return write_ensemble(
            output,
            members,
            cases=model.plans.cases,
            patients=None,
            settings_sha256=model.settings_sha256,
        )


def find_folds(folder: Path, options: ImportOptions) -> tuple[str, ...]:
    """The folds that are taken: those that are named, or all that have the checkpoint.

    Raises
    ------
    BundleError
        A fold that is not there, or `all` beside numbered ones.
    """
    present = sorted(
        (match[1] for path in folder.glob("fold_*") if (match := _FOLD.fullmatch(path.name)) is not None),
        key=lambda fold: (fold == "all", len(fold), fold),
    )
    usable = [fold for fold in present if (folder / f"fold_{fold}" / options.checkpoint).is_file()]
    missing = [fold for fold in options.folds if fold not in usable]
    if missing or not usable:
        wanted = f"fold_{missing[0]}/{options.checkpoint}" if missing else f"fold_*/{options.checkpoint}"
        have = f"complete folds: {', '.join(usable) or 'none'}"
        _refuse(
            f"{folder} has no {wanted}; {have}; finish the training, or choose another fold or checkpoint"
        )
    # As nnU-Net does, fold_all counts only where it is asked for or alone.
    numbered = [fold for fold in usable if fold != "all"]
    chosen = tuple(dict.fromkeys(options.folds)) or tuple(numbered) or ("all",)
    if "all" in chosen and len(chosen) > 1:
        _refuse("fold all is trained on every case; take it alone, or the numbered folds")
    return chosen


class _Model:
    """What the folds of a result folder have in common."""

    def __init__(self, folder: Path, first: NnunetCheckpoint, options: ImportOptions) -> None:
        self.options = options
        self.plans = read_plans(folder, first.configuration)
        self.table, self.regions = label_table(self.plans)
        self.network: NnunetNetwork = nnunet_network(self.plans.network, spatial_dims=self.plans.spatial_dims)
        self.first = first
        self.steps = preprocess_steps(self.plans)
        axes = first.mirror_axes if options.mirroring else ()
        self.inference = inference_options(self.plans, axes)
        self.settings_sha256 = sha256_json(
            [self.steps, self.inference, self.network.options.model_dump(mode="json")]
        )

    def write(self, output: Path, checkpoint: NnunetCheckpoint) -> Bundle:
        """The bundle of one fold."""
        self._check(checkpoint)
        channels = len(self.regions) or self.table.class_count
        network = build_network(
            self.network.options,
            spatial_dims=self.plans.spatial_dims,
            in_channels=len(self.plans.channels),
            class_count=channels,
            seed=0,
        )
        state = nnunet_state(checkpoint.weights, self.network)
        _check_shapes(checkpoint, state, network)
        return write_bundle(
            output,
            about=self._about(),
            network=network,
            table=self.table,
            preprocess=self.steps,
            training=self._training(checkpoint),
            state=state,
            inference=self.inference,
            window=tuple(self.inference["window"]),
            regions=self.regions,
        )

    def _check(self, checkpoint: NnunetCheckpoint) -> None:
        trainer = checkpoint.trainer
        if not _TRAINERS.fullmatch(trainer) and trainer != self.options.trainer:
            _refuse(
                f"{checkpoint.place} was trained by {trainer}, which may build another network than that of the plans; "
                f"if it does not, say so with --trainer {trainer}"
            )
        for what, here, there in (
            ("configuration", checkpoint.configuration, self.first.configuration),
            ("mirror axes", checkpoint.mirror_axes, self.first.mirror_axes),
        ):
            if here != there:
                _refuse(
                    f"{checkpoint.place} has the {what} {here}, {self.first.place} has {there}; folds must agree"
                )
        if checkpoint.dataset not in ("", self.plans.dataset):
            _refuse(
                f"{checkpoint.place} was trained on {checkpoint.dataset}, plans.json is that of {self.plans.dataset}; "
                "put the files of one training into the folder"
            )

    def _about(self) -> BundleAbout:
        plans = self.plans
        name = re.sub(r"[^a-z0-9._-]+", "-", f"{plans.dataset}-{plans.configuration}".lower()).strip("-._")
        return BundleAbout(
            name=self.options.name or name[:80] or "nnunet",
            version="1.0.0",
            description=f"nnU-Net {plans.configuration} of {plans.dataset}: {', '.join(self.table.names[1:])[:400]}.",
            licence=self.options.licence or "LicenseRef-unstated",
            attribution=("Isensee et al., nnU-Net, Nature Methods 2021, doi:10.1038/s41592-020-01008-z.",),
            intended_use="Research use only, not a medical device.",
            limitations=("Imported from nnU-Net v2; its results on held-out cases did not come with it.",),
        )

    def _training(self, checkpoint: NnunetCheckpoint) -> TrainingRecord:
        return TrainingRecord(
            data=f"nnU-Net data set {self.plans.dataset}",
            cases=self.plans.cases,
            epochs=checkpoint.epochs,
            seconds=0.0,
            settings_sha256=self.settings_sha256,
        )


def label_table(plans: NnunetPlans) -> tuple[LabelTable, tuple[int, ...]]:
    """Labels of the masks that nnU-Net writes, and for channels that are regions the class that each writes.

    A region's value is written where no later region is: its label bears the region's name where the region has
    no other value, else the name with `_only`.
    """
    if not plans.written:
        named = {values[0]: name for name, values in plans.labels.items()}
        regions: dict[str, tuple[int, ...]] = {}
    else:
        named = {
            value: name if values == (value,) else f"{name}_only"
            for (name, values), value in zip(plans.labels.items(), plans.written, strict=True)
        }
        regions = {name: values for name, values in plans.labels.items() if len(values) > 1}
    if len(named) < 2 and plans.written:
        _refuse("a network of a single region is not supported; train it with labels")
    values = sorted(named)
    labels = tuple(
        Label(name=_clean(named[value]), value=value, colour=_colour(number))
        for number, value in enumerate(values)
    )
    unions = {
        _clean(name): tuple(_clean(named[v]) for v in members if v in named)
        for name, members in regions.items()
    }
    table = LabelTable(labels=labels, regions={name: members for name, members in unions.items() if members})
    return table, tuple(values.index(value) + 1 for value in plans.written)


def _clean(name: str) -> str:
    text = re.sub(r"[^\w .()+-]", "_", name.strip())[:64]
    return text if text and text != BACKGROUND else f"label_{text}"


def _colour(number: int) -> str:
    """A colour unlike its neighbours': hues a golden section apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.55 + number * 0.618034) % 1.0, 0.65, 0.9)
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


def _check_shapes(
    checkpoint: NnunetCheckpoint, state: dict[str, Tensor], network: SegmentationNetwork
) -> None:
    expected: dict[str, Any] = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name, value in state.items():
        if name not in expected or tuple(value.shape) == expected[name]:
            continue
        _refuse(
            f"{checkpoint.place} does not fit plans.json and dataset.json ({network.in_channels} channels, "
            f"{network.class_count} outputs): {name} is {tuple(value.shape)}, expected {expected[name]}; plans of "
            "another data set?"
        )
    lacking: Sequence[str] = sorted(set(expected) - set(state))
    if lacking:
        _refuse(
            f"{checkpoint.place} lacks {len(lacking)} weights of the network of plans.json, first {lacking[0]}"
        )


def _parent(output: Path) -> Path:
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _refuse(text: str) -> NoReturn:
    raise BundleError(f"nnU-Net model: {text}")
