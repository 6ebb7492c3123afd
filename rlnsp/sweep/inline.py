"""Sweeps as a command line says them: ``algorithm=grpo,nft sampler.rule=cps,flow_sde seeds=3``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rlnsp import config
from rlnsp.config import ConfigError
from rlnsp.plugins import nearest
from rlnsp.settings import RunConfig
from rlnsp.sweep.design import SweepConfig, short_names

SLOTS = ("algorithm", "policy")
"""Sections whose name alone means what is used there."""
OWN = tuple(
    field.name
    for field in dataclasses.fields(SweepConfig)
    if field.name not in {"settings", "arms", "axes", "needs"}
)
"""What a word without a dot sets, of the sweep itself."""


def load(name_or_path: str | None, words: Sequence[str]) -> SweepConfig:
    """A sweep from a shipped name or a file, or from nothing, with ``words`` on top.

    Args:
        name_or_path: None: no axes, no arms, the base config ``world``.
        words: 'a.b=c,d' each, an axis; 'a.b=c', a setting of all cells; or 'seeds=3', of the sweep itself.

    Raises:
        ConfigError: one line: where, what was given, what is allowed, what to do.
    """
    sweep = SweepConfig()
    if name_or_path is not None:
        sweep = config.load_typed(SweepConfig, name_or_path, folder="sweeps")
    own: list[str] = []
    settings, axes = dict(sweep.settings), dict(sweep.axes)
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and all(key.split("."))):
            raise ConfigError(
                f"{word!r} is neither an axis nor a setting; write key.key=value,value or seeds=3"
            )
        if key in OWN:
            own.append(_own(key, text))
            continue
        place = f"{key}.use" if key in SLOTS else key
        _known_section(key)
        values = config.parse_values(text)
        if not values:
            raise ConfigError(f"{word!r}: {key} has no value; list some, as in {key}=1,2")
        settings.pop(place, None)
        axes.pop(place, None)
        if len(values) > 1:
            axes[place] = values
        else:
            settings[place] = values[0]
    made = dataclasses.replace(sweep, settings=settings, axes=axes)
    return config.typed(SweepConfig, dataclasses.asdict(made), own, source=str(name_or_path or "the sweep"))


def name(sweep: SweepConfig) -> str:
    """What a sweep of words alone is called: by its axes, so that the same words mean the same folder."""
    return "-".join(short_names(list(sweep.axes)).values()) or "seeds"


def _own(key: str, text: str) -> str:
    """The override of a field of the sweep; 'seeds=3' is three of them, 'seeds=0,7' those two."""
    if key != "seeds":
        return f"{key}={text}"
    seeds = config.parse_values(text)
    if len(seeds) == 1 and isinstance(seeds[0], int) and "," not in text:
        seeds = list(range(seeds[0]))
    elif len(seeds) == 1 and isinstance(seeds[0], list):
        (seeds,) = seeds
    return config.override(key, seeds)


def _known_section(key: str) -> None:
    """Refuse a key whose first part is no section of a run; the rest is checked with each cell."""
    known = [field.name for field in dataclasses.fields(RunConfig) if field.name != "seed"]
    first = key.partition(".")[0]
    if first not in known:
        raise ConfigError(
            f"unknown key {key!r}{nearest(first, [*known, *OWN])}; a sweep's own are {', '.join(OWN)}; a "
            f"run's begin with {', '.join(known)}"
        )
