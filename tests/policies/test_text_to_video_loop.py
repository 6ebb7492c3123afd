"""``rlnsp train`` on tiny pipelines, from the command line to a run folder."""

import json

import pytest
from safetensors.torch import load_file

from rlnsp import cli

REWARD = """
def brightness(completions):
    return [float(clip.mean()) for clip in completions]
"""
CONFIG = """
policy:
  use: {use}
  config:
    folder: {folder}
    num_frames: 5
    height: 32
    width: 64
    fps: 8
    max_length: 160
    lora: {{rank: 2, alpha: 4.0}}
rewards: {{brightness: {{use: "{reward}:brightness"}}}}
algorithm: {{use: grpo, config: {{clip: 0.5, kl_coefficient: 0.01}}}}
sampler: {{num_steps: 3, window: {{start: 0, size: 2}}}}
trainer:
  num_iterations: 2
  scenes_per_iteration: 2
  group_size: 3
  learning_rate: 1e-3
  report: false # takes longer than such a run, as do trackers
  trackers: []
evaluation: {{num_scenes: 2, bootstrap: 10}}
"""


@pytest.fixture
def train(pipeline_folders, tmp_path):
    """Train that policy by the command; its metrics and what it left."""

    def run(use, *overrides):
        (tmp_path / "mine.py").write_text(REWARD)
        (tmp_path / "run.yaml").write_text(
            CONFIG.format(use=use, folder=pipeline_folders[use], reward=tmp_path / "mine.py")
        )
        command = ["train", "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]
        code = cli.main([*command, *overrides])
        return code, tmp_path / "run"

    return run


# torch says that its RMSNorm is slower under autocast
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("use", ["ltx_video", "wan"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.precision=bf16", "trainer.micro_batch_size=5"],
        ["policy.config.dtype=bf16", "sampler.guidance_scale=2", "trainer.micro_batch_size=4"],
    ],
    ids=["fp32", "bf16-autocast", "bf16-weights"],
)
def test_the_command_trains_it_and_the_first_ratio_is_exactly_1(train, use, overrides):
    code, run = train(use, *overrides)
    assert code == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "ratio" in line]
    assert len(trained) == 2
    assert all(line["log_ratio_max"] == 0 and line["grad_norm"] > 0 for line in trained)
    assert trained[1]["kl_reference"] > 0 == trained[0]["kl_reference"]  # it moved between them
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any("lora_B" in name and bool(value.any()) for name, value in adapter.items())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("policy.config.folder=/none/at/all", "/none/at/all does not exist"),
        ("policy.config.lora.targets=[to_x]", "'to_x' matches no linear layer"),
        ("policy.config.num_frames=6", "num_frames=6"),
        ("policy.config.height=-32", "height=-32: must be positive"),
    ],
)
@pytest.mark.parametrize("use", ["ltx_video", "wan"])
def test_what_is_wrong_is_one_line_exit_2_and_nothing_written(train, capsys, use, override, says):
    code, run = train(use, override)
    assert code == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert not run.exists()
