"""What a process has of the trained weights where DeepSpeed's ZeRO spreads them.

DeepSpeed lays all weights of a parameter group out in a row, or with ZeRO-3 what a process has of each, and
keeps an fp32 copy of this process's part, on which the optimiser steps.  ``own`` are windows on that copy: so
averages and checkpoints are what they are without it, and a run may go on with another number of processes.
"""

import gc
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from pretrain import prodigy
from pretrain.local_shards import LocalShards
from rlnsp.distributed import Ranks
from rlnsp.zero import Zero


@dataclass(frozen=True)
class Window:
    """Where in an optimiser's tensor this process's part of a weight is."""

    flat: Tensor
    """The tensor that the optimiser steps on."""
    start: int
    count: int
    first: int
    """Which of the weight's numbers is the first that is here."""

    def on(self, values: Tensor) -> Tensor:
        """(1, count): the part of ``values``, which are laid out as ``flat``."""
        return values[self.start : self.start + self.count].view(1, -1)


class ZeroModel(nn.Module):
    """What a stage trains, and what is frozen between, as DeepSpeed takes it over."""

    engine: Any

    def __init__(self, model: nn.Module, names: Sequence[str], ranks: Ranks, how: Zero) -> None:
        """Change nothing yet.

        Args:
            model: the whole of it.
            names: of its parts that are taken over; all that is trained is in one.
            ranks: the processes.
            how: DeepSpeed holds the parts.
        """
        super().__init__()
        self.parts = nn.ModuleDict({name: model.get_submodule(name) for name in names})
        self.ranks, self.how, self.engine = ranks, how, None
        self._model = [model]  # not a part

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """What is computed with the parts."""
        return compute()

    def compute(self, work: Callable[[], Tensor]) -> Tensor:
        """What ``work`` computes with the parts: one loss."""
        return self.engine(work)

    def shards(self, parameters: Mapping[str, Parameter]) -> "ZeroShards":
        """Of these, which must be of the parts."""
        return ZeroShards(parameters, self)

    @contextmanager
    def together(self) -> Iterator[None]:
        """While open, and after an error, each process computes as often as any other."""
        self.ranks.sharded = True
        yield
        self.ranks.sharded = False

    def forget(self) -> None:
        """Nothing: a step, and whatever else changes weights, lets go of what others have."""

    def join(self) -> None:
        """Give rank 0's model all of its weights, on the CPU; all processes call this."""
        (model,) = self._model
        for name, part in self.parts.items():
            states = {key: self._whole(value) for key, value in part.state_dict(keep_vars=True).items()}
            if self.ranks.main:
                kind: Any = type(part)
                with torch.device("meta"):
                    whole = kind.from_config(part.config)
                whole.load_state_dict(states, assign=True)
                setattr(model, name, whole)
        self.engine.destroy()
        self.engine.module_forward_pre_hook.remove()
        self.engine.module_forward_post_hook.remove()
        # What it had leads to itself in ways that are not collected, and with ZeRO-3 a list of DeepSpeed's
        # has this module for good.
        for emptied in (self.engine.optimizer, self.engine, *self.parts.parameters()):
            vars(emptied).clear()
        self.engine = None
        self.parts.clear()
        self._model.clear()
        gc.collect()  # the next sub-stage needs the place

    def _whole(self, value: Any) -> Tensor | None:
        """On rank 0 a copy on the CPU."""
        import deepspeed

        with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
            return value.detach().to("cpu", copy=True) if self.ranks.main else None


class ZeroShards(LocalShards):
    """Trained parameters, by name, of which each process has the numbers that DeepSpeed gave it."""

    def __init__(self, parameters: Mapping[str, Parameter], model: ZeroModel) -> None:
        """Change nothing yet: ``own`` is all of each until ``serve``."""
        super().__init__(parameters, model.ranks)
        self.model, self.windows = model, {}

    @property
    def spread(self) -> bool:
        """All are, from ``serve`` on."""
        return True

    def serve(self, optimizer: Optimizer, max_grad_norm: float) -> Optimizer:
        """See ``LocalShards``; from now on each process has its part."""
        order = {id(value): name for name, value in self.parameters.items()}
        groups = [[order[id(value)] for value in group["params"]] for group in optimizer.param_groups]
        how, ranks = self.model.how, self.ranks
        if isinstance(optimizer, Prodigy):
            optimizer = _Prodigy(optimizer, ranks)
        self.model.engine = how.engine(self.model, optimizer, max_grad_norm)
        within: Any = self.model.engine.optimizer
        locate = _window_of_stage_3 if how.stage == 3 else _window_of_stage_2
        self.windows = {name: locate(value, within, ranks) for name, value in self.parameters.items()}
        self.own = {name: window.on(window.flat.data) for name, window in self.windows.items()}
        self.spans = {
            name: slice(window.first, window.first + window.count) for name, window in self.windows.items()
        }
        self.whole = {} if how.stage == 3 else dict(self.parameters)
        self.optimizer = optimizer
        if ranks.main:
            whole = sum(math.prod(shape) for shape in self.shapes.values())
            here = sum(window.count for window in self.windows.values())
            sys.stdout.write(
                f"{ranks.count} processes hold what is trained together, by ZeRO-{how.stage}: {here:,} of "
                f"{whole:,} here\n"
            )
        return _Unflattened(optimizer, groups, self)

    def backward(self, loss: Tensor) -> None:
        """See ``LocalShards``; the processes' gradients are added up at once."""
        self.model.engine.backward(loss * self.ranks.count)

    def step(self) -> float:
        """See ``LocalShards``."""
        self.model.engine.step()
        return float(self.model.engine.get_global_grad_norm())

    @torch.no_grad()
    def written(self) -> None:
        """See ``LocalShards``; all processes call this."""
        engine = self.model.engine
        if self.model.how.stage == 2:
            engine.optimizer.update_lp_params()
            return
        engine.optimizer.empty_partition_cache()
        for name, value in self.parameters.items():
            part: Any = value
            part.ds_tensor[: self.windows[name].count].copy_(self.own[name].flatten())


class _Prodigy(Prodigy):
    """One whose scale is that of all processes' weights."""

    def __init__(self, made: Prodigy, ranks: Ranks) -> None:
        self.__dict__.update(made.__dict__)
        self.ranks = ranks

    def step(self, closure: Any = None) -> None:
        """On the one tensor that DeepSpeed has put into the group."""
        (group,) = self.param_groups
        values = {str(place): value for place, value in enumerate(group["params"])}
        prodigy.step(self, values, self.ranks, lambda name: True)


class _Unflattened(Optimizer):
    """An optimiser on DeepSpeed's tensors, its state told by weight, as if it stepped on ``shards.own``."""

    def __init__(self, optimizer: Optimizer, groups: list[list[str]], shards: ZeroShards) -> None:
        self.inner, self.names, self.shards = optimizer, [name for group in groups for name in group], shards
        self.sizes = [len(group) for group in groups]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """With each weight's part in the place of DeepSpeed's tensor."""
        names = iter(self.names)
        own = [[self.shards.own[next(names)] for _ in range(size)] for size in self.sizes]
        return [group | {"params": parts} for group, parts in zip(self.inner.param_groups, own, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """In torch's form; the tensors are windows."""
        state = {}
        for place, name in enumerate(self.names):
            window = self.shards.windows[name]
            found = self.inner.state.get(window.flat, {})
            state[place] = {key: self._part(window, key, value) for key, value in found.items()}
        places = iter(range(len(self.names)))
        groups = [
            {**group, "params": [next(places) for _ in range(size)]}
            for group, size in zip(self.inner.param_groups, self.sizes, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def _part(self, window: Window, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != window.flat.shape:
            return value
        part = window.on(value)
        return part.flatten() if key in prodigy.FLAT else part

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the form of ``state_dict``."""
        for group, saved in zip(self.inner.param_groups, state_dict["param_groups"], strict=True):
            group |= {key: value for key, value in saved.items() if key != "params"}
        for place, name in enumerate(self.names):
            window = self.shards.windows[name]
            state = self.inner.state[window.flat]
            for key, value in state_dict["state"].get(place, {}).items():
                # prodigyopt has one zero for all of a p0 that is zero.
                if isinstance(value, Tensor) and (value.ndim or key in prodigy.FLAT):
                    state.setdefault(key, torch.zeros_like(window.flat.data))
                    window.on(state[key]).copy_(value.reshape(1, -1))
                else:
                    fused = isinstance(value, Tensor) and self.inner.defaults.get("fused")
                    state[key] = value.to(window.flat.device) if fused else value


def _window_of_stage_2(value: Any, optimizer: Any, ranks: Ranks) -> Window:
    mapping = value._hp_mapping
    if mapping is None:  # all of it is elsewhere, before or behind
        group = next(i for i, g in enumerate(optimizer.bit16_groups) if any(one is value for one in g))
        flat = optimizer.single_partition_of_fp32_groups[group]
        return Window(flat, 0, 0, 0)
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Window(flat, here.start, here.numel, there.start)


def _window_of_stage_3(value: Any, optimizer: Any, ranks: Ranks) -> Window:
    group, start, size = optimizer.grad_position[optimizer.get_param_id(value)]
    flat = optimizer.fp32_partitioned_groups_flat[group]
    first = min(ranks.rank * size, value.ds_numel)
    count = min(size, value.ds_numel - first)
    # Padding is what was in memory, which may be no number: Prodigy sums over it.
    flat.data[start + count : start + size] = 0
    return Window(flat, start, count, first)
