"""An exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class EMA:
    """Keeps average = decay average + (1 - decay) weights, in fp32, and lends it to the model."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float, warmup: bool = False) -> None:
        """Start from the weights as they are.

        Args:
            parameters: by name.
            decay: of an update.
            warmup: let update n decay by (n + 1) / (n + 10) at most, as Karras et al. (arXiv:2312.02696) do:
                the first weights of an untrained model must not linger in the average.
        """
        self.parameters = dict(parameters)
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.average = {name: value.detach().float().clone() for name, value in self.parameters.items()}

    def update(self, decay: float | None = None) -> None:
        """Move the average towards the weights as they are; ``decay`` replaces the own one, this once."""
        n = self.updates
        if decay is None:
            decay = min(self.decay, (n + 1) / (n + 10)) if self.warmup else self.decay
        self.updates += 1
        with torch.no_grad():
            for name, value in self.parameters.items():
                self.average[name].lerp_(value.float(), 1 - decay)

    def load(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Take up an average that was saved after so many ``updates``."""
        self.updates = updates
        for name, value in average.items():
            self.average[name].copy_(value)

    def is_live(self) -> bool:
        """True where the average is the weights as they are, to the bit."""
        return all(torch.equal(self.average[name], value) for name, value in self.parameters.items())

    def put(self) -> None:
        """Give the model the averaged weights for good."""
        self._set(self.average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While open, the model has the averaged weights."""
        live = {name: value.detach().clone() for name, value in self.parameters.items()}
        try:
            self.put()
            yield
        finally:
            self._set(live)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(values[name])
