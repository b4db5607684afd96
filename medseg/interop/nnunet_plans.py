"""plans.json and dataset.json of a result folder of nnU-Net v2.

References
----------
nnunetv2 2.0 to 2.8: `utilities/plans_handling/plans_handler.py`, `utilities/label_handling/label_handling.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from medseg.data.importers.json_file import read_object
from medseg.errors import BundleError, ManifestError

PLANS, DATASET = "plans.json", "dataset.json"
Reader = Literal["as_stored", "ras", "picture"]
_READERS: dict[str, Reader] = {
    "SimpleITKIO": "as_stored",
    "NibabelIO": "as_stored",
    "SimpleITKIOWithReorient": "ras",
    "NibabelIOWithReorient": "ras",
    "NaturalImage2DIO": "picture",
}
_RESAMPLER = "resample_data_or_seg_to_shape"
_ORDERS = {"resampling_fn_data": 3, "resampling_fn_probabilities": 1}
_SPLINE = {"is_seg": False, "order_z": 0, "force_separate_z": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """How one channel is normalised.

    Parameters
    ----------
    name : str
    scheme : str
        Name of nnU-Net's class.
    masked : bool
        Whether only voxels count that are not zero, and those that they enclose.
    intensities : mapping of str to float
        Of the foreground of the training data; empty where the plans have none.
    """

    name: str
    scheme: str
    masked: bool
    intensities: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetPlans:
    """All that the two files say about one configuration.

    Parameters
    ----------
    folder : Path
    dataset : str
        Name of the data set.
    configuration : str
    network : mapping
        The configuration with what it inherits filled in.
    reader : {"as_stored", "ras", "picture"}
        Orientation in which nnU-Net reads images; pictures have two axes.
    transpose_forward : tuple of int
        Of the array k, j, i.
    patch_size : tuple of int
    spacing_mm : tuple of float
        Of the axes of the patch, transposed.
    channels : tuple of Channel
    labels : mapping of str to tuple of int
        Name -> values, background and ignore left out.
    written : tuple of int
        Value that each channel of the network writes where channels are regions; empty where they are labels.
    cases : int
        Training images, 0 where it is not said.
    """

    folder: Path
    dataset: str
    configuration: str
    network: Mapping[str, Any]
    reader: Reader
    transpose_forward: tuple[int, ...]
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    channels: tuple[Channel, ...]
    labels: Mapping[str, tuple[int, ...]]
    written: tuple[int, ...]
    cases: int

    @property
    def spatial_dims(self) -> int:
        """Axes of the images."""
        return 2 if self.reader == "picture" else 3

    @property
    def flat(self) -> bool:
        """Whether the configuration is 2-D and the images are volumes."""
        return len(self.patch_size) < self.spatial_dims


def is_result_folder(folder: Path) -> bool:
    """Whether a folder looks like one of nnU-Net v2: plans, data set and a fold."""
    return (folder / PLANS).is_file() and (folder / DATASET).is_file()


def read_plans(folder: Path, configuration: str) -> NnunetPlans:
    """Read what plans.json and dataset.json say about a configuration.

    Raises
    ------
    BundleError
        A file is missing or damaged, or asks for something that medseg does not do as nnU-Net does; the message
        names it.
    """
    plans, about = _object(folder / PLANS), _object(folder / DATASET)
    found = _inherited(plans, configuration)
    if found.get("previous_stage"):
        _refuse(
            f"configuration {configuration} is the second stage of a cascade: it needs the masks of "
            f"{found['previous_stage']}; medseg runs 2d, 3d_fullres and 3d_lowres, so give the folder of one of those"
        )
    _check_functions(found, configuration)
    reader = _READERS.get(str(plans.get("image_reader_writer")))
    if reader is None:
        _refuse(
            f"image_reader_writer {plans.get('image_reader_writer')!r}: expected one of {', '.join(_READERS)}"
        )
    patch = _numbers(found, "patch_size", int)
    spacing = _numbers(found, "spacing", float)
    if len(patch) not in (2, 3) or len(spacing) != len(patch):
        _refuse(
            f"{configuration}: patch_size {list(patch)} and spacing {list(spacing)} do not fit each other"
        )
    forward = tuple(plans.get("transpose_forward", (0, 1, 2)))
    if sorted(forward) != [0, 1, 2]:
        _refuse(f"transpose_forward is {list(forward)!r:.60}, expected the axes 0, 1 and 2 in some order")
    if reader == "picture" and (len(patch) != 2 or forward[0] != 0):
        _refuse(f"{configuration}: pictures need a 2-D configuration whose first axis stays the first")
    labels, written = read_labels(about)
    cases = about.get("numTraining")
    return NnunetPlans(
        folder=folder,
        dataset=str(plans.get("dataset_name", folder.name)),
        configuration=configuration,
        network=found,
        reader=reader,
        transpose_forward=forward,
        patch_size=tuple(int(n) for n in patch),
        spacing_mm=spacing,
        channels=_channels(plans, about, found),
        labels=labels,
        written=written,
        cases=cases if isinstance(cases, int) and cases >= 0 else 0,
    )


def read_labels(about: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Labels by name, background and ignore left out, and what each channel writes if they are regions.

    Raises
    ------
    BundleError
        Values with gaps, or regions without `regions_class_order`.
    """
    given = about.get("labels")
    if not isinstance(given, dict) or given.get("background") != 0:
        _refuse("dataset.json: labels must be names with values, background being 0")
    labels = {str(name): _values(name, value) for name, value in given.items() if name != "ignore"}
    regions = any(len(values) > 1 for values in labels.values())
    labels = {name: values for name, values in labels.items() if set(values) != {0}}
    if regions:
        order = about.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(labels) or not all(_is_value(n) for n in order):
            _refuse(
                f"dataset.json: regions_class_order is {order!r:.60}, expected a value above 0 for each of "
                f"{len(labels)} regions"
            )
        return labels, tuple(order)
    values = sorted(value for (value,) in labels.values())
    if values != list(range(1, len(values) + 1)):
        _refuse(f"dataset.json: labels must have the values 0, 1, 2, ... without gaps, found {[0, *values]}")
    return labels, ()


def _values(name: Any, value: Any) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, list) else (value,)
    if not found or not all(type(n) is int and 0 <= n <= 65535 for n in found):
        _refuse(
            f"dataset.json: label {name!r:.60} is {value!r:.60}, expected a whole number or a list of them"
        )
    return tuple(sorted(set(found)))


def _is_value(value: Any) -> bool:
    return type(value) is int and 0 < value <= 65535


def _channels(
    plans: Mapping[str, Any], about: Mapping[str, Any], configuration: Mapping[str, Any]
) -> tuple[Channel, ...]:
    names = about.get("channel_names", about.get("modality"))
    if not isinstance(names, dict) or sorted(names) != sorted(str(n) for n in range(len(names))) or not names:
        _refuse("dataset.json: channel_names must name the channels 0, 1, ... without gaps")
    schemes, masks = configuration.get("normalization_schemes"), configuration.get("use_mask_for_norm")
    if (
        not isinstance(schemes, list)
        or not isinstance(masks, list)
        or not len(schemes) == len(masks) == len(names)
    ):
        _refuse(
            f"dataset.json names {len(names)} channels, plans.json normalises {schemes!r:.120}; plans of "
            "another data set?"
        )
    known = plans.get(
        "foreground_intensity_properties_per_channel",
        plans.get("foreground_intensity_properties_by_modality", {}),
    )
    return tuple(
        Channel(
            name=str(names[str(number)]),
            scheme=str(scheme),
            masked=bool(masked),
            intensities={
                str(key): float(value)
                for key, value in (known.get(str(number)) or {}).items()
                if isinstance(value, int | float)
            },
        )
        for number, (scheme, masked) in enumerate(zip(schemes, masks, strict=True))
    )


def _inherited(plans: Mapping[str, Any], name: str, *, seen: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration on top of the one that it inherits from."""
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or not isinstance(configurations.get(name), dict):
        known = ", ".join(configurations) if isinstance(configurations, dict) else "none"
        _refuse(f"there is no configuration {name!r:.60}; plans.json has {known}; plans of another data set?")
    found = dict(configurations[name])
    parent = found.get("inherits_from")
    if parent is None:
        return found
    if parent in (*seen, name):
        _refuse(f"configuration {name} inherits from itself by way of {parent!r:.60}")
    return _inherited(plans, str(parent), seen=(*seen, name)) | found


def _check_functions(configuration: Mapping[str, Any], name: str) -> None:
    """Refuse what prepares images or restores predictions otherwise than nnU-Net does by default."""
    preprocessor = configuration.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        _refuse(f"{name}: preprocessor {preprocessor!r:.60}; medseg knows DefaultPreprocessor")
    for key, order in _ORDERS.items():
        function, wanted = configuration.get(key, _RESAMPLER), {**_SPLINE, "order": order}
        arguments = {**wanted, **(configuration.get(f"{key}_kwargs") or {})}
        if function != _RESAMPLER or arguments != wanted:
            _refuse(
                f"{name}: {key} is {function!r:.60} with {arguments!r:.120}; medseg knows {_RESAMPLER} with {wanted}"
            )


def _numbers(configuration: Mapping[str, Any], key: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
    found = configuration.get(key)
    if not isinstance(found, list) or not all(isinstance(n, int | float) and n > 0 for n in found):
        _refuse(f"{key} is {found!r:.60}, expected a list of numbers above 0")
    return tuple(kind(n) for n in found)


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(
            f"{path.parent} has no {path.name}; give the folder that nnU-Net trained into, such as "
            "nnUNet_results/Dataset001_Name/nnUNetTrainer__nnUNetPlans__3d_fullres"
        )
    try:
        return read_object(path)
    except ManifestError as err:
        raise BundleError(str(err)) from err


def _refuse(text: str) -> NoReturn:
    raise BundleError(f"nnU-Net model: {text}")
