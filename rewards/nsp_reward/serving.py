"""A judge as a server: the vLLM command that serves one, and a client that says so where none answers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlnsp.chat import AnswerCache, ChatClient, ChatConfig, NoServer
from rlnsp.settings import require

START = "rlnsp judge serve --model FOLDER_OR_HUB_ID --run"
MODULE = "vllm.entrypoints.openai.api_server"
"""Started as a module: vLLM built for CPUs comes as a package of another name, without the command."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What ``rlnsp judge serve`` was told."""

    model: str
    """A folder, or a model hub's id."""
    name: str = ""
    """What clients call it; empty: the folder's name, or the id."""
    host: str = "127.0.0.1"
    port: int = 8000
    """Of the first replica; the others have the next ones."""
    replicas: int = 1
    tensor_parallel: int = 1
    """GPUs of a replica."""
    images: int = 32
    """Of a question: the frames of a clip; in pairwise mode, of two."""
    max_model_len: int = 16384
    """Tokens of a question and its answer, frames included."""
    gpu_memory: float = 0.9
    """The share of a GPU's memory that a replica takes; what trains beside it needs the rest."""
    logprobs: int = 20
    """The most alternatives told of a token; mode soft asks for 20."""
    dtype: str = "auto"
    cpu: bool = False
    """For vLLM's build for CPUs."""
    kv_cache_mib: int = 1024
    """On a CPU, for keys and values: a token takes 2 x layers x heads of keys x their size x bytes a number,
    56 KiB for Qwen2.5-VL-7B, so that 1 GiB holds a question of 16384 tokens and a little."""
    python: str = ""
    """The interpreter of vLLM's own environment; empty: this one."""

    def __post_init__(self) -> None:
        for name in (
            "port",
            "replicas",
            "tensor_parallel",
            "images",
            "max_model_len",
            "logprobs",
            "kv_cache_mib",
        ):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} must be at least 1; got {value}")
        require(0 < self.gpu_memory <= 1, f"--gpu-memory must be in (0, 1]; got {self.gpu_memory}")
        require(self.port + self.replicas <= 65536, f"--port {self.port}: no room for {self.replicas} ports")
        local = self.model.startswith((".", "~", "/")) or self.model.count("/") != 1
        require(
            not local or (Path(self.model).expanduser() / "config.json").is_file(),
            f"--model {self.model}: is neither a folder with a config.json nor a model hub's id",
        )

    @property
    def served_name(self) -> str:
        """What clients call it."""
        return self.name or (Path(self.model).resolve().name if Path(self.model).is_dir() else self.model)

    @property
    def urls(self) -> list[str]:
        """Where clients find the replicas."""
        return [f"http://{self.host}:{self.port + number}/v1" for number in range(self.replicas)]

    def command(self, replica: int = 0) -> list[str]:
        """What starts a replica."""
        model = str(Path(self.model).expanduser())
        words = [self.python or sys.executable, "-m", MODULE]
        if self.cpu:
            words += ["--enforce-eager"]  # compiling takes minutes, and wants a compiler
            # Else it claims 92% of the memory, and does not start where others use some of it.
            words += ["--kv-cache-memory-bytes", str(self.kv_cache_mib * 2**20)]
        words += ["--model", model]
        words += ["--served-model-name", self.served_name]
        words += ["--host", self.host, "--port", str(self.port + replica)]
        words += ["--max-model-len", str(self.max_model_len), "--dtype", self.dtype]
        words += ["--limit-mm-per-prompt", f'{{"image": {self.images}, "video": 0}}']
        words += ["--max-logprobs", str(self.logprobs)]
        # Greedy means greedy: a model's own defaults, such as a repetition penalty, would change answers.
        words += ["--generation-config", "vllm"]
        if not self.cpu:
            words += ["--gpu-memory-utilization", f"{self.gpu_memory:g}"]
            words += ["--tensor-parallel-size", str(self.tensor_parallel)]
        return words

    def environment(self, replica: int = 0) -> Mapping[str, str]:
        """The variables that a replica is started with, beside the shell's."""
        if self.cpu:
            # Bound to a core, as it would be, a server stands still while others have that core.
            return {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if self.replicas == 1:
            return {}
        first = replica * self.tensor_parallel
        devices = range(first, first + self.tensor_parallel)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}

    def lines(self) -> list[str]:
        """The commands as a shell takes them, one a replica."""
        return [
            " ".join(
                [
                    *(f"{name}={value}" for name, value in self.environment(replica).items()),
                    shlex.join(self.command(replica)),
                ]
            )
            for replica in range(self.replicas)
        ]

    def use(self) -> str:
        """The command that trains by it, as a shell takes it."""
        place = "rewards.nsp_reward.config"
        settings = [
            f"{place}.judge=openai",
            f"{place}.openai.base_urls=[{','.join(self.urls)}]",
            f"{place}.openai.model={self.served_name}",
        ]
        return shlex.join(["rlnsp", "train", "--reward", "nsp_reward", *settings])


def connected(config: ChatConfig, cache: AnswerCache | None) -> ChatClient:
    """A client whose servers answer.

    Raises:
        ConfigError: one does not, and how to start it; or it refuses the key, or has no such model.
    """
    chat = ChatClient(config, cache)
    try:
        chat.connect()
    except NoServer as error:
        raise NoServer(f"{error}; start one by `{START}`, or set openai.base_urls to where it is") from error
    return chat
