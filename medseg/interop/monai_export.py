"""A medseg bundle -> a MONAI bundle folder: configs, weights and a page that says how to run it.

The configuration has plain `_target_`s and values; no part of it is an expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from medseg.errors import BundleError
from medseg.interop.monai_config import read_inference_config
from medseg.interop.monai_module import build
from medseg.interop.monai_networks import monai_model, monai_state
from medseg.interop.monai_steps import Written, transform, transforms_of
from medseg.interop.monai_twins import BUILDER, Twin, twin
from medseg.interop.monai_weights import read_weights
from medseg.models.bundle import Bundle
from medseg.models.network import SegmentationNetwork
from medseg.models.registry import build_network
from medseg.provenance import versions, whole_file, write_json, write_text

_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_PLACES = {
    "config": "configs/inference.json",
    "metadata": "configs/metadata.json",
    "weights": "models/model.pt",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, for people.

    Parameters
    ----------
    lines : tuple of str
    needs_medseg : bool
        Whether the network is none of MONAI's.
    """

    lines: tuple[str, ...]
    needs_medseg: bool


def write_monai_bundle(
    folder: Path, bundle: Bundle, network: SegmentationNetwork, *, network_only: bool = False
) -> Exported:
    """Write the files of a MONAI bundle into an empty folder.

    Parameters
    ----------
    folder : Path
    bundle : Bundle
        Of one network.
    network : SegmentationNetwork
        With its weights.
    network_only : bool
        Leave the preparation of images out where MONAI lacks transforms like it.

    Raises
    ------
    BundleError
        A preprocessing step that MONAI has nothing like.
    """
    made = twin(network)
    written = transforms_of(
        bundle.preprocess, spatial_dims=bundle.spatial_dims, statistics=bundle.record.training.statistics
    )
    if written.missing and not network_only:
        raise BundleError(
            f"bundle {bundle.name}: MONAI has no transform that gives the numbers of {', '.join(written.missing)}; "
            "--network-only writes network, weights and windows, and you prepare the images"
        )
    notes = _notes(bundle, made, written)
    write_json(folder / _PLACES["config"], _config(bundle, made, written))
    write_json(folder / _PLACES["metadata"], _metadata(bundle, network, made))
    with whole_file(folder / _PLACES["weights"]) as part:
        torch.save({name: value.detach().contiguous().clone() for name, value in made.state.items()}, part)
    write_text(folder / "docs" / "README.md", _page(bundle, made, written, notes))
    return Exported(lines=notes, needs_medseg=made.needs_medseg)


def read_back(folder: Path) -> nn.Module:
    """The network of a folder that `write_monai_bundle` wrote, built of what its files say."""
    # MONAI takes seconds to import.
    from monai.networks import nets

    definition = dict(read_inference_config(folder).plain("network_def"))
    state = read_weights(folder / _PLACES["weights"])
    target = definition.pop("_target_")
    network: nn.Module
    if target.endswith(".SwinUNETR") and find_spec("einops") is None:
        # MONAI's own `forward` needs that package; its layers are run without it here.
        model = monai_model({"_target_": target, **definition})
        shape = {"spatial_dims": model.spatial_dims, "in_channels": model.in_channels}
        network = build_network(model.options, **shape, class_count=model.class_count, seed=0)
        state = monai_state(state, model.options)
    elif target == BUILDER:
        network = build(**definition)
    else:
        network = getattr(nets, target.rpartition(".")[2])(**definition)
    network.load_state_dict(state, strict=True)
    return network.eval()


def answer_of(network: nn.Module) -> Any:
    """A network as a function of arrays."""

    def ask(window: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = network(torch.from_numpy(window)).numpy()
        return found

    return ask


def _config(bundle: Bundle, made: Twin, written: Written) -> dict[str, Any]:
    inference = bundle.inference
    window = inference.get("window") or bundle.record.window
    config: dict[str, Any] = {
        "network_def": made.definition,
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                transform("Activationsd", keys="pred", softmax=True),
                *([] if written.missing else [_invert()]),
                transform("AsDiscreted", keys="pred", argmax=True),
            ],
        },
    }
    if window is not None and inference.get("window") is not None:
        config["inferer"] = {
            "_target_": "monai.inferers.SlidingWindowInferer",
            "roi_size": list(window),
            "sw_batch_size": inference.get("batch_size", 4),
            "overlap": inference.get("overlap", 0.25),
            "mode": inference.get("blend", "gaussian"),
        }
    if not written.missing:
        config["preprocessing"] = {
            "_target_": "monai.transforms.Compose",
            "transforms": list(written.transforms),
        }
    return config


def _invert() -> dict[str, Any]:
    return transform(
        "Invertd",
        keys="pred",
        transform="@preprocessing",
        orig_keys="image",
        nearest_interp=False,
        to_tensor=True,
    )


def _metadata(bundle: Bundle, network: SegmentationNetwork, made: Twin) -> dict[str, Any]:
    record, found = bundle.record, versions()
    window = list(record.window) if record.window else [f"{n}*n" for n in network.stride]
    channels = {str(index): name for index, name in enumerate(bundle.table.names)}
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": bundle.in_channels,
        "spatial_shape": window,
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": bundle.table.class_count,
        "spatial_shape": window,
    }
    plain = {
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": record.inference.get("window") is not None,
    }
    inputs = {str(index): f"channel {index}" for index in range(bundle.in_channels)}
    return {
        "schema": _SCHEMA,
        "version": record.version,
        "changelog": {record.version: f"exported by medseg {found['medseg']} from bundle {bundle.name}"},
        "monai_version": found["monai"],
        "pytorch_version": found["torch"].partition("+")[0],
        "numpy_version": found["numpy"],
        "required_packages_version": {
            "nibabel": found["nibabel"],
            **({"medseg": found["medseg"]} if made.needs_medseg else {}),
        },
        "name": bundle.name,
        "task": f"Segmentation of {', '.join(bundle.table.names[1:])}",
        "description": record.description,
        "authors": "; ".join(record.attribution) or "see medseg-export.json",
        "copyright": record.licence,
        "license": record.licence,
        "intended_use": record.intended_use,
        "data_source": record.training.data,
        "network_data_format": {
            "inputs": {"image": {**image, **plain, "channel_def": inputs}},
            "outputs": {"pred": {**pred, **plain, "channel_def": channels}},
        },
    }


def _notes(bundle: Bundle, made: Twin, written: Written) -> tuple[str, ...]:
    network = made.definition["_target_"]
    notes = [
        f"network {bundle.network.use}: {network}"
        + (", which needs medseg beside MONAI, because MONAI has no such class" if made.needs_medseg else "")
    ]
    notes += list(written.lines)
    notes += [
        f"{name}: left out; MONAI has nothing like it, prepare images with medseg" for name in written.missing
    ]
    inference: Mapping[str, Any] = bundle.inference
    for key, plain in (("tta", "none"), ("refine", None)):
        if inference.get(key, plain) != plain:
            notes.append(f"inference.{key}: left out; masks of the MONAI bundle are those without it")
    windows_overlap = inference.get("window") is not None and inference.get("overlap", 0.25) > 0
    if windows_overlap and inference.get("average", "probabilities") != "logits":
        notes.append("inferer: where windows overlap, MONAI averages logits and medseg probabilities")
    if bundle.postprocess:
        notes.append("postprocess: left out; clean up with medseg, or with transforms of MONAI")
    return tuple(notes)


def _page(bundle: Bundle, made: Twin, written: Written, notes: tuple[str, ...]) -> str:
    prepare = 'parser.get_parsed_content("preprocessing")({"image": "scan.nii.gz"})'
    if written.missing:
        prepare = '{"image": ...}  # (C, I, J[, K]), prepared by medseg: see below'
    needs = "pip install monai medseg" if made.needs_medseg else "pip install monai nibabel"
    left = "\n".join(f"- {note}" for note in notes)
    return f"""# {bundle.name} {bundle.version} as a MONAI bundle

{bundle.record.description}

{bundle.record.intended_use}

Licence of the weights: {bundle.licence}. Written by medseg; how it compares with its source stands in
`medseg-export.json`.

## Run it

`{needs}`, then, in this folder:

```python
import torch
from monai.bundle import ConfigParser

parser = ConfigParser()
parser.read_config("configs/inference.json")
network = parser.get_parsed_content("network_def").eval()
network.load_state_dict(torch.load("models/model.pt", weights_only=True))
data = {prepare}
with torch.inference_mode():
    data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
mask = parser.get_parsed_content("postprocessing")(data)["pred"]
```

## What became of each part

{left}
"""
