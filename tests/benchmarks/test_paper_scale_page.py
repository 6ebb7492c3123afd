"""What the command for a GPU makes of its figures, and how far it goes."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import paper_scale, paper_scale_page
from benchmarks.paper_scale import Session, run_of

FOUND = {
    "size": "paper",
    "tflops": 100.0,
    "environment": {
        "devices": ["A GPU"],
        "torch_threads": 1,
        "platform": "-",
        "packages": {"torch": "2"},
    },
    "check": {"passed": False, "failed": ["drift"], "seconds": 60.0, "checks": []},
    "settings": [
        {
            "name": "one",
            "sizes": {"group_size": 16},
            "samples": 16,
            "iterations": [{}],
            "seconds": {"encode": 1.0, "rollout": 20.0, "decode": 5.0, "score": 4.0, "train": 10.0},
            "stays": 20 * 2**30,
            "bytes": {"encode": 0, "rollout": 8 * 2**30, "decode": 2**30, "score": 2**30, "train": 2**30},
            "reserved": None,
            "flops": {"rollout": 1e15, "train": 4e14, paper_scale_page.AGAIN: 6e14},
            "plan": {
                "stays": 21 * 2**30,
                "bytes": {"rollout": 10 * 2**30},
                "seconds": {"rollout": 25.0},
                "peak": 31 * 2**30,
            },
        },
        {"name": "two", "sizes": {}, "out_of_memory": "CUDA", "plan": {"peak": 90 * 2**30}},
    ],
}


def test_the_page_has_shares_of_the_peak_and_the_plans_error():
    text = paper_scale_page.section(FOUND)
    # 1e15 operations in 20 s are half of 100 TFLOP/s; 4e14 in 10 s are 40%, and 60% with what is done twice.
    assert "| rollout | 20 | 25 | 1e+03 | 50.0% | 8 | 10 | +25% |" in text
    assert "40.0% (60.0% with what is computed again)" in text
    assert "40 s an iteration of 16 samples (0.4 a second" in text
    assert "Most memory 28 GiB (planned 31)" in text
    assert "wrong: drift" in text
    assert "**Out of memory**, where the plan said 90.0 GiB" in text
    assert "on A GPU, 100 TFLOP/s" in text


def test_docs_are_filled_from_the_papers_size_alone(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scale.md"
    opening, closing = paper_scale_page.MARKS
    shipped = (paper_scale.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    page.write_text(f"before\n{opening}{shipped.partition(opening)[2]}", encoding="utf-8")
    assert closing in page.read_text()
    with pytest.raises(ValueError, match="of size small"):
        paper_scale_page.fill_docs(tmp_path, {**FOUND, "size": "small"})
    paper_scale_page.fill_docs(tmp_path, FOUND)
    assert page.read_text().startswith(f"before\n{opening}\n{paper_scale_page.section(FOUND)}\n{closing}")
    assert json.loads((tmp_path / "docs" / "benchmarks" / "paper-scale.json").read_text()) == FOUND
    for argv, says in (
        (["--size", "small"], "wants --output"),
        (["--size", "paper", "--output", str(tmp_path)], "wants a CUDA device, and --tflops"),
    ):
        with pytest.raises(SystemExit):
            paper_scale.main(argv)
        assert says in capsys.readouterr().err


def test_the_largest_group_fits_by_the_plan_and_is_done_in_time(tmp_path):
    session = Session.__new__(Session)
    session.run = run_of("paper", tmp_path)

    def plan(run):
        size = run.trainer.rollout_batch_size
        assert run.trainer.group_size == size == 4 * run.trainer.micro_batch_size
        return SimpleNamespace(fits=size <= 64, seconds={"rollout": size, "training": 1.0})

    session.plan = plan  # pyright: ignore[reportAttributeAccessIssue]
    for seconds, slower, most, expected in (
        (1e6, 1.0, 1024, 64),
        (40.0, 1.0, 1024, 32),
        (100.0, 2.0, 1024, 32),
        (1e6, 1.0, 32, 32),
        (5.0, 1.0, 1024, None),
    ):
        session.until = paper_scale.time.perf_counter() + seconds
        run = session.largest(slower, most)
        assert (run and run.trainer.group_size) == expected
