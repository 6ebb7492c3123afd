"""A real vLLM server on this machine, from ``make vllm-env``: started, waited for, killed."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from pretrain.judge_answers import VERDICT_TOKENS
from rewards.nsp_reward.serving import Serving
from rlnsp.types import Sample
from rlnsp.world import FPS, futures, scenes

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = ROOT / "rewards" / "world_judge"
START_S = 900.0
"""Until it answers: mostly imports."""
FRAMES_PER_SECOND = 4
"""That the judge was trained to be shown."""


class Server:
    """One vLLM process on a port of its own, which keeps the port when it is started again."""

    def __init__(self, folder: Path) -> None:
        assert PYTHON.is_file(), f"{PYTHON} is not there; make it by: make vllm-env"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.serving = Serving(
            model=str(MODEL),
            port=port,
            images=16,
            max_model_len=1024,
            dtype="float32",
            cpu=True,
            kv_cache_mib=64,  # 4 KiB a token: 16 questions of 1024
            python=str(PYTHON),
        )
        self.log = folder / "vllm.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.serving.urls[0]

    def start(self) -> float:
        """Start it, and wait until it answers; the seconds that took."""
        began = time.monotonic()
        variables = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.serving.command(),
                env={**os.environ, **self.serving.environment(), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            tail = self.log.read_text(errors="replace")[-3000:]
            assert self.process.poll() is None, f"vLLM ended with {self.process.returncode}:\n{tail}"
            assert time.monotonic() - began < START_S, f"vLLM does not answer after {START_S} s:\n{tail}"
            time.sleep(0.5)
        return time.monotonic() - began

    def kill(self) -> None:
        """End it at once, with all its processes."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def clips(n: int) -> list[Sample]:
    """A true clip of each of ``n`` held-out scenes, and one that stands still."""
    asked = scenes("heldout", n, 11)
    true = [futures(scene.context, 1, 0)[0] for scene in asked]
    still = [clip[:1].repeat(len(clip), 0) for clip in true]
    return [
        Sample(scene=scene, frames=clip, fps=FPS)
        for clips in (true, still)
        for scene, clip in zip(asked, clips, strict=True)
    ]


def settings(server: Server) -> list[str]:
    """Of the reward, as overrides of a run."""
    place = "rewards.nsp_reward.config"
    return [
        f"{place}.judge=openai",
        f"{place}.openai.base_urls=[{server.url}]",
        f"{place}.prompts=world",
        f"{place}.frames.fps={FRAMES_PER_SECOND}",
        f"{place}.verdict_tokens={VERDICT_TOKENS}",
        f"{place}.openai.retries=1",
        f"{place}.openai.retry_wait_s=0.1",
    ]
