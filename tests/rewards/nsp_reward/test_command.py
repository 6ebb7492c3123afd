import json
import math
import shlex
import time

import numpy as np
import pytest

from rlnsp import cli
from rlnsp.manifest import write_clip, write_manifest
from tests.chat_server import speaking

HUB = "Qwen/Qwen2.5-VL-7B-Instruct"


def flags(line):
    """The variables, the program, and each flag with its value."""
    words = shlex.split(line)
    start = words.index("--model")
    assert len(words[start:]) % 2 == 0
    return words[:start], dict(zip(words[start::2], words[start + 1 :: 2], strict=True))


def test_serve_prints_a_command_for_each_replica_and_how_to_train_by_them(capsys, monkeypatch):
    line = ["judge", "serve", "--model", HUB, "--replicas", "2", "--tensor-parallel", "2", "--images", "24"]
    assert cli.main([*line, "--port", "9000", "--python", "/vllm/bin/python", "--name", "judge"]) == 0
    first, second, then = capsys.readouterr().out.splitlines()
    for number, command in enumerate((first, second)):
        program, given = flags(command)
        devices = f"CUDA_VISIBLE_DEVICES={2 * number},{2 * number + 1}"
        assert program == [devices, "/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
        assert json.loads(given["--limit-mm-per-prompt"]) == {"image": 24, "video": 0}
        assert given["--port"] == str(9000 + number)
        assert (given["--model"], given["--served-model-name"]) == (HUB, "judge")
        assert given["--generation-config"] == "vllm"
        assert given["--max-logprobs"] == "20"
        assert given["--gpu-memory-utilization"] == "0.9"
    words = shlex.split(then.removeprefix("# then: "))
    assert words[0] == "rlnsp"
    assert cli.main([*words[1:], "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "- http://127.0.0.1:9000/v1\n" in shown
    assert "- http://127.0.0.1:9001/v1\n" in shown


def test_on_a_cpu_it_says_nothing_of_gpus(tmp_path, capsys):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    line = ["judge", "serve", "--model", str(tmp_path / "small"), "--cpu", "--dtype", "float32"]
    assert cli.main([*line, "--kv-cache-mib", "64"]) == 0
    program, given = flags(capsys.readouterr().out.splitlines()[0])
    assert program[0] == "VLLM_CPU_OMP_THREADS_BIND=nobind"
    assert program[-3:] == ["--enforce-eager", "--kv-cache-memory-bytes", str(64 * 1024 * 1024)]
    assert given["--served-model-name"] == "small"
    assert given["--dtype"] == "float32"
    assert not any("gpu" in name or "parallel" in name for name in given)


def test_run_runs_all_replicas_until_one_ends_and_ends_the_others(tmp_path, capsys):
    python = tmp_path / "python"
    # Stands in for vLLM's interpreter: the second replica ends by itself, the first only when it is told to.
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"--port 8001"*) sleep 0.3; exit 3;; esac\n'
        f"trap 'echo \"$CUDA_VISIBLE_DEVICES $*\" > {tmp_path}/ended; exit 0' TERM\n"
        "while true; do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    start = time.monotonic()
    line = ["judge", "serve", "--model", HUB, "--replicas", "2", "--python", str(python), "--run"]
    assert cli.main(line) == 3
    assert time.monotonic() - start < 60
    assert (tmp_path / "ended").read_text().startswith("0 -m vllm.entrypoints.openai.api_server --model")
    assert "rlnsp train --reward nsp_reward" in capsys.readouterr().err


WRONG = [
    (["serve"], "--model is missing"),
    (["serve", "--model", "./nowhere"], "--model ./nowhere: is neither a folder with a config.json"),
    (["serve", "--model", HUB, "--kv-cache-mib", "0"], "--kv-cache-mib must be at least 1; got 0"),
    (["serve", "--model", HUB, "--gpu-memory", "2"], "--gpu-memory must be in (0, 1]; got 2.0"),
    (["serve", "--model", HUB, "--replicas", "0"], "--replicas must be at least 1; got 0"),
    (
        ["serve", "--model", HUB, "--python", "/nowhere/python", "--run"],
        "--python /nowhere/python: cannot be run",
    ),
    (["serve", "--model", HUB, "trainer.num_iterations=2"], "serve takes no settings; got trainer.num"),
    (["eval", "--model", HUB], "--model goes with --judge transformers or openai"),
    (["eval", "--judge", "tracker", "--url", "http://x/v1"], "--url goes with --judge openai"),
    (["eval", "--judge", "openai", "--url", "http://127.0.0.1:9/v1"], "start one by `rlnsp judge serve"),
    (["eval", "--judge", "transformers"], "needs transformers.model"),
    (["eval", "--judge", "tracker", "--clips", "0"], "--clips must be at least 1"),
]


@pytest.mark.parametrize(("argv", "says"), WRONG)
def test_bad_usage_is_one_line_and_exit_code_two(argv, says, capsys):
    assert cli.main(["judge", *argv]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


def test_the_tracker_is_right_on_its_world(capsys):
    assert cli.main(["judge", "eval", "--judge", "tracker", "--clips", "30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["unscored"], found["accuracy"]) == (30, 0, 1.0)
    assert found["passed"] == {"true": 1.0, "shuffled": 0.0, "static": 0.0, "noisy": 0.0}
    for other in ("truth", "tracker"):
        assert found[other]["kappa"] == 1
        assert (found[other]["both_pass"], found[other]["both_fail"]) == (12, 18)


def judge(text, images):
    """Its P(Pass) is the brightness of the clip in percent."""
    if images:
        return f"brightness {images[0].mean():.0f}"
    level = int(text.split("brightness ")[1].split("\n")[0]) / 100
    return "Pass" if level >= 0.5 else "Fail", [[("Pass", math.log(level)), ("Fail", math.log(1 - level))]]


@pytest.fixture
def labelled(tmp_path):
    rows = []
    # The codec moves a grey by a level or so.
    for number, (level, passes) in enumerate([(80, True), (80, True), (80, False), (20, False), (60, True)]):
        write_clip(tmp_path / f"{number}.mp4", np.full((4, 16, 16, 3), level, np.uint8), 8.0)
        rows.append({"id": str(number), "context": "c", "video": f"{number}.mp4", "passes": passes})
    write_manifest(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


def evaluated(url, manifest, capsys, *more):
    line = ["judge", "eval", "--judge", "openai", "--url", url, "--manifest", str(manifest), "--json", *more]
    code = cli.main(line)
    return code, json.loads(capsys.readouterr().out)


def test_figures_on_labelled_clips_are_those_worked_out_by_hand(labelled, capsys):
    with speaking(judge) as server:
        code, found = evaluated(server.url, labelled, capsys)
    assert code == 0
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert found["passed"] == {"passes": 1.0, "fails": 0.5}
    assert found["truth"] == {
        "agreement": pytest.approx(0.8),
        "kappa": pytest.approx((0.8 - 0.56) / 0.44),  # p_e = 4/5 3/5 + 1/5 2/5
        "both_pass": 3,
        "only_judge": 1,
        "only_other": 0,
        "both_fail": 1,
    }
    assert "tracker" not in found  # these clips are not of its world
    # By score: 0.8 with passes 1, 1, 0; 0.2 with 0; 0.6 with 1.
    assert found["calibration"]["brier"] == pytest.approx((0.04 + 0.04 + 0.64 + 0.04 + 0.16) / 5, abs=5e-3)
    assert found["calibration"]["ece"] == pytest.approx((3 * abs(2 / 3 - 0.8) + 0.2 + 0.4) / 5, abs=5e-3)


def test_binary_verdicts_have_no_calibration(labelled, capsys):
    with speaking(judge) as server:
        _, found = evaluated(server.url, labelled, capsys, "--mode", "binary")
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert "calibration" not in found


def test_what_cannot_be_judged_is_counted_and_shown_and_no_figure_is_made_of_it(labelled, capsys):
    def shy(text, images):
        return judge(text, images) if images or "brightness 80" in text else "Hm."

    with speaking(shy) as server:
        code, found = evaluated(server.url, labelled, capsys, "--mode", "binary")
        assert (code, found["unscored"], found["accuracy"]) == (0, 2, pytest.approx(2 / 3))
        assert "says neither Pass nor Fail: 'Hm.'" in found["errors"][0]
        assert (
            cli.main(["judge", "eval", "--judge", "openai", "--url", server.url, "--manifest", str(labelled)])
            == 0
        )
        assert "could not be judged: " in capsys.readouterr().out
    with speaking(lambda text, images: "Hm.") as server:
        code, found = evaluated(server.url, labelled, capsys)
    assert (code, found["unscored"]) == (1, 5)
    assert "accuracy" not in found


def test_a_manifest_without_labels_is_refused_by_line(labelled, capsys):
    labelled.write_text(labelled.read_text().replace('"passes": false', '"passes": "no"'))
    with speaking(judge) as server:
        line = ["judge", "eval", "--judge", "openai", "--url", server.url, "--manifest", str(labelled)]
        assert cli.main(line) == 2
    assert "scene '2' needs a video and a column 'passes', true or false" in capsys.readouterr().err
