"""Makes the packages of vLLM's environment fit each other: run by that environment's own Python.

    .venv-vllm/bin/python tests/vllm/environment.py

torchvision and torchaudio are on PyPI for CUDA alone; neither loads beside a CPU build of torch.  All that is
missed of torchvision are the schemas of two operators that vLLM never calls: they are declared before its
import.  torchaudio, which transformers imports wherever it is, is removed.  Builds that load are left alone.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "torchvision_schemas"
HOOK = '''\
"""Declares two operators of torchvision, whose compiled part is for another torch, when it is imported."""

import sys


class Schemas:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import define

            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            define("torchvision::nms", schema)
            define("torchvision::qnms", schema)


sys.meta_path.insert(0, Schemas())
'''


def main() -> int:
    """Try, mend, try again; the exit code."""
    packages = Path(sysconfig.get_path("purelib"))
    if "operator torchvision::nms does not exist" in _error_of("import torchvision"):
        (packages / f"{NAME}.py").write_text(HOOK, encoding="utf-8")
        (packages / f"{NAME}.pth").write_text(f"import {NAME}\n", encoding="utf-8")
    if "Could not load this library" in _error_of("import torchaudio"):
        subprocess.run(
            [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio"], check=True
        )
    left = _error_of("import torchvision, vllm")
    sys.stderr.write(left)
    return 1 if left else 0


def _error_of(statement: str) -> str:
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


if __name__ == "__main__":
    raise SystemExit(main())
