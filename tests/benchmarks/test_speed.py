import json

import pytest

from benchmarks import speed
from benchmarks.shapes import Setting, setting
from benchmarks.speed import Bare, Iteration, Recorder, alternate, measure
from rlnsp.settings import SamplerConfig, Slot, TrainerConfig, WindowConfig
from rlnsp.testing import ToyPolicy
from rlnsp.types import Scene


@pytest.fixture
def case():
    """Two scenes x three samples, four steps of which the second and third are trained."""
    return Setting(
        policy=ToyPolicy(ToyPolicy.Config()),
        scenes=[Scene(id=f"s{i}", context=f"context {i}") for i in range(2)],
        algorithm=Slot(use="grpo"),
        sampler=SamplerConfig(num_steps=4, window=WindowConfig(start=1, size=2)),
        trainer=TrainerConfig(group_size=3, scenes_per_iteration=2, micro_batch_size=5),
    )


def test_forwards_are_counted_with_and_without_prefix_sharing(case):
    found = measure(case, rounds=1)
    # Shared: two steps of 2 scenes, the mean of the first noisy step among them, then two of 6 samples.
    assert found["rollout_forwards"] == {"shared": 2 + 2 + 6 + 6, "apart": 4 * 6}
    assert found["over_bare"] == found["iteration_s"] / found["bare_s"] > 0
    assert found["samples"] == 6


def test_the_bare_calls_are_those_of_the_iteration(case):
    recorder = Recorder(case.policy)
    Iteration(case, recorder)()
    calls = list(recorder.calls)
    assert [call.kind for call in calls].count("encode") == 1
    trained = [call.size for call in calls if call.backward]
    assert sum(trained) == 6 * 2  # every sample, every trained step
    assert max(trained) <= 5
    assert sum(call.size for call in calls if call.kind == "decode") == 6
    again = Recorder(case.policy)
    bare = Bare(case, calls)
    bare.policy = again  # pyright: ignore[reportAttributeAccessIssue]
    bare()
    assert again.calls == calls
    assert any(value.grad is not None and bool(value.grad.any()) for value in bare.parameters)


def test_medians_are_of_turns():
    order = []
    seconds = alternate([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b"] * 3
    assert len(seconds) == 2


def test_the_command_writes_what_it_shows(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "setting", lambda policy, shape: case)
    assert speed.main(["--rounds", "1", "--output", str(tmp_path / "speed.json")]) == 0
    assert "an iteration over its model calls" in capsys.readouterr().out
    written = json.loads((tmp_path / "speed.json").read_text())
    assert {"over_bare", "rollout_forwards", "environment"} <= set(written)


def test_the_tiny_wan_is_of_the_sizes_that_it_is_compared_at():
    """1.2 M and VAE 0.8 M, 48 latent and 512 text tokens, 4 x 8 samples, 2 of 8 steps, LoRA 16, batch 8."""
    case = setting("wan", "tiny")
    model = case.policy.model
    sizes = {
        part: sum(
            value.numel() for name, value in getattr(model, part).named_parameters() if "lora" not in name
        )
        for part in ("transformer", "vae")
    }
    assert sizes["transformer"] == pytest.approx(1.2e6, rel=0.05)
    assert sizes["vae"] == pytest.approx(0.8e6, rel=0.05)
    assert model.grid.num_tokens == 48
    assert case.policy.encode(case.scenes).embeds.shape[:2] == (4, 512)
    assert case.policy.config.lora.rank == 16
    assert (case.group_size, case.sampler.num_steps, case.sampler.window.size) == (8, 8, 2)
    assert case.trainer.micro_batch_size == 8


def test_an_unknown_setting_is_refused_with_those_that_there_are():
    with pytest.raises(SystemExit, match="no setting --policy world --shape none; there are --policy"):
        setting("world", "none")
