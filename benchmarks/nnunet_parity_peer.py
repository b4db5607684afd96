"""nnU-Net's own predictor on some images, for `nnunet_parity.py`; runs in a virtual environment with nnunetv2.

    python nnunet_parity_peer.py JOBS.json

JOBS.json is a list of objects: `folder` (result folder), `images` (files of one case, one per channel), `output`
(.npz), and optionally `folds` (list), `mirroring` (bool), `trainer` (a class of one's own, taken for nnUNetTrainer).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data as module
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

MOST_WINDOWS = 8


def predictor_of(job: dict[str, Any]) -> Any:
    """The predictor of a result folder, on the CPU."""
    known = module.recursive_find_trainer_class_by_name
    if job.get("trainer"):
        module.recursive_find_trainer_class_by_name = lambda _: nnUNetTrainer
    predictor = module.nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=job.get("mirroring", True),
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(job["folder"], use_folds=job.get("folds"))
    module.recursive_find_trainer_class_by_name = known
    return predictor


@torch.inference_mode()
def window_logits(predictor: Any, data: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n, axes) starts of some windows and (n, C, *window) float32 answers of the first fold to them."""
    padded, _ = module.pad_nd_image(
        data, predictor.configuration_manager.patch_size, "constant", {"value": 0}, True, None
    )
    slicers = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
    chosen = slicers[:: -(-len(slicers) // MOST_WINDOWS)]
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    predictor.network.eval()
    starts = [[s if isinstance(s, int) else s.start for s in slicer[1:]] for slicer in chosen]
    found = [
        predictor._internal_maybe_mirror_and_predict(padded[slicer][None].contiguous())[0].numpy()
        for slicer in chosen
    ]
    return np.array(starts), np.stack(found)


def run(job: dict[str, Any]) -> None:
    """Predict one case and write what was found."""
    predictor = predictor_of(job)
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    begin = time.perf_counter()
    image, properties = manager.image_reader_writer_class().read_images(job["images"])
    data, _, properties = preprocessor.run_case_npy(
        image, None, properties, manager, configuration, predictor.dataset_json
    )
    prepared = time.perf_counter()
    tensor = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
    logits = predictor.predict_logits_from_preprocessed_data(tensor)
    predicted = time.perf_counter()
    mask = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, manager, configuration, predictor.label_manager, properties, num_threads_torch=1
    )
    restored = time.perf_counter()
    # In the orientation of the file, which its writer alone brings back.
    ending = predictor.dataset_json["file_ending"]
    manager.image_reader_writer_class().write_seg(
        mask, job["output"].removesuffix(".npz") + ending, properties
    )
    starts, windows = window_logits(predictor, tensor)
    np.savez(
        job["output"],
        prepared=data,
        logits=np.asarray(logits),
        starts=starts,
        windows=windows,
        seconds=np.diff([begin, prepared, predicted, restored]),
    )


def main() -> None:
    """Run all jobs."""
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(job)


if __name__ == "__main__":
    main()
