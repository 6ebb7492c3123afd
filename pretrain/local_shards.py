"""What a process has of the trained weights: all of each, or where they are spread a part.

A loop that works on its parts, as plain tensors, needs no more than this to work on all: what an optimiser or
an average does to a number depends on no other number, but for the gradient's norm and Prodigy's scale.
Here FSDP2 spreads them, row by row; DeepSpeed's parts are in ``pretrain.zero_shards``.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from policies.unified.model import UnifiedModel
from pretrain import prodigy
from rlnsp.distributed import Ranks
from rlnsp.sharding import Sharding

PIECE = 2**26
"""Numbers of a gradient that processes exchange at a time: the copy that travels is on the CPU."""


class LocalShards:
    """Trained parameters, by name, of which some may be spread over the processes."""

    def __init__(self, parameters: Mapping[str, Parameter], ranks: Ranks) -> None:
        """Write nothing yet; what is written into ``own`` is the model's.

        Args:
            parameters: in the same order in every process.
            ranks: the processes.
        """
        self.parameters, self.ranks = parameters, ranks
        self.shapes = {name: value.shape for name, value in parameters.items()}
        """Of all of each."""
        self.own: Mapping[str, Tensor] = {name: _own(value) for name, value in parameters.items()}
        """This process's part of each, as a tensor of its own; what is written into it is the model's
        once ``written`` is called."""
        self.whole = {name: value for name, value in parameters.items() if not isinstance(value, DTensor)}
        """Those that every process has all of."""
        self.gains = [self.own[name] for name, value in self.whole.items() if value.numel() == 1]
        self.spans: dict[str, slice] = {}
        """Which numbers of a parameter, flattened, this process has, where it has a part."""
        for name, value in parameters.items():
            if isinstance(value, DTensor):
                row = math.prod(value.shape[1:])
                size = math.ceil(value.shape[0] / ranks.count) * row  # as FSDP2 cuts it
                first = min(ranks.rank * size, value.numel())
                self.spans[name] = slice(first, first + self.own[name].numel())

    @property
    def spread(self) -> bool:
        """Whether any is."""
        return bool(self.spans)

    def serve(self, optimizer: Optimizer, max_grad_norm: float) -> Optimizer:
        """Step by this optimiser of ``own`` from now on.

        Returns:
            What a checkpoint reads its state from, and brings it back by.
        """
        self.optimizer, self.max_grad_norm = optimizer, max_grad_norm
        return optimizer

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's part of the loss."""
        loss.backward()

    def step(self) -> float:
        """One step on the whole gradient, scaled down to ``max_grad_norm``.

        Returns:
            The norm that it had; if that is no finite number no step was made.
        """
        self._take_gradients()
        values = [*self.whole.values()]
        said = self.ranks.exchange([one.grad is not None for one in values])
        used = [any(flags) for flags in zip(*said, strict=True)]
        for piece in _pieces([_grad(one) for one, has in zip(values, used, strict=True) if has]):
            self.ranks.add_up(piece)
        norm = self._clip(self.max_grad_norm).item()
        if math.isfinite(norm):
            if isinstance(self.optimizer, Prodigy) and self.spread:
                prodigy.step(self.optimizer, self.own, self.ranks, self._counts)
            else:
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def written(self) -> None:
        """Let the model compute with what was written into ``own``."""

    def _counts(self, name: str) -> bool:
        """Whether a sum over all processes has this one's ``own[name]`` in it: each number once."""
        return name in self.spans or self.ranks.main

    def _take_gradients(self) -> None:
        """What backward passes left in the model's parameters, into ``own``."""
        for name in self.spans:
            value = self.parameters[name]
            assert isinstance(value, DTensor)
            assert value.to_local().data_ptr() == self.own[name].data_ptr()
            gradient, value.grad = value.grad, None
            assert isinstance(gradient, DTensor | None)
            self.own[name].grad = None if gradient is None else gradient.to_local()

    def _clip(self, most: float) -> Tensor:
        """The norm of the whole gradient, to which the caller's part is scaled down where it is above."""
        values = self.own.values()
        if not self.spread:
            return torch.nn.utils.clip_grad_norm_(values, most)
        here = [v.grad for name, v in self.own.items() if v.grad is not None and self._counts(name)]
        square = torch.nn.utils.get_total_norm(here).item() ** 2
        norm = torch.tensor(math.sqrt(sum(self.ranks.exchange(square))))
        torch.nn.utils.clip_grads_with_norm_(values, most, norm)
        return norm

    def gather(self, name: str, value: Tensor) -> Tensor:
        """On rank 0 all of what ``value`` has for the numbers of ``own[name]``; elsewhere ``value``.

        Args:
            name: of the parameter.
            value: in the shape of ``own[name]``, or flat; a number alone is of all.
        """
        if name not in self.spans or value.ndim == 0:
            return value
        numbers = value.detach().cpu().contiguous().flatten()
        parts = self.ranks.to_main(numbers.view(torch.uint8))
        if not parts:
            return value
        whole = torch.cat(parts).view(value.dtype)
        return whole.view(self.shapes[name]) if value.shape == self.own[name].shape else whole

    def read(self, file: Any, key: str, name: str) -> Tensor:
        """This process's part of what ``gather`` gave, out of an open safetensors file."""
        if name not in self.spans:
            return file.get_tensor(key)
        stored, span, shape = file.get_slice(key), self.spans[name], self.shapes[name]
        found = stored.get_shape()
        if not found:
            return file.get_tensor(key)
        row = math.prod(found[1:])
        first = span.start // row
        numbers = stored[first : math.ceil(span.stop / row)].flatten()
        part = numbers[span.start - first * row : span.stop - first * row]
        return part.view(self.own[name].shape) if found == [*shape] else part


def _own(parameter: Parameter) -> Parameter:
    if not isinstance(parameter, DTensor):
        return parameter
    own: Tensor = parameter.to_local()
    return Parameter(own.detach(), requires_grad=parameter.requires_grad)


def _grad(parameter: Tensor) -> Tensor:
    """Its gradient; zero where only other processes' examples reach it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _pieces(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In order, of ``PIECE`` numbers or a single larger tensor."""
    piece: list[Tensor] = []
    for tensor in tensors:
        if piece and sum(one.numel() for one in piece) + tensor.numel() > PIECE:
            yield piece
            piece = []
        piece.append(tensor)
    if piece:
        yield piece


class SpreadDiT:
    """A model's DiT, of which each process holds a part while a stage trains."""

    def __init__(self, model: UnifiedModel, ranks: Ranks) -> None:
        """Spread it, if accelerate's config asks for that; all processes call this."""
        self.model, self.ranks = model, ranks
        self._modules: list[FSDPModule] = []
        if not isinstance(ranks.sharding, Sharding):
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

    def compute(self, work: Callable[[], Tensor]) -> Tensor:
        """What ``work`` computes with the model: one loss."""
        return work()

    def shards(self, parameters: Mapping[str, Parameter]) -> LocalShards:
        """Of these, which must be the model's."""
        return LocalShards(parameters, self.ranks)

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
