"""The list of clips that a stage cannot use, gone on with."""

from pathlib import Path

from pretrain.skipped import Skipped
from rlnsp.dataset.video import UnusableVideo
from rlnsp.types import Scene


def test_a_list_is_read_again_whatever_is_in_it(tmp_path: Path) -> None:
    """Ids and reasons may hold what ends a line elsewhere than in JSON lines."""
    path = tmp_path / "skipped.jsonl"
    listed = Skipped(path)
    for id in ("a\u2028b", "c\x85d"):
        listed.add(Scene(id=id, context=""), UnusableVideo("broken", "cannot\u2029be decoded"))
    assert Skipped(path).ids == {"a\u2028b", "c\x85d"}
