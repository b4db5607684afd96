"""`medseg stress`: the test cases of a pipeline, or of a manifest, under corruptions and attacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.data.encoding import encode_mask
from medseg.data.manifest import Case, read_manifest
from medseg.errors import ConfigError, ManifestError
from medseg.inference.options import PostprocessStep
from medseg.io.read import read_image, read_label
from medseg.models.bundle import Bundle, read_bundle
from medseg.pipeline.api import opened
from medseg.pipeline.cohort_settings import chosen_device
from medseg.pipeline.context import Context
from medseg.pipeline.folds import member_of
from medseg.pipeline.model import LoadedModel
from medseg.pipeline.model_source import read_model
from medseg.pipeline.predict import model_bundle
from medseg.pipeline.progress import Reporter, SilentReporter
from medseg.pipeline.readers import image_reader, read_reference
from medseg.pipeline.result import Result
from medseg.pipeline.stress_cases import StressTest, Tested
from medseg.quality.options import GateOptions
from medseg.report.stress import Language
from medseg.stress.options import StressOptions
from medseg.volume import Volume

FOLDER = "stress"


def stress_pipeline(
    pipeline: Path,
    *,
    output: Path = Path("runs"),
    overrides: Sequence[str] = (),
    options: StressOptions,
    language: Language = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Stress the model of a pipeline on its test cases; it is trained first where it is not.

    Writes ``stress/`` in the run folder: stress.csv, stress.json, stress.html, and a file for each case and test, with
    which a run that was stopped goes on.

    Parameters
    ----------
    pipeline, output, overrides
        As for `run_pipeline`.
    options : StressOptions
    language : {"en", "zh"}
        Of the page.
    reporter : Reporter, optional

    Raises
    ------
    ManifestError
        No test case has a mask.
    """
    reporter = reporter or SilentReporter()
    with opened(pipeline, output=output, overrides=overrides, until="train", reporter=reporter) as context:
        tested = _of_pipeline(context)
        return StressTest(
            tested=tested,
            options=options,
            folder=context.run.path / FOLDER,
            language=language,
            reporter=reporter,
        ).run()


def stress_model(
    model: str,
    manifest: Path,
    *,
    output: Path,
    root: Path | None = None,
    split: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    options: StressOptions,
    language: Language = "en",
    reporter: Reporter | None = None,
) -> Result:
    """Stress a bundle on the cases of a manifest whose masks use the bundle's values or label schemes.

    Parameters
    ----------
    model : str
        Shipped name, or folder of a bundle.
    manifest : Path
    output : Path
    root : Path, optional
        Folder that the manifest's paths start from.
    split : str, optional
        Whose cases: train, validation, test or all; test where the manifest has test cases, else all.
    device : str, optional
    threads : int, optional
        Of the processor; all of the process unless given.
    options, language, reporter
        As for `stress_pipeline`.
    """
    place = chosen_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    bundle = read_model(model)
    cases = _of_split(read_manifest(manifest, root=root), split, manifest)
    tested = Tested(
        name=manifest.stem,
        cases=cases,
        read=partial(_read_case, bundle=bundle),
        bundle=lambda _: bundle,
        load=partial(LoadedModel, device=place, gate_options=GateOptions(refuse=False)),
        device=place,
    )
    reporter = reporter or SilentReporter()
    return StressTest(
        tested=tested, options=options, folder=output, language=language, reporter=reporter
    ).run()


def _of_pipeline(context: Context) -> Tested:
    config = context.config
    cases = context.labelled(context.chosen("all" if context.every_fold else config.evaluation.cases))
    read = image_reader(config)

    def read_case(case: Case) -> tuple[Volume, NDArray[np.int16]]:
        volume = read(case.images)
        return volume, read_reference(case, volume, config, context.table)

    def bundle_of(case: Case) -> Bundle:
        return read_bundle(member_of(context, case.case_id)) if context.every_fold else model_bundle(context)

    cleaning: tuple[PostprocessStep, ...] | None = (
        None if config.postprocess == "auto" else tuple(config.postprocess)
    )

    def load(bundle: Bundle) -> LoadedModel:
        return LoadedModel(
            bundle,
            device=context.device(),
            gate_options=config.gate.model_copy(update={"refuse": False}),
            flag_options=config.flags,
            inference=config.inference,
            cleaning=cleaning,
            precision=config.predict.precision,
        )

    return Tested(
        name=config.name, cases=cases, read=read_case, bundle=bundle_of, load=load, device=context.device()
    )


def _of_split(cases: Sequence[Case], split: str | None, manifest: Path) -> tuple[Case, ...]:
    words = ("train", "validation", "test", "all")
    if split is not None and split not in words:
        raise ConfigError(f"--split {split!r}: expected one of {', '.join(words)}")
    wanted = split or ("test" if any(case.split == "test" for case in cases) else "all")
    chosen = tuple(case for case in cases if wanted == "all" or case.split == wanted)
    found = tuple(case for case in chosen if case.label is not None)
    if not found:
        raise ManifestError(
            f"{manifest}: none of the {len(chosen)} cases of split {wanted} has a mask; name another --split"
        )
    return found


def _read_case(case: Case, *, bundle: Bundle) -> tuple[Volume, NDArray[np.int16]]:
    if case.label is None:
        raise ValueError("a case without a mask has no reference")
    several = bundle.in_channels > 1
    volume = read_image(case.images, fourth_axis="channels" if several else "refuse")
    mask = read_label(case.label, volume)
    return volume, encode_mask(mask, scheme=case.scheme, like=volume, table=bundle.table)
