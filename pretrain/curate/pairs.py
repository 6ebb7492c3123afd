"""Next-scene pairs: of a scene and what a model wrote to come before it, or of two scenes that follow."""

from collections.abc import Mapping, Sequence
from typing import Any

from pretrain.curate.asking import Asker, Dropped


async def written(asker: Asker, caption: str, rewrites: int) -> tuple[str, int]:
    """A preceding scene that passes both checks, and how often it was written anew.

    Raises:
        Dropped: the last one fails too.
        ServerFailed: no answer.
    """
    rejected: list[tuple[str, str]] = []
    while True:
        # Each question tells all that was refused so far: none is asked twice, and the cache answers none.
        context = await asker.preceding(caption, rejected)
        try:
            await asker.check(context, caption)
        except Dropped as error:
            rejected.append((context, f"{error.reason}: {error.detail}"))
            if len(rejected) > rewrites:
                raise Dropped(error.reason, error.detail, context) from error
        else:
            return context, len(rejected)


def row(scene: Mapping[str, Any], context: str, **more: Any) -> dict[str, Any]:
    """A line of the manifest: what ``scene`` shows follows ``context``."""
    return {
        "id": f"{scene['id']}-{more['pair']}",
        "context": context,
        **{key: scene[key] for key in ("video", "caption", "fps", "split", "source", "start", "seconds")},
        **more,
    }


def neighbours(scenes: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Scenes that directly follow each other in their video; both have captions."""
    return [
        (before, after)
        for before, after in zip(scenes, scenes[1:], strict=False)
        if after["number"] == before["number"] + 1
    ]
