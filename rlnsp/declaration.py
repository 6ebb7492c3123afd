"""What a reward says of itself: what it needs to see, its range, and what it must tell apart."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

from rlnsp.protocols import Declares

Need = Literal["frames", "latents", "context_clip", "futures"]
"""``frames``: the decoded clip and its fps.  ``latents``: what it is decoded from.  ``context_clip``: the
preceding scene's video.  ``futures``: the true next scenes.  The preceding scene's words are always there."""
Fault = Literal["shuffled", "static", "noisy"]
"""Of a clip: the true one of another scene; one frame all along; noise on every pixel."""

PARAMETERS: Mapping[Need, str] = {
    "frames": "completions",
    "latents": "latents",
    "context_clip": "context_frames",
    "futures": "futures",
}
"""What a function in TRL's form calls each need."""

Plugin = TypeVar("Plugin", bound=Callable[..., object])


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Only what some reward of a run needs is made; the rest is checked by ``rlnsp reward test``."""

    needs: tuple[Need, ...] | None = None
    """None: the frames; of a function in TRL's form, what its parameters name."""
    range: tuple[float, float] | None = None
    """The least and the greatest score; infinite where there is no bound.  None: not stated."""
    tells: tuple[Fault, ...] = ()
    """True next scenes score higher than clips with these faults."""

    def __post_init__(self) -> None:
        _check_words("needs", self.needs or (), get_args(Need))
        _check_words("tells", self.tells, get_args(Fault))
        if self.needs is not None and not self.needs:
            raise ValueError(f"needs must name at least one of {', '.join(get_args(Need))}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must be the least and the greatest score; got {self.range}")


def declares(
    *,
    needs: tuple[Need, ...] | None = None,
    range: tuple[float, float] | None = None,
    tells: tuple[Fault, ...] = (),
) -> Callable[[Plugin], Plugin]:
    """Write a reward's ``Declaration`` on it, a class or a function.

    Raises:
        ValueError: a word that is not known, or a range that is empty.
    """
    made = Declaration(needs=needs, range=range, tells=tells)

    def put(reward: Plugin) -> Plugin:
        setattr(reward, "declaration", made)  # noqa: B010 - a function has no such attribute to type
        return reward

    return put


def declared(reward: Any) -> Declaration:
    """What a reward says of itself; needs that it does not say are those that its parameters name, if any."""
    said = reward.declaration if isinstance(reward, Declares) else Declaration()
    if said.needs is not None or isinstance(reward, type):
        return said
    parameters = inspect.signature(cast(Callable[..., Any], reward)).parameters
    return replace(said, needs=tuple(need for need, name in PARAMETERS.items() if name in parameters) or None)


def _check_words(what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{what} may hold {', '.join(known)}; got {', '.join(map(repr, unknown))}")
