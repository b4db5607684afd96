"""What nnU-Net does in `medseg bench inference`, run by the Python of an environment that has nnunetv2.

``python -m medseg.bench.nnunet_peer NAME ARGUMENTS``: of medseg it needs only `measuring`. nnU-Net is called the way
that its own commands call it, mirroring off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bench.measuring import Task, run_child


def _managers(folder: str) -> tuple[Any, Any, dict[str, Any]]:
    """Plans, their one configuration, dataset.json."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(json.loads((Path(folder) / "plans.json").read_text()))
    return plans, plans.get_configuration("bench"), json.loads((Path(folder) / "dataset.json").read_text())


def _network(folder: str) -> Any:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    _, configuration, dataset = _managers(folder)
    torch.manual_seed(0)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        len(dataset["labels"]),
        deep_supervision=False,
    )
    stored = Path(folder) / "fold_0" / "checkpoint_final.pth"
    if stored.exists():
        _load(network, torch.load(stored, weights_only=True)["network_weights"])
    return network.eval()


def _load(network: Any, weights: dict[str, Any]) -> None:
    """Weights by name; those of medseg's bench lack what changes nothing, and what is registered twice."""
    import torch

    found = network.load_state_dict(weights, strict=False)
    doubled = re.compile(r"\.all_modules\.|^decoder\.encoder\.|^decoder\.seg_layers\.")
    missing = [name for name in found.missing_keys if not doubled.search(name)]
    biases = [name for name in missing if name.endswith(".conv.bias")]
    if found.unexpected_keys or len(biases) < len(missing):
        raise ValueError(f"weights that do not fit: {missing or found.unexpected_keys}")
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in biases:
            parameters[name].zero_()


def _make(folder: str, threads: int) -> Task:
    """A result folder with random weights, as a training leaves it."""
    import torch

    def run() -> None:
        network = _network(folder)
        (Path(folder) / "fold_0").mkdir(exist_ok=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "bench"},
            "inference_allowed_mirroring_axes": None,
        }
        torch.save(checkpoint, Path(folder) / "fold_0" / "checkpoint_final.pth")

    return Task(run, lambda _: "")


def _forward(folder: str, shape: list[int], threads: int) -> Task:
    """One window through the network, once warmed up."""
    import torch

    torch.set_num_threads(threads)
    network, image = _network(folder), torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def run() -> Any:
        with torch.inference_mode():
            return network(image)

    run()
    return Task(run, lambda found: float(found.abs().mean()))


def _volume(folder: str, image: str, out: str, threads: int, step: float) -> Task:
    """Windows over a volume, blended, to a label map; the image is (1, *shape), prepared."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(threads)
    plans, configuration, dataset = _managers(folder)
    predictor = nnUNetPredictor(
        tile_step_size=step,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    network = _network(folder)
    predictor.manual_initialization(network, plans, configuration, None, dataset, "nnUNetTrainer", None)
    data = torch.from_numpy(np.load(image))

    def run() -> Any:
        return predictor.predict_sliding_window_return_logits(data).float().argmax(0).to(torch.uint8).numpy()

    return Task(run, lambda labels: _kept(labels, out))


def _resample(image: str, out: str, shape: list[int], threads: int) -> Task:
    """Order 3, as the preprocessing does it."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    data = np.load(image)
    return Task(
        lambda: resample_data_or_seg(data, shape, is_seg=False, axis=None, order=3, do_separate_z=False),
        lambda found: _kept(found, out),
    )


def _labels(
    folder: str, logits: str, out: str, shape: list[int], spacing_mm: list[float], threads: int
) -> Task:
    """Logits on the prepared grid to a label map on that of the source, as before the export."""
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape,
    )

    plans, configuration, dataset = _managers(folder)
    properties = {
        "spacing": spacing_mm,
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    found = torch.from_numpy(np.load(logits))
    labels = plans.get_label_manager(dataset)

    def run() -> Any:
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            found, plans, configuration, labels, properties, num_threads_torch=threads
        )

    return Task(run, lambda labels: _kept(labels, out))


def _kept(array: Any, out: str) -> dict[str, str]:
    np.save(out, np.asarray(array))
    return {"labels": out}


_TASKS: dict[str, Callable[..., Task]] = {
    "make": _make,
    "forward": _forward,
    "volume": _volume,
    "resample": _resample,
    "labels": _labels,
}


def build(name: str, arguments: dict[str, Any]) -> Task:
    """The task of a name, its imports done."""
    return _TASKS[name](**arguments)


if __name__ == "__main__":
    run_child(build)
