import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlnsp import cli
from rlnsp.config import ConfigError
from rlnsp.evaluate import Interval
from rlnsp.report import gallery, write_report
from rlnsp.report.page import TEMPLATE, figure, interval, plain, reads
from tests.report.composed import HOSTILE, LONG, make_run

VOID = {"meta", "link", "img", "input", "br"}


class Tree(HTMLParser):
    """What a browser would make of the page: tags, attributes, texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(" ".join(data.split()))

    def all(self, tag, **wanted):
        return [a for name, a in self.tags if name == tag and wanted.items() <= a.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs; the first has contexts that mean harm."""
    home = tmp_path_factory.mktemp("runs")
    return [
        make_run(home / "soft", 0.75, contexts={1: HOSTILE, 2: LONG}),
        make_run(home / "paper", 0.5, seed=1, overrides=["trainer.learning_rate=3e-4"]),
    ]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return write_report(runs[:1], tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_every_tag_is_closed_and_nothing_is_fetched(page, comparison):
    for text in (page, comparison):
        tree = Tree(text)
        assert tree.open == []
        links = [a.get("src") or a.get("href") for _, a in tree.tags if a.get("src") or a.get("href")]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert "url(" not in re.sub(r"url\(#c[0-9a-f]{8}-", "", text)
        assert "@import" not in text
        (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert policy["content"].startswith("default-src 'none'")


def test_names_in_the_page_are_given_once(comparison):
    names = re.findall(r'\sid="([^"]*)"', comparison)
    assert len(names) == len(set(names))


def test_a_context_that_means_harm_is_text(page):
    tree = Tree(page)
    assert len(tree.all("script")) == 1
    assert tree.all("img") == []
    assert " ".join(HOSTILE.split()) in tree.texts
    assert " ".join(LONG.split()) in tree.texts


def test_the_gallery_has_every_scene_with_both_clips_and_the_judges_reasons(page):
    tree = Tree(page)
    assert len(tree.all("video")) == 2 * 16
    assert all(video["data-mp4"] and "src" not in video for video in tree.all("video"))
    assert tree.texts.count("consistent") + tree.texts.count("not consistent") == 2 * 16
    # 4 of 16 are true clips before, 12 after.
    assert tree.texts.count("consistent") == 4 + 12
    assert any("stay where they are" in text for text in tree.texts)
    assert "speed" in tree.texts


def test_a_score_of_several_clips_is_said_to_be_a_mean_and_the_clip_one_of_them(page, runs, tmp_path):
    assert "from different noises" not in page
    run = shutil.copytree(runs[0], tmp_path / "three")
    for path in (run / "evaluations").glob("*.json"):
        kept = json.loads(path.read_text())
        kept["evaluation"]["how"]["seeds"] = [0, 1, 2]
        path.write_text(json.dumps(kept))
    assert "means of 3 clips from different noises" in write_report([run], tmp_path / "r.html").read_text()


def test_the_table_says_what_the_evaluations_found(page):
    texts = Tree(page).texts
    assert any(text.startswith("0.250 [") for text in texts)
    assert any(text.startswith("0.750 [") for text in texts)
    assert any(text.startswith("+0.500 [+") for text in texts)
    assert "better" in texts


def test_what_was_run_is_told_by_its_difference_to_the_nearest_shipped_config(page, comparison):
    texts = Tree(page).texts
    place = texts.index("Against the nearest shipped config,")
    assert texts[place + 1] == "world"
    assert "trainer.num_iterations" in texts[place:]
    assert "2.13.0" in texts
    texts = Tree(comparison).texts
    told = texts[texts.index("Where the runs differ") : texts.index("Against the nearest shipped config,")]
    assert {"seed", "trainer.learning_rate", "0.0003", "0.001"} <= set(told)
    assert "trainer.num_iterations" not in told


def test_a_comparison_has_one_before_and_an_after_a_run(comparison):
    tree = Tree(comparison)
    assert len(tree.all("video")) == 3 * 16
    labels = [text for text in tree.texts if text.endswith("after 40 iterations")]
    assert {"soft: after 40 iterations", "paper: after 40 iterations"} == set(labels)
    assert sum(text.startswith("-0.") for text in tree.texts) >= 1  # paper less soft


def test_time_by_phase_is_a_mean_of_an_iteration(page):
    texts = Tree(page).texts
    assert texts[texts.index("optimise") + 1 :][:2] == ["1.500 s", "54%"]


def test_videos_that_do_not_fit_are_named_and_counted(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 20_000)
    text = write_report(runs[:1], tmp_path / "report.html").read_text(encoding="utf-8")
    embedded = len(Tree(text).all("video"))
    assert 0 < embedded < 32
    assert f"{32 - embedded} clips are not embedded" in text


def test_a_run_under_way_has_a_report(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    for name in ("summary.json", "evaluations/after.json", "evaluations/step-20.json"):
        (run / name).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    text = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "under way" in text
    assert "3 of 40" in text


def test_a_run_that_did_nothing_yet_has_a_report(runs, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(runs[0] / "config.yaml", tmp_path / "run")
    text = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No held-out evaluation was finished." in text
    assert Tree(text).open == []


def test_a_clip_that_is_gone_is_said_to_be(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    gone = sorted((run / "samples").glob("*-after.mp4"))[0]
    gone.unlink()
    assert f"{gone} is not there any more" in write_report([run], tmp_path / "r.html").read_text()


def test_a_damaged_run_is_refused_and_nothing_is_written(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "evaluations" / "after.json").write_text("{")
    with pytest.raises(ConfigError, match="a file of this run cannot be read"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ConfigError, match="is given twice"):
        write_report([runs[0], Path(f"{runs[0]}/")], tmp_path / "report.html")


def test_the_command_writes_into_the_run_or_where_it_is_told(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(runs[0])]) == 0
    assert (runs[0] / "report.html").is_file()
    assert cli.main(["report", *map(str, runs)]) == 0
    assert cli.main(["report", *map(str, runs), "-o", "both.html"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.html", "report.html"]
    assert capsys.readouterr().out.split() == [str(runs[0] / "report.html"), "report.html", "both.html"]


def test_a_sweep_is_told_from_a_run_and_where_its_report_is(runs, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.yaml").write_text("config: world\n")
    assert cli.main(["report", str(sweep)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{sweep}: is a sweep; its own report is {sweep / 'report.html'}" in said


@pytest.mark.parametrize(
    ("change", "lower", "said"),
    [
        ((0.1, 0.3), False, "better"),
        ((0.1, 0.3), True, "worse"),
        ((-0.3, -0.1), False, "worse"),
        ((-0.3, -0.1), True, "better"),
        ((-0.1, 0.3), False, "unclear"),
        ((0.0, 0.0), False, "unclear"),
    ],
)
def test_a_difference_is_called_better_or_worse_only_where_its_interval_leaves_0_out(change, lower, said):
    low, high = change
    assert reads(Interval(mean=(low + high) / 2, low=low, high=high, n=9), lower) == said


def test_numbers_are_written_for_a_reader():
    assert figure(0.12345) == "0.123"
    assert figure(0.5, "+") == "+0.500"
    assert figure(1.5e-5) == "1.5e-05"
    assert figure(None) == figure(float("nan")) == "–"
    assert interval(Interval(mean=0.5, low=0.25, high=0.75, n=3)) == "0.500 [0.250, 0.750]"
    assert [plain(value) for value in (True, None, 3e-4, "cps", [1, 2])] == [
        "true",
        "null",
        "0.0003",
        "cps",
        "[1, 2]",
    ]


def test_the_curves_are_drawn_and_what_is_no_curve_is_not(page):
    names = re.findall(r"<figcaption><b>([^<]*)</b>", page)
    assert names[:3] == ["reward", "nsp_reward", "distance_to_future"]
    assert {"ratio", "clip_fraction", "approx_kl", "grad_norm", "zero_variance_groups", "dropped"} <= set(
        names
    )
    assert not {"iteration", "samples"} & set(names)


def luminance(colour):
    """WCAG 2's relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_and_curves_stand_out_from_what_is_behind_them(scheme):
    """WCAG 2 asks 4.5 of text and 3 of graphics."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATE / "report.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", blocks[scheme]))
    for behind in ("paper", "card"):
        for name in ("ink", "quiet", "accent", "good", "bad"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)
        for number in range(6):
            assert contrast(colours[f"series-{number}"], colours[behind]) >= 3, (number, behind)
