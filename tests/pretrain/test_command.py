"""The commands end to end, on a world of twelve clips and a model of a few thousand weights."""

import json
import signal
from pathlib import Path

import pytest
import torch

from policies.unified import Unified
from pretrain import parts, stages
from rlnsp import config
from rlnsp.cli import main
from rlnsp.settings import ConfigError
from rlnsp.types import Scene
from tests.pretrain.together import together

LOOP = "{steps: 2, batch_size: 2, warmup: 1}"
PRETRAIN = f"""
data: {{num_train: 8, num_heldout: 4}}
geometry: {{num_frames: 9, height: 64, width: 64, fps: 8.0}}
comprehension: {{vocab_size: 280, width: 32, layers: 1, heads: 2, vision_width: 32, vision_layers: 1,
  patch_size: 16, steps: 2, batch_size: 2, save_every: 1}}
vae: {{latent_channels: 8, encoder_channels: [8, 8, 8], decoder_channels: [8, 16], loop: {LOOP}}}
transformer: {{layers: 1, heads: 2, head_dim: 16, caption_channels: 16, num_queries: 2}}
text_to_video:
  connect: {{train: [queries, connector], loop: {LOOP}}}
  joint: {{train: [queries, connector, transformer], loop: {LOOP}}}
threads: 1
"""
SFT = f"""
data: {{num_train: 8, num_heldout: 4}}
added_queries: " star"
sft: {{text: context, loop: {LOOP}}}
threads: 1
"""


@pytest.fixture(autouse=True)
def _denormals_as_they_were():
    yield
    torch.set_flush_denormal(False)


def command(name: str, folder: Path, *more: str) -> int:
    text = PRETRAIN if name == "pretrain" else SFT
    (folder / f"{name}.yaml").write_text(text)
    return main([name, "--config", str(folder / f"{name}.yaml"), "--output", str(folder / name), *more])


def interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_from_nothing_to_a_policy_that_samples_stopped_between_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pretrain"
    for module, stage in ((parts, "train_vae"), (stages, "make_initial")):
        with monkeypatch.context() as patch:
            patch.setattr(module, stage, interrupt)
            assert command("pretrain", tmp_path) == 130
        expected = f"go on by: rlnsp pretrain --config {tmp_path}/pretrain.yaml --output {output}"
        assert expected in capsys.readouterr().err
    done = json.loads((output / "comprehension" / "done.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(parts, "train_comprehension", None)
        patch.setattr(parts, "train_vae", None)
        assert command("pretrain", tmp_path) == 0
    assert capsys.readouterr().out.endswith(f"policy: {output}/policy\n")
    assert json.loads((output / "comprehension" / "done.json").read_text()) == done
    assert not list(output.rglob("checkpoint*"))
    for stage in ("vae", "connect", "joint"):
        (row,) = (json.loads(line) for line in (output / stage / "metrics.jsonl").read_text().splitlines())
        assert row["step"] == 2

    # The same command again has nothing left to do; another's settings are refused, and named.
    with monkeypatch.context() as patch:
        patch.setattr(stages, "_diffusion", lambda *_: None)
        assert command("pretrain", tmp_path) == 0
    capsys.readouterr()
    assert command("pretrain", tmp_path, "text_to_video.joint.drop=0.5") == 2
    assert "joint.drop was 0.1, now 0.5" in capsys.readouterr().err
    assert command("pretrain", tmp_path, "vae.kl_weight=0.1") == 2
    assert "vae.kl_weight was 1e-05, now 0.1" in capsys.readouterr().err

    start = str(output / "policy")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_diffusion", interrupt)
        assert command("sft", tmp_path, "--policy", start) == 130
    assert f"--policy {start}" in capsys.readouterr().err
    assert command("sft", tmp_path, "--policy", start) == 0
    tuned = Unified(Unified.Config(folder=str(tmp_path / "sft" / "policy")))
    before = Unified(Unified.Config(folder=start))
    added = tuned.model.comprehension.embeddings(" star")
    assert len(tuned.model.connector.queries) == 2 + len(added) > 2
    torch.testing.assert_close(tuned.model.connector.queries[2:], added, atol=0.01, rtol=0)  # two small steps
    scene = Scene(id="a", context="A red ball rolls towards a blue box.")
    generator = torch.Generator().manual_seed(0)
    noise = tuned.model.noise(1, generator)
    with torch.no_grad():
        one, two = (
            policy.model.velocity(noise, torch.ones(1), policy.model.encode_texts([scene.context]))
            for policy in (tuned, before)
        )
    assert not torch.equal(one, two)
    video = tuned.model.decode(noise - one, generator)
    assert video.frames.shape == (1, 9, 64, 64, 3)

    # Another start, in the same output, is refused.
    capsys.readouterr()
    assert command("sft", tmp_path, "--policy", str(tmp_path / "sft" / "policy")) == 2
    assert "policy was" in capsys.readouterr().err


def test_what_trains_in_one_process_is_refused_to_several(tmp_path: Path) -> None:
    (tmp_path / "pretrain.yaml").write_text(PRETRAIN)
    settings = config.load_typed(stages.PretrainConfig, str(tmp_path / "pretrain.yaml"), folder="pretrain")
    with pytest.raises(ConfigError, match="stage comprehension trains in one process, and there are 2"):
        together(2, lambda ranks: stages.pretrain(settings, tmp_path / "output", ranks))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--policy: give the folder that rlnsp pretrain wrote"),
        (["--policy", "nowhere"], "policy folder nowhere does not exist"),
        (
            ["--policy", "nowhere", "sft.train=[lora]"],
            "train must name some of queries, connector, transformer",
        ),
        (["sft.lop.steps=1"], "unknown key 'sft.lop'; did you mean 'loop'?"),
    ],
)
def test_bad_input_of_sft_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command("sft", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sft").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.manifest=nowhere.jsonl", "nowhere.jsonl: no such manifest"),
        (
            "text_to_video.joint.train=[vae]",
            "train must name some of queries, connector, transformer; got vae",
        ),
        ("text_to_video.vae.drop=0.1", "text_to_video.vae: a sub-stage gets a folder of its name"),
        ("geometry.num_frames=8", "geometry.num_frames must be 4 k + 1 for this VAE; got 8"),
        ("vae.loop.steps=0", "steps must be at least 1; got 0"),
        ("vae.loop.max_grad_norm=0", "max_grad_norm must be positive; got 0"),
        ("data.num_train=0", "data.num_train must be at least 1; got 0"),
    ],
)
def test_bad_input_of_pretrain_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert command("pretrain", tmp_path, override) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pretrain").exists()


def test_a_dry_run_prints_a_config_that_it_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("pretrain", tmp_path, "--dry-run") == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert main(["pretrain", "--config", str(tmp_path / "again.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out == printed


def test_a_loss_that_is_no_number_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Path:
        raise FloatingPointError("vae: the loss is nan at step 3; lower learning_rate")

    monkeypatch.setattr(stages, "pretrain", fails)
    assert command("pretrain", tmp_path) == 1
    assert capsys.readouterr().err == "rlnsp: error: vae: the loss is nan at step 3; lower learning_rate\n"
