"""``rlnsp export`` of tiny policies whose adapters do something: as written by hand, as after a run."""

import json

import pytest
import torch
import yaml
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from policies.latents import unpack
from policies.unified import Unified
from policies.unified.connector import Connector
from rlnsp import cli, evaluations
from rlnsp.config import load, to_yaml
from rlnsp.evaluate import Evaluation
from rlnsp.manifest import read_clip
from rlnsp.opening import open_policy
from rlnsp.settings import RewardSlot, RunConfig, Slot
from rlnsp.types import Scene
from tests.policies.pipelines import SIZE, integrate, run_pipeline

LORA = {"rank": 2, "alpha": 4.0}
TINY = ["sampler.num_steps=2", "sampler.window.size=1"]


@pytest.fixture
def make_run(tmp_path):
    """A run folder of a policy whose trained weights are drawn, and the policy."""

    def make(use, config, seed=7):
        run = tmp_path / "run"
        slot = Slot(use=use, config=config)
        policy = open_policy(slot)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, value in policy.named_trainable():
                value.add_(0.1 * torch.randn(value.shape, generator=generator).to(value))
        policy.save_adapter(run / "adapter")
        whole = RunConfig(
            policy=slot,
            rewards={"flicker": RewardSlot(use="temporal_flicker", weight=0.5)},
            algorithm=Slot(use="grpo"),
        )
        (run / "config.yaml").write_text(to_yaml(whole))
        (run / "environment.json").write_text(json.dumps({"packages": {"rlnsp": "9.9"}, "git": None}))
        (run / "summary.json").write_text(json.dumps({"steps": 40}))
        return run, policy

    return make


def export(run, to, *flags):
    assert cli.main(["export", str(run), "--to", str(to), *flags]) == 0
    return to


def latents(policy):
    return integrate(policy, 3, guidance_scale=1.5)


@pytest.fixture
def unified_run(make_run, policy_folder):
    parts = {"train_connector": True, "train_queries": True}
    return make_run("unified", {"folder": str(policy_folder), "lora": LORA, **parts})


def test_the_merged_unified_policy_makes_the_same_latents(unified_run, policy_folder, tmp_path):
    run, policy = unified_run
    opened = open_policy(Slot(use="unified"), str(export(run, tmp_path / "out")))
    made, before = latents(policy), latents(Unified(Unified.Config(folder=str(policy_folder))))
    assert (latents(opened) - made).abs().max() < 1e-4
    assert (made - before).abs().max() > 1e-2  # the training shows


def test_every_part_loads_by_its_own_library(unified_run, tmp_path):
    out = export(unified_run[0], tmp_path / "out")
    Qwen2_5_VLForConditionalGeneration.from_pretrained(out / "comprehension")
    assert AutoTokenizer.from_pretrained(out / "comprehension")("a ball")["input_ids"]
    AutoencoderKLLTXVideo.from_pretrained(out / "vae")
    FlowMatchEulerDiscreteScheduler.from_pretrained(out / "scheduler")
    trained = load_file(unified_run[0] / "adapter" / "connector" / "diffusion_pytorch_model.safetensors")
    connector = Connector.from_pretrained(out / "connector")
    assert all(trained[name].equal(value) for name, value in connector.state_dict().items())
    transformer = LTXVideoTransformer3DModel.from_pretrained(out / "transformer")
    assert not [name for name in transformer.state_dict() if "lora" in name]


def test_the_adapter_on_the_base_by_peft_alone_is_the_merged_transformer(
    unified_run, policy_folder, tmp_path
):
    out = export(unified_run[0], tmp_path / "out")
    base = LTXVideoTransformer3DModel.from_pretrained(policy_folder / "transformer")
    by_peft = PeftModel.from_pretrained(base, str(out / "adapter")).merge_and_unload().state_dict()
    merged = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    assert by_peft.keys() == merged.keys()
    assert all(torch.allclose(by_peft[name], value, atol=1e-6) for name, value in merged.items())


def test_what_is_merged_into_bf16_weights_is_not_rounded_away(make_run, policy_folder, tmp_path):
    run, _ = make_run("unified", {"folder": str(policy_folder), "lora": LORA, "dtype": "bf16"})
    merged = load_file(export(run, tmp_path / "out") / "transformer" / "diffusion_pytorch_model.safetensors")
    base = LTXVideoTransformer3DModel.from_pretrained(policy_folder / "transformer").state_dict()
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    name = "transformer_blocks.0.attn1.to_q"
    a, b = (adapter[f"base_model.model.{name}.lora_{end}.weight"].float() for end in "AB")
    update = 2.0 * b @ a
    weight = merged[f"{name}.weight"]
    assert weight.dtype == torch.float32
    assert torch.allclose(weight, base[f"{name}.weight"].bfloat16().float() + update, atol=1e-6)


def test_an_exported_ltx_pipeline_is_opened_by_diffusers_and_as_a_policy(
    make_run, pipeline_folders, tmp_path
):
    config = {"folder": str(pipeline_folders["ltx_video"]), "lora": LORA, **SIZE}
    run, policy = make_run("ltx_video", config)
    out, made = export(run, tmp_path / "out"), latents(policy)
    assert (latents(open_policy(Slot(use="unified"), str(out))) - made).abs().max() < 1e-4
    exported, base = (LTXPipeline.from_pretrained(folder) for folder in (out, config["folder"]))
    theirs, before = (stock(pipeline, frame_rate=SIZE["fps"]) for pipeline in (exported, base))
    assert (theirs - made).abs().max() < 1e-4
    assert (theirs - before).abs().max() > 1e-2


def test_an_exported_wan_pipeline_keeps_its_own_scheduler_with_the_shift_of_the_settings(
    make_run, pipeline_folders, tmp_path
):
    config = {"folder": str(pipeline_folders["wan"]), "lora": LORA, **SIZE, "flow_shift": 2.0}
    run, policy = make_run("wan", {**config, "spacing": "euler"})
    out, made = export(run, tmp_path / "out"), latents(policy)
    assert (latents(open_policy(Slot(use="unified"), str(out))) - made).abs().max() < 1e-4
    pipeline = WanPipeline.from_pretrained(out)
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    assert pipeline.scheduler.config["flow_shift"] == 2.0
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    assert (stock(pipeline) - unpack(made, policy.model.grid)).abs().max() < 1e-4


def stock(pipeline, **own):
    pipeline.set_progress_bar_config(disable=True)
    return run_pipeline(pipeline, 3, 1.5, "latent", **own)


def test_an_exported_folder_generates_and_is_evaluated_like_any_policy(unified_run, tmp_path, capsys):
    out = export(unified_run[0], tmp_path / "out")
    clip = tmp_path / "next.mp4"
    assert cli.main(["generate", "a ball rolls", "--policy", str(out), "-o", str(clip), *TINY]) == 0
    assert read_clip(clip)[0].shape == (5, 32, 64, 3)
    (tmp_path / "run.yaml").write_text((unified_run[0] / "config.yaml").read_text())
    (tmp_path / "scenes.jsonl").write_text('{"id": "a", "context": "a ball rolls"}\n')
    capsys.readouterr()
    asked = ["--policy", str(unified_run[0]), "--policy", str(out), "--config", str(tmp_path / "run.yaml")]
    data = f"data.heldout={tmp_path / 'scenes.jsonl'}"
    assert cli.main(["eval", *asked, "--json", data, *TINY]) == 0
    means = [one["measures"]["flicker"]["mean"] for one in json.loads(capsys.readouterr().out).values()]
    assert means[0] == pytest.approx(means[1], abs=1e-3)


def scored(run, when, iteration, value):
    scores = {"flicker": [value, value + 0.1], "distance_to_future": [0.2, 0.3]}
    how = {"sampler": "ode", "num_steps": 8, "guidance_scale": 1.0, "seeds": [0], "weights": "live"}
    evaluation = Evaluation(scene_ids=["a", "b"], scores=scores, how=how, bootstrap=50)
    scenes = [Scene(id=name, context=name) for name in "ab"]
    evaluations.write(run, when, iteration, scenes, evaluation)


def test_the_card_says_how_it_was_made_and_what_it_scores(unified_run, policy_folder, tmp_path):
    run, _ = unified_run
    for when, iteration, value in (("before", 0, 0.25), ("step-20", 20, 0.5), ("after", 40, 0.75)):
        scored(run, when, iteration, value)
    (policy_folder / "LICENSE.txt").write_text("Whatever the base model's licence is.")
    out = export(run, tmp_path / "out")
    said = (out / "README.md").read_text()
    front = yaml.safe_load(said.split("---\n")[1])
    assert front["license"] == "other"
    assert front["tags"][-1] == "grpo"
    assert "rlnsp 9.9" in said
    assert "| rewards | `temporal_flicker` with weight 0.5 |" in said
    assert "| training data | rlnsp's simulated world |" in said
    assert "| iterations | 40, each of 8 scenes x 12 samples |" in said
    assert "| measure | before RL | after 40 iterations | difference |" in said
    assert "| flicker | 0.300 (0.250 to 0.350) | 0.800 (0.750 to 0.850) | +0.500 (+0.500 to +0.500) |" in said
    assert "distance_to_future (lower is better)" in said
    assert "The weights derive from `tiny`: its licence" in said
    assert str(tmp_path) not in said
    assert (out / "LICENSE.txt").read_text() == "Whatever the base model's licence is."
    (policy_folder / "LICENSE.txt").unlink()


def test_a_checkpoint_is_exported_with_the_scores_of_its_iteration(unified_run, tmp_path):
    run, policy = unified_run
    for when, iteration, value in (("before", 0, 0.25), ("step-20", 20, 0.5), ("after", 40, 0.75)):
        scored(run, when, iteration, value)
    step = run / "checkpoints" / "step-20"
    policy.save_adapter(step / "adapter")
    (step / "config.yaml").write_text((run / "config.yaml").read_text())
    out = export(step, tmp_path / "out", "--adapter-only")
    said = (out / "README.md").read_text()
    assert "| measure | before RL | after 20 iterations | difference |" in said
    assert {path.name for path in out.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "connector"
    }  # fmt: skip


@pytest.mark.parametrize("case", ["no run", "no adapter", "a folder that is not empty", "no export"])
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(case, unified_run, tmp_path, capsys):
    run, to = unified_run[0], tmp_path / "there" / "out"
    says = "cannot be written whole: give it the method export"
    if case == "no run":
        run, says = tmp_path, "not a run folder"
    elif case == "no adapter":
        (run / "adapter").rename(run / "elsewhere")
        says = "this run has no adapter yet"
    elif case == "no export":
        toy = Slot(use="rlnsp.testing:ToyPolicy")
        whole = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**whole, "policy": {"use": toy.use}}))
        open_policy(toy).save_adapter(run / "adapter")
    else:
        to.mkdir(parents=True)
        (to / "mine").touch()
        says = "exists and is not empty; choose another folder"
    assert cli.main(["export", str(run), "--to", str(to)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert [path.name for path in to.iterdir()] == ["mine"] if to.exists() else not to.parent.exists()


def test_the_shipped_configs_default_opens_an_export(unified_run, tmp_path):
    """By its own settings, whatever the config says of the policy."""
    out = export(unified_run[0], tmp_path / "out")
    opened = open_policy(load("world").policy, str(out))
    assert isinstance(opened, Unified)
    assert (opened.config.lora.rank, opened.config.folder) == (2, str(out))
