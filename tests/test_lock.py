import os
import signal
import subprocess
import sys

import pytest

from rlnsp.lock import LOCK, locked
from rlnsp.settings import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from rlnsp.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_that_is_killed(tmp_path):
    """By the system's lock: no file that a killed process left can be in the way."""
    folder = tmp_path / "new" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        says = rf"in use by process {holder.pid} on \S+; wait until it ends, stop it, or choose another"
        with pytest.raises(ConfigError, match=says), locked(folder):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    assert (folder / LOCK).is_file()
    with locked(folder):
        assert (folder / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    with locked(folder):  # and again, once it was let go
        pass


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    says = "cannot be written to .*; let it be written to, or choose"
    with pytest.raises(ConfigError, match=says), locked(tmp_path / "file" / "run"):
        pass
