"""What became of each video, a file each; of all together the manifest, what was dropped, and the yield."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pretrain.marks import read_json, write_json
from rlnsp.atomic import written_whole
from rlnsp.dataset.rows import MANIFEST
from rlnsp.manifest import write_manifest

LONGEST_NAME = 120
"""Characters of a file name that is made of an id."""


@dataclass(kw_only=True)
class Record:
    """What became of a video."""

    id: str
    scenes: int = 0
    clips: int = 0
    captions: dict[str, int] = field(default_factory=lambda: {"made": 0, "given": 0})
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the manifest."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """id, stage, reason, detail; of pairs caption and context too."""

    def drop(self, id: str, stage: str, reason: str, detail: str, **of_pair: str) -> None:
        """Something is left out."""
        self.dropped.append({"id": id, "stage": stage, "reason": reason, "detail": detail, **of_pair})


class Records:
    """Those in a folder, by the ids of the videos."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, id: str) -> Record | None:
        """None where the video is not done."""
        path = self._path(id)
        return Record(**read_json(path)) if path.is_file() else None

    def put(self, record: Record) -> None:
        """The video is done."""
        write_json(self._path(record.id), asdict(record))

    def _path(self, id: str) -> Path:
        return self.folder / f"{file_name(id)}.json"


def file_name(id: str) -> str:
    """A plain file name for an id, whatever is in it; no two ids have the same."""
    name = quote(id, safe="").replace(".", "%2E")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(id.encode()).hexdigest()[:16]}"


def write_results(output: Path, ids: Sequence[str], records: Records) -> dict[str, Any]:
    """The manifest and ``dropped.jsonl``, in the order of ``ids``; returns the yield."""

    def all_of() -> Iterator[Record]:
        for id in ids:
            record = records.find(id)
            assert record is not None, id
            yield record

    with written_whole(output / "dropped.jsonl") as aside, aside.open("w", encoding="utf-8") as file:
        for record in all_of():
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in record.dropped)
    # Last: where it is, all is there.
    write_manifest(output / MANIFEST, (row for record in all_of() for row in record.pairs))
    total, captions, reasons, pairs, rounds = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        Counter[str](),
        {},
    )
    for record in all_of():
        total.update(videos=1, scenes=record.scenes, clips=record.clips)
        total.update(unusable_videos=sum(one["stage"] == "video" for one in record.dropped))
        captions.update(record.captions)
        reasons.update(f"{one['stage']}: {one['reason']}" for one in record.dropped)
        pairs.update(row["pair"] for row in record.pairs)
        for row in record.pairs:
            if row["pair"] == "written":
                rounds[str(row["rewrites"])] = rounds.get(str(row["rewrites"]), 0) + 1
    return {
        "videos": total["videos"],
        "unusable_videos": total["unusable_videos"],
        "scenes": total["scenes"],
        "clips": total["clips"],
        "captions": dict(captions),
        "pairs": dict(pairs),
        "written_after_rewrites": dict(sorted(rounds.items())),
        "dropped": dict(sorted(reasons.items())),
    }
