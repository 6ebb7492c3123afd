"""An optimiser whose state DeepSpeed spreads over the processes of an RL run, and which looks like any other.

What RL trains stays whole on each device.  A process steps on its part of it, of which alone it has AdamW's
means there, and the parts are put together.  On the CPU each keeps all of the state as it was after the last
step: so that whoever is left, when another process has died, can write a checkpoint.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from rlnsp.distributed import Ranks
from rlnsp.settings import ConfigError
from rlnsp.zero import Zero


class ZeroOptimizer(Optimizer):
    """AdamW by ZeRO-2, on gradients that are the same in every process."""

    def __init__(self, made: Optimizer, ranks: Ranks) -> None:
        """Take over an optimiser that has not stepped yet; all processes call this, with the same weights.

        Args:
            made: of one group.
            ranks: the processes.

        Raises:
            ConfigError: not AdamW; or DeepSpeed is not installed.
        """
        if not isinstance(made, AdamW):
            raise ConfigError(
                "trainer.optimizer: adamw_8bit has a scale for each 256 numbers of a weight, which ZeRO "
                "would cut elsewhere: set trainer.optimizer=adamw, or take configs/accelerate/fsdp2.yaml"
            )
        self.inner, self.ranks = made, ranks
        (group,) = made.param_groups
        self.parameters: list[Parameter] = group["params"]
        # Of their own, since DeepSpeed hooks into every backward pass of what it steps on.
        self.twins = [Parameter(value.detach()) for value in self.parameters]
        group["params"] = self.twins
        self.engine = Zero(stage=2).engine(nn.ParameterList(self.twins), made, at_once=True)
        for value, twin in zip(self.parameters, self.twins, strict=True):
            value.data = twin.data  # windows on all weights, which DeepSpeed has laid out in a row
        self.kept: dict[int, dict[str, Tensor]] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The one, with the whole weights."""
        return [self.inner.param_groups[0] | {"params": self.parameters}]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """By the gradients of the whole weights; all processes call this."""
        for value, twin in zip(self.parameters, self.twins, strict=True):
            twin.grad, value.grad = value.grad, None
        with self.ranks.held():
            with self.engine.coalesce_grad_reduction():
                pass  # on leaving, each gets the mean of all processes' gradients for its part
            self.engine.step()
        state = self.inner.state[self._part]
        row = {
            key: self.ranks.in_a_row(value) if value.ndim else value.cpu().clone()
            for key, value in state.items()
        }
        self.kept = {
            place: {key: self._of(row[key], twin).clone() if row[key].ndim else row[key] for key in row}
            for place, twin in enumerate(self.twins)
        }

    def state_dict(self) -> dict[str, Any]:
        """As after the last step, all of it, on the CPU."""
        group = self.inner.param_groups[0] | {"params": list(range(len(self.parameters)))}
        return {"state": self.kept, "param_groups": [group]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What ``state_dict`` gave, here or without ZeRO, once the weights are those of then."""
        (group,) = state_dict["param_groups"]
        self.inner.param_groups[0] |= {key: value for key, value in group.items() if key != "params"}
        self.kept = state_dict["state"]
        row = self._row
        self._part.copy_(self._own(row))
        found: dict[str, Tensor] = {}
        for place, twin in enumerate(self.twins):
            for key, value in self.kept.get(place, {}).items():
                if value.ndim:
                    self._of(found.setdefault(key, torch.zeros_like(row)), twin).copy_(value)
                else:
                    found[key] = value.clone()
        self.inner.state[self._part] = {
            key: self._own(value).clone() if value.ndim else value for key, value in found.items()
        }

    @property
    def _row(self) -> Tensor:
        """All weights."""
        return self.engine.optimizer.bit16_groups_flat[0]

    @property
    def _part(self) -> Tensor:
        """This process's, fp32, on which the optimiser steps."""
        return self.engine.optimizer.single_partition_of_fp32_groups[0]

    def _own(self, row: Tensor) -> Tensor:
        return row.chunk(self.ranks.count)[self.ranks.rank]

    def _of(self, row: Tensor, twin: Tensor) -> Tensor:
        """The window of a weight on what is laid out as all of them are."""
        first = (twin.data_ptr() - self._row.data_ptr()) // twin.element_size()
        return row[first : first + twin.numel()].view(twin.shape)
