"""Floating-point operations and the peak of memory of any piece of torch code, counted and not done.

The code runs on fake tensors, which have a shape, a type and a device but no numbers, so that it takes a
moment at any size, and the very code of a run is counted: its autocasts, its adapters, its checkpointing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten: Any = torch.ops.aten


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)
def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **more: Any) -> int:
    return sdpa_flop_count(query, key, value)


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **more: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


class Tally(TorchDispatchMode):
    """Counts what is done while it is open; what was there before counts as no memory."""

    def __init__(self, before: nn.Module) -> None:
        """``before``: the module whose weights were there before."""
        super().__init__()
        self.flops = self.bytes = self.peak = 0
        self._live: set[int] = set()
        for value in (*before.parameters(), *before.buffers()):
            self._live.add(value.untyped_storage()._cdata)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._take(value.untyped_storage())
        return out

    def _take(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._live:
            return
        self._live.add(place)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._live.discard(place)
        self.bytes -= size


def tallied(module: nn.Module, work: Callable[[], Any]) -> Tally:
    """What ``work`` with ``module``, which is on the meta device, takes.

    ``work`` makes its own tensors.  All are on a CPU that is not there, since autocast wants a device.
    """
    mode = FakeTensorMode()
    for one in module.modules():
        for name, value in one._parameters.items():
            if value is not None:
                one._parameters[name] = nn.Parameter(_faked(mode, value), requires_grad=value.requires_grad)
        for name, value in one._buffers.items():
            if value is not None:
                one._buffers[name] = _faked(mode, value)
    with mode, Tally(module) as tally:
        work()
    return tally


def _faked(mode: FakeTensorMode, value: Tensor) -> Tensor:
    if not value.is_meta:
        return mode.from_tensor(value.detach())
    return mode.fake_tensor_converter.from_meta_and_device(mode, value.detach(), torch.device("cpu"))
