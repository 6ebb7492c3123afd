"""Stages 1 and 2, from data to a policy folder: ``rlnsp pretrain`` and ``rlnsp sft``.

Each stage writes what it made into ``OUTPUT/policy`` and its curves into ``OUTPUT/STAGE``; a stage whose mark is
there is done, so the same command again goes on where it was stopped.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from rich.console import Console
from torch import Tensor

from policies.unified import files, weights
from policies.unified.connector import new_connector
from policies.unified.model import UnifiedModel
from policies.unified.policy import Unified
from policies.unified.video import Geometry
from pretrain.clips import Clips, read_clips
from pretrain.comprehension import ComprehensionConfig, train_comprehension
from pretrain.diffusion import DiffusionConfig, encode_clips, train_diffusion
from pretrain.vae import VAEConfig, train_vae
from pretrain.world_data import write_world
from rlnsp.settings import ConfigError

CONSOLE = Console()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips that the stages train on."""

    manifest: str = "world"
    """JSON lines with the splits train and heldout; 'world' writes the embedded world to OUTPUT/data first."""
    num_train: int = 9800
    """Clips of the world to write; and so below."""
    num_heldout: int = 700
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The size of a fresh ``LTXVideoTransformer3DModel``, and of the connector into it."""

    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    caption_channels: int = 128
    num_queries: int = 16
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """``rlnsp pretrain``: comprehension, VAE, then text-to-video sub-stages in order."""

    data: DataConfig = field(default_factory=DataConfig)
    geometry: Geometry = field(default_factory=lambda: Geometry(num_frames=9, height=64, width=64, fps=8.0))
    comprehension: ComprehensionConfig = field(default_factory=ComprehensionConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    text_to_video: dict[str, DiffusionConfig] = field(default_factory=dict)
    """Sub-stages by name, in order."""
    threads: int = 2


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """``rlnsp sft``: a policy folder learns next-scene pairs."""

    data: DataConfig = field(default_factory=DataConfig)
    sft: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(text="context"))
    threads: int = 2


def pretrain(config: PretrainConfig, output: Path) -> Path:
    """Run every stage that is not done yet; returns the policy folder."""
    _prepare(config.threads)
    work = Work(output, config.data, config.geometry)
    if not work.done("comprehension"):
        with work.stage("comprehension"):
            made = train_comprehension(
                config.comprehension, work.train, work.heldout, output / "comprehension"
            )
            weights.save_policy(
                work.policy, geometry=config.geometry, comprehension=made, rest_from=work.rest
            )
    if not work.done("vae"):
        with work.stage("vae"):
            vae = train_vae(config.vae, work.train, work.heldout, output / "vae")
            weights.save_policy(work.policy, geometry=config.geometry, vae=vae, rest_from=work.rest)
    if not work.done("initial"):
        with work.stage("initial"):
            _initial(config, work)
    _diffusion(config.text_to_video, work)
    return work.policy


def sft(config: SFTConfig, start: Path, output: Path) -> Path:
    """Fine-tune the policy at ``start`` on next-scene pairs; returns the new policy folder."""
    _prepare(config.threads)
    given = files.read_policy_json(files.policy_folder(str(start)))
    geometry = Geometry(**{key: given[key] for key in ("num_frames", "height", "width", "fps")})
    work = Work(output, config.data, geometry)
    if work.rest is None:
        weights.save_policy(work.policy, geometry=geometry, rest_from=start)
    _diffusion({"sft": config.sft}, work)
    return work.policy


class Work:
    """The output folder of a command: its data, which stages are done, and the policy so far."""

    def __init__(self, output: Path, data: DataConfig, geometry: Geometry) -> None:
        self.output, self.policy = output, output / "policy"
        self._data, self._geometry = data, geometry
        self._clips: dict[str, Clips] = {}
        output.mkdir(parents=True, exist_ok=True)

    @property
    def rest(self) -> Path | None:
        """The policy so far, if there is any."""
        return self.policy if self.policy.is_dir() else None

    @property
    def train(self) -> Clips:
        """The clips to train on."""
        return self._read("train")

    @property
    def heldout(self) -> Clips:
        """The clips that no stage trains on."""
        return self._read("heldout")

    def done(self, stage: str) -> bool:
        """True if the stage's mark is there."""
        return (self.output / stage / "done.json").is_file()

    def stage(self, name: str) -> "_Stage":
        """A context that times the stage and leaves its mark if nothing went wrong."""
        return _Stage(self.output / name)

    def data(self, model: UnifiedModel) -> dict[str, tuple[Clips, Tensor]]:
        """Clips and their latents, by split."""
        data = {}
        for split in ("train", "heldout"):
            clips = self._read(split)
            data[split] = clips, encode_clips(model, clips, self.output / "latents" / f"{split}.safetensors")
        return data

    def _read(self, split: str) -> Clips:
        if split not in self._clips:
            manifest = Path(self._data.manifest)
            if self._data.manifest == "world":
                sizes = self._data.num_train, self._data.num_heldout, self._data.seed
                manifest = write_world(self.output / "data", *sizes)
            g = self._geometry
            self._clips[split] = read_clips(manifest, split, (g.num_frames, g.height, g.width), g.fps)
        return self._clips[split]


class _Stage:
    def __init__(self, folder: Path) -> None:
        self.folder, self.began = folder, time.monotonic()

    def __enter__(self) -> None:
        CONSOLE.print(f"[bold]{self.folder.name}[/bold] -> {self.folder}")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            seconds = round(time.monotonic() - self.began, 1)
            (self.folder / "done.json").write_text(json.dumps({"seconds": seconds}) + "\n")
            (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    # Activations near zero are otherwise computed as denormals, many times slower on a CPU.
    torch.set_flush_denormal(True)


def _initial(config: PretrainConfig, work: Work) -> None:
    """A fresh DiT, connector and LTX's schedule beside the trained comprehension model and VAE."""
    size = config.transformer
    torch.manual_seed(size.seed)
    channels = config.vae.latent_channels
    transformer = LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=size.layers,
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        cross_attention_dim=size.heads * size.head_dim,
        caption_channels=size.caption_channels,
    )
    connector = new_connector(
        num_queries=size.num_queries,
        width=config.comprehension.width,
        out=size.caption_channels,
        seed=size.seed,
    )
    # LTX-Video's own constants.
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    weights.save_policy(
        work.policy,
        geometry=config.geometry,
        transformer=transformer,
        scheduler=scheduler,
        connector=connector,
        rest_from=work.policy,
    )


def _diffusion(stages: dict[str, DiffusionConfig], work: Work) -> None:
    for name, stage in stages.items():
        if work.done(name):
            continue
        with work.stage(name):
            model = weights.load_model(Unified.Config(folder=str(work.policy), device="cpu"))
            train_diffusion(name, stage, model, work.data(model), work.output / name)
            assert isinstance(model.transformer, LTXVideoTransformer3DModel)
            weights.save_policy(
                work.policy,
                geometry=model.geometry,
                transformer=model.transformer,
                connector=model.connector,
                rest_from=work.policy,
            )


def check_start(start: str) -> Path:
    """The policy folder to start from.

    Raises:
        ConfigError: it is not a policy folder.
    """
    if not start:
        raise ConfigError("--policy: give the folder that rlnsp pretrain wrote, such as runs/pretrain/policy")
    return files.policy_folder(start)
