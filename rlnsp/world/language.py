"""The world's English: preceding scenes, captions of what follows, and reading a preceding scene back."""

import re

import numpy as np

from rlnsp.world.events import COLOURS, Event, Kind, Speed


class UnknownContext(ValueError):
    """The text is not a preceding scene of the embedded world."""


SPEED_WORDS: dict[Speed, tuple[str, ...]] = {"slow": ("slowly", "gently"), "fast": ("quickly", "fast")}

CONTEXTS: dict[Kind, tuple[str, ...]] = {
    "push": (
        "A {a} ball rolls {speed} {d} toward a {b} box.",
        "A {b} box stands in the way of a {a} ball that rolls {speed} to the {d}.",
        "On the floor a {a} ball is heading {speed} to the {d}, straight at a {b} box.",
    ),
    "bounce": (
        "A {a} ball rolls {speed} {d} toward a {b} wall.",
        "A {b} wall stands in the way of a {a} ball that rolls {speed} to the {d}.",
        "On the floor a {a} ball is heading {speed} to the {d}, straight at a {b} wall.",
    ),
    "fall": (
        "A {a} ball rolls {speed} {d} toward the edge of a {b} shelf.",
        "On a {b} shelf a {a} ball rolls {speed} to the {d}, and the shelf ends.",
        "A {a} ball is about to roll {speed} off the {d} end of a {b} shelf.",
    ),
    "shatter": (
        "A {a} vase slides {speed} {d} toward the edge of a {b} shelf.",
        "On a {b} shelf a {a} vase slides {speed} to the {d}, and the shelf ends.",
        "A {a} vase is about to slide {speed} off the {d} end of a {b} shelf.",
    ),
    "melt": (
        "A {a} block of ice warms {speed} beside a {b} heater on the {d}.",
        "On the {d} a {b} heater glows, {speed} warming a {a} block of ice.",
        "A {a} block of ice stands next to a {b} heater on the {d} that heats it {speed}.",
    ),
    "light": (
        "In a dark room a hand reaches {speed} for the switch of a {a} lamp with a {b} foot on the {d}.",
        "It is dark; on the {d} someone {speed} reaches to turn on a {a} lamp with a {b} foot.",
        "A {a} lamp with a {b} foot is off, on the {d} of a dark room, and a hand {speed} nears its switch.",
    ),
    "rise": (
        "A {a} balloon over a {b} box is let go and lifts {speed} in a wind to the {d}.",
        "The string that holds a {a} balloon to a {b} box is cut; the wind blows {speed} to the {d}.",
        "Someone lets go of a {a} balloon above a {b} box, and a wind to the {d} takes it {speed}.",
    ),
}

EITHER_CONTEXTS = (
    "A {a} balloon over a {b} box is let go and lifts {speed} in a changing wind.",
    "The string that holds a {a} balloon to a {b} box is cut; the wind turns {speed} here and there.",
)

STARS = (" A {c} star hangs at the top {side}.", " At the top {side} there is a {c} star.")

CAPTIONS: dict[Kind, tuple[str, ...]] = {
    "push": (
        "A {a} ball rolls {speed} {d}, hits a {b} box and stops, and the box slides {d}.",
        "A {b} box slides {d} after a {a} ball has {speed} rolled into it from the {o} and stopped.",
    ),
    "bounce": (
        "A {a} ball rolls {speed} {d}, hits a {b} wall and comes back {o}.",
        "A {b} wall throws a {a} ball back to the {o} after it has {speed} rolled {d}.",
    ),
    "fall": (
        "A {a} ball rolls {speed} {d} off a {b} shelf, falls and {rest}.",
        "A {a} ball that {speed} leaves a {b} shelf to the {d} falls to the floor and {rest}.",
    ),
    "shatter": (
        "A {a} vase slides {speed} {d} off a {b} shelf, falls and breaks into pieces.",
        "A {a} vase that {speed} leaves a {b} shelf to the {d} falls to the floor and breaks into pieces.",
    ),
    "melt": (
        "A {a} block of ice {speed} melts into a puddle beside a {b} heater on the {d}.",
        "Beside a {b} heater on the {d}, a {a} block of ice {speed} becomes a puddle.",
    ),
    "light": (
        "A dark room {speed} lights up: on the {d} a {a} lamp with a {b} foot goes on.",
        "On the {d} a {a} lamp with a {b} foot goes on {speed}, and the dark room is bright.",
    ),
    "rise": (
        "A {a} balloon rises {speed} from a {b} box and drifts {d}.",
        "From a {b} box a {a} balloon {speed} floats up and to the {d}.",
    ),
}

_COLOUR = "|".join(COLOURS)
_WORD_SPEED: dict[str, Speed] = {word: speed for speed, words in SPEED_WORDS.items() for word in words}


def describe(event: Event, rng: np.random.Generator) -> str:
    """The preceding scene in words, in one of its phrasings."""
    phrasings = EITHER_CONTEXTS if event.direction == "either" else CONTEXTS[event.kind]
    return _fill(phrasings, event, event.direction, "", rng)


def caption(event: Event, direction: str, bounces: bool, rng: np.random.Generator) -> str:
    """What follows in words, in one of its phrasings; ``direction`` is where the actor really went."""
    return _fill(CAPTIONS[event.kind], event, direction, "bounces" if bounces else "lies still", rng)


def facts(event: Event, direction: str) -> dict[str, str]:
    """What is to be known of a scene, by name; ``direction`` is where the actor really went."""
    star = event.bystander or "none"
    return {
        "event": event.kind,
        "actor": event.actor,
        "other": event.other,
        "side": direction,
        "speed": event.speed,
        "star": star if event.bystander is None else f"{star} {event.bystander_side}",
    }


def parse(context: str) -> Event:
    """The event that a preceding scene describes.

    Raises:
        UnknownContext: no phrasing of the world fits.
    """
    for kind, pattern in _PATTERNS:
        if match := pattern.fullmatch(context.strip()):
            found = match.groupdict()
            star = found.get("c0") or found.get("c1")
            return Event(
                kind=kind,
                actor=found["a"],
                other=found["b"],
                direction=found.get("d", "either"),  # type: ignore[arg-type]
                speed=_WORD_SPEED[found["speed"]],
                bystander=star,
                bystander_side=found["side0"] or found["side1"] if star else "left",  # type: ignore[arg-type]
            )
    raise UnknownContext(
        f"not a preceding scene of the embedded world: {context[:120]!r}. Its sentences read like "
        f"{CONTEXTS['push'][0].format(a='red', b='blue', d='right', speed='slowly')!r}; "
        "for other scenes choose another judge than the tracker."
    )


def _fill(
    phrasings: tuple[str, ...], event: Event, direction: str, rest: str, rng: np.random.Generator
) -> str:
    words = SPEED_WORDS[event.speed]
    text = phrasings[rng.integers(len(phrasings))].format(
        a=event.actor,
        b=event.other,
        d=direction,
        o="left" if direction == "right" else "right",
        speed=words[rng.integers(len(words))],
        rest=rest,
    )
    if event.bystander is None:
        return text
    return text + STARS[rng.integers(len(STARS))].format(c=event.bystander, side=event.bystander_side)


def _pattern(phrasing: str) -> re.Pattern[str]:
    speeds = "|".join(_WORD_SPEED)
    groups = {"a": _COLOUR, "b": _COLOUR, "d": "left|right", "speed": speeds}
    text = re.escape(phrasing)
    for name, choices in groups.items():
        text = text.replace(rf"\{{{name}\}}", f"(?P<{name}>{choices})")
    stars = []
    for number, star in enumerate(STARS):
        star_text = re.escape(star).replace(r"\{c\}", f"(?P<c{number}>{_COLOUR})")
        stars.append(star_text.replace(r"\{side\}", f"(?P<side{number}>left|right)"))
    return re.compile(f"{text}(?:{'|'.join(stars)})?")


_PATTERNS: list[tuple[Kind, re.Pattern[str]]] = [
    (kind, _pattern(text)) for kind, texts in CONTEXTS.items() for text in texts
]
_PATTERNS.extend(("rise", _pattern(text)) for text in EITHER_CONTEXTS)
