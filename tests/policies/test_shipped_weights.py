"""The weights that come with rlnsp are what their manifest says; ``make world-weights`` writes both."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import policies
from policies.latents import from_pixels, to_pixels
from policies.settings import Source
from policies.unified import weights
from rlnsp import world

FOLDER = Path(policies.__file__ or "").parent
LIMIT = 20_000_000


@pytest.fixture(scope="module")
def manifest():
    return json.loads((FOLDER / "world" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def shipped():
    """Every file of the folders that hold weights, by its path in policies/, but the manifest itself."""
    found = {
        str(path.relative_to(FOLDER)): path
        for folder in FOLDER.glob("world*")
        for path in folder.rglob("*")
        if path.is_file()
    }
    del found["world/manifest.json"]
    return found


def test_every_file_is_listed_and_every_listed_file_is_there(manifest, shipped):
    assert shipped.keys() == manifest["files"].keys()
    assert {name.split("/")[0] for name in shipped} == set(manifest["folders"])


def test_every_file_is_the_one_that_was_made(manifest, shipped):
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shipped.items()}
    assert hashes == {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert all(path.stat().st_size == manifest["files"][name]["bytes"] for name, path in shipped.items())


def test_all_of_it_is_at_most_20_mb(shipped):
    own = (FOLDER / "world" / "manifest.json").stat().st_size
    assert own + sum(path.stat().st_size for path in shipped.values()) <= LIMIT


def test_the_manifest_says_how_they_were_made(manifest):
    trained = {
        name: stage for name, stage in manifest["stages"].items() if not name.endswith(("initial", "given"))
    }
    expected = ["pretrain/comprehension", "pretrain/vae", "sft/sft"]
    expected += [f"pretrain/{name}" for name in manifest["configs"]["pretrain"]["text_to_video"]]
    assert trained.keys() == set(expected)
    assert all(stage["seconds"] > 0 and stage["heldout_loss"] > 0 for stage in trained.values())
    assert manifest["seeds"]
    assert manifest["versions"]["torch"]
    assert manifest["machine"]["cpu_count"]


@torch.no_grad()
def test_true_clips_survive_the_vae():
    """It must not be what fails a clip: at least 97% of held-out ones pass after it, as all do before."""
    scenes = world.scenes("heldout", 256, seed=1)
    contexts = [scene.context for scene in scenes]
    clips = np.concatenate([world.futures(context, 1, seed=n) for n, context in enumerate(contexts)])
    vae = weights.load_vae(Source(path=str(FOLDER / "world" / "vae")))
    latents = [vae.encode(to_pixels(part), return_dict=False)[0].mode() for part in np.split(clips, 8)]
    decoded = np.concatenate([from_pixels(vae.decode(part, return_dict=False)[0]) for part in latents])
    tracker = world.Tracker()
    assert all(verdict.passed for verdict in tracker.judge(contexts, clips))
    assert np.mean([verdict.passed for verdict in tracker.judge(contexts, decoded)]) >= 0.97
