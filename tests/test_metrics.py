import json

from rlnsp.metrics import MetricsFile


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", counter="step")
    for step in (1, 2, 3):
        metrics.append({"step": step, "loss": step / 10})
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "los')  # the process was killed here
    metrics.forget_after(2)
    metrics.append({"step": 3, "loss": float("nan")})
    rows = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}, {"step": 3, "loss": None}]


def test_a_new_run_begins_with_an_empty_file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", counter="iteration")
    metrics.forget_after(0)
    assert metrics.path.read_text() == ""
