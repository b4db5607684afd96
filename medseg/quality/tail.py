"""A limit that few new scores exceed, from scores of images (results) that what they were scored with never saw."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median


def tail_limit(scores: Iterable[float], share: float) -> float:
    """Value above which at most a share of new scores lies, if they are of the kind of these.

    Parameters
    ----------
    scores : iterable of float
        At least one.
    share : float
        Above 0, below 1.

    Returns
    -------
    float
        The k-th smallest score, k = ceil((n + 1) (1 - share)). With fewer than 1 / share - 1 scores no score keeps the
        promise; then the largest, moved away from the median by 2 / sqrt(n) of the way, as ends of ranges are.

    References
    ----------
    Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, Springer 2005, section 2.2.
    """
    ordered = sorted(scores)
    count = len(ordered)
    # One part in 1e9 less, for shares such as 0.025, whose product with n + 1 is a whole number but for rounding.
    rank = math.ceil((count + 1) * (1.0 - share) - 1e-9)
    if rank <= count:
        return float(ordered[rank - 1])
    return float(ordered[-1] + 2.0 / math.sqrt(count) * (ordered[-1] - median(ordered)))
