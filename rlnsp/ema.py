"""An exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


class EMA:
    """Keeps average = decay average + (1 - decay) weights, in fp32, and lends it to the policy."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.average = {name: value.detach().float().clone() for name, value in self.parameters.items()}

    def update(self) -> None:
        """Move the average towards the weights as they are."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                self.average[name].lerp_(value.float(), 1 - self.decay)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take up an average that was saved."""
        for name, value in average.items():
            self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While open, the policy has the averaged weights."""
        live = {name: value.detach().clone() for name, value in self.parameters.items()}
        try:
            self._set(self.average)
            yield
        finally:
            self._set(live)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(values[name])
