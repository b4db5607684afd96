"""Which number format the forward pass uses, and why."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Literal

import torch

from medseg.errors import ConfigError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
PROBE_LIMIT_S = 0.5
SLOWEST_BF16 = 1.0
_PROBE_SIZE = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The chosen format and the sentence that explains it.

    Parameters
    ----------
    dtype : torch.dtype
        float32, bfloat16 or float16.
    reason : str
        For logs and the run record.
    """

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """fp32, bf16 or fp16."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """`torch.autocast` for the format; nothing for fp32."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device_type=device.type, dtype=self.dtype)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Gradient scaler, at work for fp16 alone."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)


def choose_precision(requested: PrecisionName, device: torch.device) -> Precision:
    """The number format for a request on a device.

    On a CPU bf16 is timed against fp32 on a small matrix product, since processors without the
    instructions are hundreds of times slower with it; there the answer is fp32, with the reason.

    Raises
    ------
    ConfigError
        fp16 on a CPU, or bf16 on a GPU that does not have it.
    """
    if requested == "fp32":
        return Precision(dtype=torch.float32, reason="fp32 as set")
    if device.type == "cuda":
        return _on_cuda(requested)
    if requested == "fp16":
        raise ConfigError(
            "training.precision fp16 needs a GPU: gradients in half precision are not computed on a CPU; "
            "set training.precision to auto or fp32"
        )
    if requested == "auto":
        return Precision(dtype=torch.float32, reason="auto: fp32 on a CPU")
    return _bf16_on_cpu()


def _on_cuda(requested: PrecisionName) -> Precision:
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if requested == "fp16":
        return Precision(dtype=torch.float16, reason="fp16 with gradient scaling as set")
    if has_bf16:
        reason = "bf16 as set" if requested == "bf16" else "auto: bf16, which this GPU computes natively"
        return Precision(dtype=torch.bfloat16, reason=reason)
    if requested == "bf16":
        raise ConfigError(
            f"training.precision bf16: {torch.cuda.get_device_name()} does not compute it; set fp16 or fp32"
        )
    return Precision(dtype=torch.float16, reason="auto: fp16 with gradient scaling, this GPU has no bf16")


def _bf16_on_cpu() -> Precision:
    single = time_product_s(torch.float32)
    half = time_product_s(torch.bfloat16)
    ratio = half / single
    if ratio <= SLOWEST_BF16:
        return Precision(
            dtype=torch.bfloat16, reason=f"bf16 as set: {1 / ratio:.1f} times as fast as fp32 in a test"
        )
    return Precision(
        dtype=torch.float32,
        reason=f"fp32 instead of bf16: this CPU took {ratio:.0f} times as long with bf16 in a test",
    )


def time_product_s(dtype: torch.dtype) -> float:
    """Seconds of a small matrix product, best of up to five, within half of `PROBE_LIMIT_S`."""
    left = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    best, begin = float("inf"), time.perf_counter()
    for number in range(6):
        start = time.perf_counter()
        torch.mm(left, left)
        passed = time.perf_counter() - start
        # The first product also sets the library up, unless it is all there is time for.
        late = time.perf_counter() - begin > PROBE_LIMIT_S / 2
        best = min(best, passed) if number or late else best
        if late:
            break
    return best
