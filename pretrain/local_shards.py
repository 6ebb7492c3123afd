"""What a process has of the trained weights: all of each, or where FSDP2 spreads them its rows.

A loop that works on its rows, as plain tensors, needs no more than this to work on all: what an optimiser or
an average does to a number depends on no other number, but for the gradient's norm and Prodigy's scale.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from policies.unified.model import UnifiedModel
from rlnsp.distributed import Ranks


class LocalShards:
    """Trained parameters, by name, of which some may be spread over the processes, row by row."""

    def __init__(self, parameters: Mapping[str, Parameter], ranks: Ranks) -> None:
        """Write nothing yet; what is written into ``own`` is the model's.

        Args:
            parameters: in the same order in every process.
            ranks: the processes.
        """
        self.parameters, self.ranks = parameters, ranks
        self.own = {name: _own(value) for name, value in parameters.items()}
        """This process's rows, as tensors of their own."""
        self.whole = {name: value for name, value in parameters.items() if not isinstance(value, DTensor)}
        """Those that every process has all of."""
        self.gains = [self.own[name] for name, value in self.whole.items() if value.numel() == 1]
        self._rows: dict[str, slice] = {}
        for name, value in parameters.items():
            if isinstance(value, DTensor):
                size = math.ceil(value.shape[0] / ranks.count)  # as FSDP2 cuts it
                first = min(ranks.rank * size, value.shape[0])
                self._rows[name] = slice(first, first + self.own[name].shape[0])

    @property
    def spread(self) -> bool:
        """Whether any is."""
        return bool(self._rows)

    def counts(self, name: str) -> bool:
        """Whether a sum over all processes has this one's ``own[name]`` in it: each number once."""
        return name in self._rows or self.ranks.main

    def take_gradients(self) -> None:
        """What backward passes left in the model's parameters, into ``own``."""
        for name in self._rows:
            value = self.parameters[name]
            assert isinstance(value, DTensor)
            assert value.to_local().data_ptr() == self.own[name].data_ptr()
            gradient, value.grad = value.grad, None
            assert isinstance(gradient, DTensor | None)
            self.own[name].grad = None if gradient is None else gradient.to_local()

    def clip(self, most: float) -> Tensor:
        """The norm of the whole gradient, to which the caller's part is scaled down where it is above."""
        values = self.own.values()
        if not self.spread:
            return torch.nn.utils.clip_grad_norm_(values, most)
        here = [v.grad for name, v in self.own.items() if v.grad is not None and self.counts(name)]
        square = torch.nn.utils.get_total_norm(here).item() ** 2
        norm = torch.tensor(math.sqrt(sum(self.ranks.exchange(square))))
        torch.nn.utils.clip_grads_with_norm_(values, most, norm)
        return norm

    def gather(self, name: str, value: Tensor) -> Tensor:
        """On rank 0 all of what ``value`` has for the rows of ``own[name]``; elsewhere ``value``.

        Args:
            name: of the parameter.
            value: in the rows' shape, or flat; a number alone is of all rows.
        """
        if name not in self._rows or value.ndim == 0:
            return value
        numbers = value.detach().cpu().contiguous().flatten()
        parts = self.ranks.to_main(numbers.view(torch.uint8))
        if not parts:
            return value
        whole = torch.cat(parts).view(value.dtype)
        return whole.view(self.parameters[name].shape) if value.shape == self.own[name].shape else whole

    def read(self, file: Any, key: str, name: str) -> Tensor:
        """This process's part of what ``gather`` gave, out of an open safetensors file."""
        if name not in self._rows:
            return file.get_tensor(key)
        stored, rows, shape = file.get_slice(key), self._rows[name], self.parameters[name].shape
        found = stored.get_shape()
        if not found:
            return file.get_tensor(key)
        row = 1 if found == list(shape) else math.prod(shape[1:])
        return stored[rows.start * row : rows.stop * row]


def _own(parameter: Parameter) -> Parameter:
    if not isinstance(parameter, DTensor):
        return parameter
    own: Tensor = parameter.to_local()
    return Parameter(own.detach(), requires_grad=parameter.requires_grad)


class SpreadDiT:
    """A model's DiT, of which each process holds a part while a stage trains."""

    def __init__(self, model: UnifiedModel, ranks: Ranks) -> None:
        """Spread it, if accelerate's config asks for that; all processes call this."""
        self.model, self.ranks = model, ranks
        self._modules: list[FSDPModule] = []
        if ranks.sharding is None:
            return
        dit = model.transformer
        blocks = [block for part in dit.children() if isinstance(part, nn.ModuleList) for block in part]
        # A number alone has no rows; and it is one whose rate of learning is its own.
        alone = {value for value in dit.parameters() if value.numel() == 1}
        self._modules = ranks.sharding.spread([*blocks, dit], ranks.count, model.device.type, whole=alone)
        if ranks.main:
            whole = sum(value.numel() for value in dit.parameters())
            here = sum(_own(value).numel() for value in dit.parameters())
            sys.stdout.write(f"{ranks.count} processes hold the DiT together: {here:,} of {whole:,} here\n")

    @contextmanager
    def together(self) -> Iterator[None]:
        """While open, and after an error, each process calls the DiT as often as any other."""
        self.ranks.sharded = bool(self._modules)
        yield
        self.ranks.sharded = False

    def forget(self) -> None:
        """Let go of the others' parts, which a forward without a backward may have left: they will change."""
        for module in self._modules:
            module.reshard()

    def join(self) -> None:
        """Give rank 0's model all of the DiT, on the CPU; all processes call this."""
        if not self._modules:
            return
        dit: Any = self.model.transformer
        state = {}
        for name, value in dit.state_dict().items():
            parts = LocalShards({name: Parameter(value, requires_grad=False)}, self.ranks)
            state[name] = parts.gather(name, parts.own[name].detach()).cpu()
        if self.ranks.main:
            with torch.device("meta"):
                whole: Any = LTXVideoTransformer3DModel.from_config(dit.config)
            whole.load_state_dict(state, assign=True)
            self.model.transformer = whole
