import json

import pytest
import torch

from benchmarks import memory, speed
from benchmarks.calls import Bare, Iteration, Recorder
from benchmarks.memory import peak_bytes
from benchmarks.shapes import DRAWN, Setting, setting
from benchmarks.speed import alternate, measure
from rlnsp.settings import RewardSlot, RunConfig, SamplerConfig, Slot, TrainerConfig, WindowConfig
from rlnsp.testing import ToyPolicy


def toy(**sampler):
    """Two scenes x three samples, four steps of which the second and third are trained."""
    sampler = {"num_steps": 4, "window": WindowConfig(start=1, size=2), **sampler}
    return Setting(
        policy=ToyPolicy(ToyPolicy.Config()),
        run=RunConfig(
            policy=Slot(use="rlnsp.testing:ToyPolicy"),
            rewards={"drawn": RewardSlot(use=DRAWN)},
            algorithm=Slot(use="grpo", config={"kl_coefficient": 0.1}),
            sampler=SamplerConfig(**sampler),
            trainer=TrainerConfig(group_size=3, scenes_per_iteration=2, micro_batch_size=5),
        ),
    )


@pytest.fixture
def case():
    return toy()


def test_forwards_are_counted_with_and_without_prefix_sharing(case):
    found = measure(case, rounds=1)
    # Shared: two steps of 2 scenes, the mean of the first noisy step among them, then two of 6 samples.
    assert found["rollout"]["forwards"] == {"shared": 2 + 2 + 6 + 6, "apart": 4 * 6}
    assert (found["samples"], found["tokens"]) == (6, 32)
    # The rollout's 16, then 12 transitions: the policy's and, for the divergence, the reference's.
    assert (found["forwards"], found["backwards"]) == (16 + 12 + 12, 12)
    assert set(found["phases_s"]) == {"rollout", "score", "optimise"}
    assert found["over_bare"] == pytest.approx(found["iteration_s"] / found["bare_s"])


def test_guidance_counts_twice_and_own_noise_shares_nothing():
    found = measure(toy(guidance_scale=3.0, same_noise=False), rounds=1)
    assert found["forwards"] == 2 * (4 * 6 + 12 + 12)
    assert found["rollout"] is None


def test_the_bare_calls_are_those_of_the_iteration(case):
    recorder = Recorder(case.policy)
    Iteration(case, recorder)()
    calls = list(recorder.calls)
    assert [call.kind for call in calls].count("encode") == 1
    trained = [call for call in calls if call.backward]
    assert sum(call.size for call in trained) == 6 * 2  # every sample, every trained step
    assert max(call.size for call in trained) <= 5
    assert sum(call.size for call in calls if call.reference) == 6 * 2
    assert sum(call.size for call in calls if call.kind == "decode") == 6
    again = Recorder(case.policy)
    bare = Bare(case, recorder)
    bare.policy = again  # pyright: ignore[reportAttributeAccessIssue]
    bare()
    assert again.calls == [call for call in calls if call.kind != "encode"]
    assert any(value.grad is not None and bool(value.grad.any()) for value in bare.parameters)


def test_a_forward_that_no_gradient_goes_back_through_is_not_counted_as_trained():
    recorder = Recorder(ToyPolicy(ToyPolicy.Config()))
    x = recorder.noise(2, torch.Generator().manual_seed(0))
    condition = recorder.encode(toy().scenes)
    recorder.velocity(x, torch.full((2,), 0.5), condition)
    recorder.velocity(x, torch.full((2,), 0.5), condition).sum().backward()
    assert [(call.grad, call.backward) for call in recorder.calls[1:]] == [(True, False), (True, True)]


def test_the_iteration_is_that_of_a_run_with_its_average_and_its_judge():
    case = setting("world", "shipped")
    iterate = Iteration(case, Recorder(case.policy))
    assert iterate.run.ema is not None
    assert iterate.run.old is not None
    assert [reward.name for reward in iterate.run.rewards] == ["nsp_reward"]


def test_they_take_turns_and_neither_is_always_the_first(monkeypatch):
    now, order = 0.0, []

    def taking(name, seconds):
        def work():
            nonlocal now
            now += seconds
            order.append(name)

        return work

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    assert alternate(taking("a", 3.0), taking("b", 2.0), 3) == ([3.0, 2.0], [1.5] * 3)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_the_page_says_how_far_rounds_differ():
    assert speed.spread([1.0, 1.4, 1.1, 1.2, 1.3]) == " (1.100 to 1.300)"
    assert speed.spread([1.0]) == ""


def test_the_peak_is_of_what_lives_at_once():
    megabyte = 2**18

    def one_after_the_other():
        for _ in range(4):
            torch.empty(megabyte)

    def together():
        [torch.empty(megabyte) for _ in range(4)]

    assert peak_bytes(one_after_the_other) == pytest.approx(2**20, rel=0.01)
    assert peak_bytes(together) == pytest.approx(4 * 2**20, rel=0.01)


def test_what_an_operation_takes_and_gives_back_inside_can_be_left_out():
    megabyte = 2**18

    def work():
        before = torch.empty(megabyte)
        with torch.profiler.record_function("an operation"):
            torch.empty(8 * megabyte)
            left = torch.empty(2 * megabyte)
        torch.empty(megabyte)
        del before, left

    assert peak_bytes(work) == pytest.approx(9 * 2**20, rel=0.01)
    assert peak_bytes(work, closed="an operation") == pytest.approx(4 * 2**20, rel=0.01)


def test_on_cuda_the_peak_leaves_out_what_was_there_before(monkeypatch):
    monkeypatch.setattr(memory.torch, "cuda", FakeCuda())
    assert peak_bytes(lambda: None) == 700 - 200


class FakeCuda:
    """A device that had 200 bytes in use, and 700 at the most."""

    is_available = staticmethod(lambda: True)
    synchronize = reset_peak_memory_stats = staticmethod(lambda: None)
    memory_allocated = staticmethod(lambda: 200)
    max_memory_allocated = staticmethod(lambda: 700)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    page = "".join(f"{opening}old{closing}" for opening, closing in (speed.ITERATIONS, speed.SHARING))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "speed.md").write_text(page)
    return tmp_path


def test_the_command_fills_the_page_with_every_setting_that_was_measured(case, root, monkeypatch, capsys):
    monkeypatch.setattr(speed, "setting", lambda policy, shape: case)
    for shape in ("shipped", "shared"):
        assert speed.main(["--rounds", "1", "--policy", "world", "--shape", shape]) == 0
    written = json.loads((root / "docs" / "benchmarks" / "speed-world-shared.json").read_text())
    page = (root / "docs" / "speed.md").read_text()
    assert "old" not in page
    assert f"**{written['over_bare']:.3f}**" in page
    assert page.count("| world, shipped |") == page.count("| world, shared |") == 2
    assert "| 24, 16 (**0.67**) |" in page
    assert "1 thread of a CPU" in page


def test_a_file_of_ones_own_leaves_the_page_as_it_is(case, root, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "setting", lambda policy, shape: case)
    assert speed.main(["--rounds", "1", "--output", str(tmp_path / "speed.json")]) == 0
    written = json.loads((tmp_path / "speed.json").read_text())
    assert {"over_bare", "rollout", "environment", "peak_bytes"} <= set(written)
    assert "old" in (root / "docs" / "speed.md").read_text()


def test_the_tiny_wan_is_of_the_sizes_that_it_is_compared_at():
    """1.2 M and VAE 0.8 M, 48 latent and 512 text tokens, 4 x 8 samples, 2 of 8 steps, LoRA 16, batch 8."""
    case = setting("wan", "tiny")
    model, run = case.policy.model, case.run
    sizes = {
        part: sum(
            value.numel() for name, value in getattr(model, part).named_parameters() if "lora" not in name
        )
        for part in ("transformer", "vae")
    }
    assert sizes["transformer"] == pytest.approx(1.2e6, rel=0.05)
    assert sizes["vae"] == pytest.approx(0.8e6, rel=0.05)
    assert model.grid.num_tokens == 48
    assert len(case.scenes) == 4
    assert case.policy.encode(case.scenes).embeds.shape[:2] == (4, 512)
    assert case.policy.config.lora.rank == 16
    assert (run.trainer.group_size, run.sampler.num_steps, run.sampler.window.size) == (8, 8, 2)
    assert run.trainer.micro_batch_size == 8


def test_the_path_of_the_2b_model_runs_at_a_small_size():
    """In bf16, gradient checkpointing and all; of eight steps the first four are done once a scene."""
    case = setting("ltx_video", "tiny")
    assert next(case.policy.model.transformer.parameters()).dtype == torch.bfloat16
    recorder = Recorder(case.policy)
    Iteration(case, recorder)()
    assert sum(call.size for call in recorder.calls if call.backward) == 2 * 8
    assert recorder.forwards() == 4 * 2 + 4 * 8 + 2 * 8
    bare = Bare(case, recorder)
    bare()
    assert bare.x.shape[1:] == (2 * 2 * 2, 8)  # 9 frames are two latent ones; 64 pixels two


def test_the_2b_setting_is_ltx_videos_own_size(monkeypatch):
    """28 layers of 32 heads x 64, captions of 4,096; 65 frames of 480x832: 3,510 tokens of 128 channels."""
    from benchmarks import random_ltx, shapes

    asked = {}
    remember = lambda folder, transformer, vae: asked.update(transformer=transformer, vae=vae)  # noqa: E731
    monkeypatch.setattr(random_ltx, "random_ltx", remember)
    monkeypatch.setattr(shapes, "open_policy", lambda slot: slot)
    case = setting("ltx_video", "2b")
    dit, clip = asked["transformer"], case.policy.config
    heads, width = dit["num_attention_heads"], dit["attention_head_dim"]
    assert (dit["num_layers"], heads, width, dit["caption_channels"]) == (28, 32, 64, 4096)
    assert ((clip["num_frames"] - 1) // 8 + 1) * (clip["height"] // 32) * (clip["width"] // 32) == 3510
    assert (dit["in_channels"], clip["dtype"], asked["vae"]) == (128, "bf16", {})


def test_an_unknown_setting_is_refused_with_those_that_there_are():
    with pytest.raises(SystemExit, match="no setting --policy world --shape none; there are --policy"):
        setting("world", "none")
