"""Number formats: what is chosen, what is refused, and why."""

from __future__ import annotations

import time

import pytest
import torch

from medseg.errors import ConfigError
from medseg.training import precision
from medseg.training.precision import choose_precision

CPU = torch.device("cpu")


def test_fp32_needs_no_autocast_and_no_scaler():
    chosen = choose_precision("fp32", CPU)
    assert (chosen.name, chosen.reason) == ("fp32", "fp32 as set")
    assert not chosen.scaler(CPU).is_enabled()
    with chosen.autocast(CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float32


def test_auto_on_a_cpu_is_fp32_without_a_probe(monkeypatch):
    monkeypatch.setattr(precision, "time_product_s", lambda dtype: pytest.fail("probed"))
    assert choose_precision("auto", CPU).name == "fp32"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU: .*set training.precision to auto or fp32"):
        choose_precision("fp16", CPU)


def test_bf16_that_is_slow_gives_fp32_and_says_so(monkeypatch):
    seconds = {torch.float32: 1e-5, torch.bfloat16: 7e-3}
    monkeypatch.setattr(precision, "time_product_s", seconds.__getitem__)
    chosen = choose_precision("bf16", CPU)
    assert chosen.dtype is torch.float32
    assert chosen.reason == "fp32 instead of bf16: this CPU took 700 times as long with bf16 in a test"


def test_bf16_that_is_fast_is_used(monkeypatch):
    seconds = {torch.float32: 4e-5, torch.bfloat16: 1e-5}
    monkeypatch.setattr(precision, "time_product_s", seconds.__getitem__)
    chosen = choose_precision("bf16", CPU)
    assert (chosen.name, chosen.reason) == ("bf16", "bf16 as set: 4.0 times as fast as fp32 in a test")
    with chosen.autocast(CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.bfloat16


def test_the_probe_measures_and_ends_in_time():
    start = time.perf_counter()
    assert 0 < precision.time_product_s(torch.float32) < 1
    assert 0 < precision.time_product_s(torch.bfloat16) < 10
    # The limit is half a second of computing; a busy machine may hold the process up.
    assert time.perf_counter() - start < 10


def test_on_cuda_auto_takes_bf16_where_the_gpu_has_it_and_fp16_elsewhere(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision("auto", cuda).name == "bf16"
    assert choose_precision("fp16", cuda).name == "fp16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_precision("auto", cuda).name == "fp16"
    with pytest.raises(ConfigError, match="Old GPU does not compute it; set fp16 or fp32"):
        choose_precision("bf16", cuda)
