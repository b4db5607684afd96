"""What a worker must know to predict cases; it can be sent to another process or machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from medseg.amounts import bytes_text, parse_bytes
from medseg.errors import ConfigError
from medseg.evaluation.instance_options import RecogniseOptions
from medseg.evaluation.options import MeasureName
from medseg.export.options import ExportName
from medseg.inference.options import EngineSetting, InferenceOptions
from medseg.models.bundle import Bundle, shipped_folder
from medseg.pipeline.case_files import maps_of
from medseg.pipeline.model_source import read_model
from medseg.quality.options import GateOptions
from medseg.report.language import LANGUAGES, Language

if TYPE_CHECKING:
    from medseg.pipeline.model import LoadedModel

FORMATS: dict[str, ExportName] = {
    "nifti": "nifti",
    "dicom-seg": "dicom_seg",
    "dicom-seg-labelmap": "dicom_seg_labelmap",
    "rtstruct": "rtstruct",
    "dicom-sr": "measurement_sr",
    "dicom-pr": "presentation_state",
    "dicom-sc": "secondary_capture",
    "dicom-pdf": "encapsulated_pdf",
    "html": "html",
    "html-zh": "html_zh",
    "png": "png",
    "entropy": "entropy",
    "disagreement": "disagreement",
    "variance": "variance",
    "probabilities": "probabilities",
    "instance-seg": "instance_seg",
    "instance-sr": "instance_sr",
    "coco": "coco",
}
MEASURES: tuple[MeasureName, ...] = ("area", "volume", "left_right_ratio", "cardiothoracic_ratio")
VOLUME_MEASURES: tuple[MeasureName, ...] = ("volume", "long_axis", "intensity", "left_right_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSettings:
    """How the cases of a cohort are predicted, wherever that is done.

    Parameters
    ----------
    model : str
        Shipped name, or path of a bundle.
    output : Path
        One folder per case is made in it.
    kinds : tuple of ExportName
        Files that are asked for.
    fold : int or None
        Of an ensemble, the one network that never saw this fold.
    device : str
        auto, cpu or cuda.
    threads : int or None
        Processor threads; all of the process unless given.
    overwrite : bool
        Whether finished cases are done again.
    accept_unlike : bool
        Whether images that the input gate refuses are segmented all the same.
    max_bytes : int or None
        Ceiling of the memory of the process that does the cases.
    engine : EngineSetting
        What runs the network on a CPU.
    fit_windows : bool
        Whether windows grow where fewer of them then cover an image; see `InferenceSettings.windows`.
    images : int
        Cases that a process does, for `auto`.
    recognise : RecogniseOptions or None
        Which targets are told one by one.
    workers : int
        Processes of a machine that its cores and the ceiling were divided among.
    """

    model: str
    output: Path
    kinds: tuple[ExportName, ...]
    fold: int | None = None
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False
    accept_unlike: bool = False
    max_bytes: int | None = None
    engine: EngineSetting = "torch"
    fit_windows: bool = False
    images: int = 1
    recognise: RecogniseOptions | None = None
    workers: int = 1

    def bundle(self) -> Bundle:
        """The bundle; its weights are not touched.

        Raises
        ------
        BundleError
            There is none, or it has no such fold.
        """
        bundle = read_model(self.model)
        return bundle if self.fold is None else bundle.member(self.fold)

    def share(self, workers: int, *, cores: int, taken_bytes: int = 0) -> CohortSettings:
        """The part that each of so many processes of a machine has.

        Parameters
        ----------
        workers : int
        cores : int
            Of the machine.
        taken_bytes : int
            Memory of the process that looks after them, which counts against the ceiling, too.

        Raises
        ------
        ConfigError
            Nothing of the ceiling is left for the workers.
        """
        threads = max(1, (self.threads or cores) // workers)
        max_bytes = self.max_bytes
        if max_bytes is not None:
            max_bytes = (max_bytes - taken_bytes) // workers
            if max_bytes <= 0:
                raise ConfigError(
                    f"--max-ram {bytes_text(self.max_bytes or 0)} is what this process takes by itself "
                    f"({bytes_text(taken_bytes)}), nothing is left for {workers} workers; allow more"
                )
        images = -(-self.images // workers)
        return replace(self, threads=threads, max_bytes=max_bytes, images=images, workers=workers)

    def anywhere(self) -> CohortSettings:
        """The same with paths that hold from every folder, for workers on other machines."""
        bundle = self.bundle()
        # Another machine may have medseg, and the bundles that come with it, in another place.
        shipped = bundle.folder.parent == shipped_folder()
        model = bundle.folder.name if shipped else str(bundle.folder.absolute())
        return replace(self, model=model, output=self.output.absolute())

    def load(self, bundle: Bundle) -> LoadedModel:
        """Load the network onto its device, and set the threads of this process.

        Raises
        ------
        ConfigError
            A device that is not there.
        BundleError
            The weights are missing, damaged, or do not fit.
        """
        import torch

        from medseg.pipeline.model import LoadedModel

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return LoadedModel(
            bundle,
            device=chosen_device(self.device),
            gate_options=GateOptions(refuse=not self.accept_unlike),
            measures=MEASURES if bundle.spatial_dims == 2 else VOLUME_MEASURES,
            max_bytes=self.max_bytes,
            scratch=self.output,
            maps=maps_of(self.kinds),
            engine=self.engine,
            images=self.images,
            recognise=self.recognise,
            inference=with_fitted_windows(bundle) if self.fit_windows else None,
        )


def export_kinds(formats: str) -> tuple[ExportName, ...]:
    """The files that `--format` asks for.

    Raises
    ------
    ConfigError
        An unknown name, none, or a report without the SEG that it refers to.
    MissingPackageError
        PDF is asked for and cannot be made.
    """
    names = [name.strip() for name in formats.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ConfigError(f"--format {formats!r}: expected one or more of {', '.join(FORMATS)}")
    if "dicom-sr" in names and "dicom-seg" not in names:
        raise ConfigError(f"--format {formats!r}: dicom-sr refers to the segments of a SEG; add dicom-seg")
    if "dicom-pdf" in names:
        from medseg.export.encapsulated_pdf import require_pdf

        require_pdf()
    return tuple(FORMATS[name] for name in names)


def in_language(kinds: Sequence[ExportName], language: Language) -> tuple[ExportName, ...]:
    """The files that are asked for, pages of cases in the language of the cohort's page."""
    if language != "zh":
        return tuple(kinds)
    return tuple(dict.fromkeys("html_zh" if kind == "html" else kind for kind in kinds))


def known_language(language: str) -> Language:
    """The language of pages, if there is one of this name.

    Raises
    ------
    ConfigError
        There is none.
    """
    for known in LANGUAGES:
        if language == known:
            return known
    raise ConfigError(f"--language {language!r}: expected one of {', '.join(LANGUAGES)}")


def known_device(device: str) -> str:
    """The device, if there is one of this name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device!r}: expected auto, cpu or cuda")
    return device


def chosen_device(name: str) -> str:
    """The torch device of a command: `auto` takes a CUDA device where there is one.

    Raises
    ------
    ConfigError
        There is no device of this name here.
    """
    import torch

    if known_device(name) == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch sees no CUDA device; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def known_engine(name: str) -> EngineSetting:
    """The engine, if there is one of this name.

    Raises
    ------
    ConfigError
        There is none.
    """
    known: tuple[EngineSetting, ...] = get_args(EngineSetting)
    found = next((setting for setting in known if setting == name), None)
    if found is None:
        raise ConfigError(f"--engine {name!r}: expected one of {', '.join(known)}")
    return found


def with_fitted_windows(bundle: Bundle) -> InferenceOptions:
    """How a bundle shows images to its network, with windows that grow where that saves work.

    Raises
    ------
    ConfigError
        Its sums need the windows of nnU-Net.
    """
    if bundle.inference.get("sums") == "float16":
        raise ConfigError(
            "--fit-windows does not go with a model of nnU-Net, whose windows and float16 sums are followed to the "
            "bit; leave it out"
        )
    return InferenceOptions.model_validate({**bundle.inference, "windows": "fitted"})


def ceiling_bytes(text: str | None) -> int | None:
    """Bytes of `--max-ram`.

    Raises
    ------
    ConfigError
        It is no size.
    """
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as err:
        raise ConfigError(f"--max-ram {text!r}: {err}") from err
