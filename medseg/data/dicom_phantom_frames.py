"""Frames of synthetic DICOM images: stored values, their type, and their bytes in a transfer syntax."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder

from medseg.data.dicom_phantom_headers import plain
from medseg.errors import ConfigError
from medseg.io.dicom_encode import encode_frame

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
COMPRESSED = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1)
_LONGEST_SPAN = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """Linear map of each slice from stored to real values: real = stored * slope + intercept."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    @classmethod
    def of(cls, slope: float, intercept: float, *, slices: int, per_slice: bool, pet: bool) -> Rescale:
        """One map for all slices, or maps that differ and still store whole numbers exactly.

        PET images keep an intercept of 0 (PS3.3 C.8.9.4.1.4).
        """
        parts = [2.0 ** -(k % 3) if per_slice else 1.0 for k in range(slices)]
        shifts = [0.0 if pet or not per_slice else 8.0 * (k % 5) for k in range(slices)]
        return cls(
            slopes=tuple(slope * part for part in parts),
            intercepts=tuple(intercept - shift * slope for shift in shifts),
        )

    @property
    def is_identity(self) -> bool:
        """Whether stored values are the real ones."""
        return set(self.slopes) == {1.0} and set(self.intercepts) == {0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelType:
    """How a stored value lies in its 16 bits."""

    signed: bool
    bits_stored: int

    @classmethod
    def of(cls, low: int, high: int, *, twelve: bool) -> PixelType:
        """The type for stored values from `low` to `high`; 12 bits only where asked for and enough."""
        signed = low < 0
        if high - low > _LONGEST_SPAN or low < -32768 or high > (32767 if signed else _LONGEST_SPAN):
            raise ConfigError(
                f"stored values from {low} to {high} do not fit 16 bits; change slope and intercept"
            )
        fits = low >= -2048 and high < 2048 if signed else high < 4096
        return cls(signed=signed, bits_stored=12 if twelve and fits else 16)

    def elements(self, rows: int, columns: int) -> dict[str, Any]:
        """Image Pixel module, the pixel data left out."""
        return {
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": rows,
            "Columns": columns, "BitsAllocated": 16, "BitsStored": self.bits_stored,
            "HighBit": self.bits_stored - 1, "PixelRepresentation": int(self.signed),
        }  # fmt: skip

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian NumPy type."""
        return np.dtype("<i2" if self.signed else "<u2")


def stored_values(voxels: NDArray[Any], rescale: Rescale, k: int, kind: PixelType) -> NDArray[Any]:
    """(J, I) stored values of slice k of (I, J, K) real ones."""
    # The transpose is copied first: arithmetic on it would walk memory the slow way.
    real = np.ascontiguousarray(voxels[:, :, k].T).astype(np.float64)
    return np.rint((real - rescale.intercepts[k]) / rescale.slopes[k]).astype(kind.dtype)


def encode_frames(
    voxels: NDArray[Any], rescale: Rescale, kind: PixelType, transfer_syntax: str, *, threads: int
) -> list[bytes]:
    """Bytes of each slice in a transfer syntax, not yet encapsulated."""
    syntax = uid.UID(transfer_syntax)
    slices = voxels.shape[2]
    if syntax not in NATIVE and syntax not in COMPRESSED:
        known = ", ".join(str(s) for s in (*NATIVE, *COMPRESSED))
        raise ConfigError(f"no encoder for the transfer syntax {transfer_syntax}; there are: {known}")

    def encode(k: int) -> bytes:
        frame = stored_values(voxels, rescale, k, kind)
        if syntax == uid.ExplicitVRBigEndian:
            return frame.byteswap().tobytes()
        return frame.tobytes() if syntax in NATIVE else _compress(frame, kind, syntax)

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(encode, range(slices)))


def _compress(frame: NDArray[Any], kind: PixelType, syntax: uid.UID) -> bytes:
    if syntax != uid.JPEGLSLossless:
        return encode_frame(frame, syntax, bits_stored=kind.bits_stored)
    options: dict[str, Any] = {
        "rows": frame.shape[0], "columns": frame.shape[1], "samples_per_pixel": 1, "bits_allocated": 16,
        "bits_stored": kind.bits_stored, "pixel_representation": int(kind.signed), "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
    }  # fmt: skip
    return bytes(get_encoder(syntax).encode(frame, encoding_plugin="pyjpegls", **options))


def put_pixels(dataset: Dataset, frames: Sequence[bytes], transfer_syntax: str) -> None:
    """Set Pixel Data: native frames one after the other, compressed ones encapsulated."""
    if uid.UID(transfer_syntax) in NATIVE:
        dataset.PixelData = b"".join(frames)
        dataset["PixelData"].VR = "OW"
        return
    dataset.update(plain(PixelData=encapsulate(list(frames))))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
