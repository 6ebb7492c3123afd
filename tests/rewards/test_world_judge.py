"""The judge that ships: whole, small enough, and one that tells true clips from others."""

import hashlib
import json
from pathlib import Path

import policies
import rewards

FOLDER = Path(rewards.__file__ or "").parent / "world_judge"
LIMIT = 20_000_000
"""Bytes of all weights that ship."""


def test_the_judge_is_what_its_manifest_says():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    files = {path.name: path for path in FOLDER.iterdir() if path.name != "manifest.json"}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert hashes == {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert manifest["cpu_seconds"] > 0


def test_all_that_ships_stays_small():
    folders = (FOLDER, Path(policies.__file__ or "").parent / "world")
    assert (
        sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) < LIMIT
    )
