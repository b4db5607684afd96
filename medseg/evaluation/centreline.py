"""Agreement of tubes along their centrelines: clDice, in 2-D and 3-D."""

from __future__ import annotations

from importlib import util

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MissingPackageError

_MISSING = "metric cldice needs scikit-image, which is not installed; pip install 'medseg[tubes]'"


def require_skeletons() -> None:
    """Refuse early where skeletons cannot be made for want of scikit-image; imports nothing heavy.

    Raises
    ------
    MissingPackageError
        Names the extra.
    """
    if util.find_spec("skimage") is None:
        raise MissingPackageError(_MISSING)


def skeleton(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Centreline of a mask, one voxel wide; scikit-image's `skeletonize`.

    Parameters
    ----------
    mask : (I, J) or (I, J, K) bool array

    Returns
    -------
    bool array of the same shape
        Of a mask that thinning takes away altogether, the mask itself.

    Raises
    ------
    MissingPackageError
        scikit-image is not installed.

    References
    ----------
    2-D: Zhang and Suen, A fast parallel algorithm for thinning digital patterns, CACM 1984,
    doi:10.1145/357994.358023. 3-D: Lee et al., Building skeleton models via 3-D medial surface/axis
    thinning algorithms, CVGIP 1994, doi:10.1006/cgip.1994.1042.
    """
    require_skeletons()
    from skimage.morphology import skeletonize

    thin = np.asarray(skeletonize(mask), dtype=np.bool_)
    return thin if thin.any() else mask


def centreline_dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Centreline Dice: harmonic mean of the skeletons' shares in the other mask; 0..1, 1 is best.

    Topology precision is the share of the prediction's skeleton inside the reference, topology
    sensitivity the share of the reference's skeleton inside the prediction. Skeleton voxels are
    counted as they are; the spacing plays no part. 0 where the skeletons miss the other mask.

    Parameters
    ----------
    prediction, reference : bool arrays of the same shape, neither empty

    References
    ----------
    Shit et al., clDice - a novel topology-preserving loss function for tubular structure segmentation,
    CVPR 2021, doi:10.1109/CVPR46437.2021.01629.
    """
    thin_prediction, thin_reference = skeleton(prediction), skeleton(reference)
    precision = np.count_nonzero(thin_prediction & reference) / np.count_nonzero(thin_prediction)
    sensitivity = np.count_nonzero(thin_reference & prediction) / np.count_nonzero(thin_reference)
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0
