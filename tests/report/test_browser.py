"""The report in a real browser."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.screenshot import PATIENCE_S, browser, main, missing, show
from rlnsp.report import write_report
from rlnsp.report.sweeps import write_sweep_report
from tests.report.composed import HOSTILE, LONG, make_run, sweep_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(missing()), reason="no Chromium; to run these: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of one run, whose contexts mean harm, that of two, and that of a sweep."""
    home = tmp_path_factory.mktemp("browser")
    runs = [
        make_run(home / "soft", 0.75, contexts={1: HOSTILE, 2: LONG}),
        make_run(home / "paper", 0.5, seed=1),
    ]
    return {
        "one": write_report(runs[:1], home / "one.html"),
        "two": write_report(runs, home / "two.html"),
        "sweep": write_sweep_report(sweep_of(runs), home / "sweep.html"),
    }


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


@pytest.fixture
def page(driver, pages):
    """The report of one run, just opened."""
    show(driver, pages["one"], 1600, dark=False)
    return driver


def until(driver, script):
    """Wait until ``script`` returns something true."""
    return WebDriverWait(driver, PATIENCE_S).until(lambda d: d.execute_script(f"return {script}"))


def cards(driver):
    """(scene, change) of every card that is shown, in order."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.card')].filter(card => !card.hidden).map("
        "card => [card.querySelector('bdi').textContent, card.querySelector('.change').textContent])"
    )


def choose(driver, name, value):
    Select(driver.find_element(By.ID, name)).select_by_value(value)


@pytest.mark.parametrize("name", ["one", "two", "sweep"])
def test_it_opens_without_a_complaint_and_fits_the_screen_light_and_dark(driver, pages, name):
    seen = set()
    for width in (390, 1600):
        for dark in (False, True):
            show(driver, pages[name], width, dark=dark)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
            look = "getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
            text = driver.execute_script(f"return {look}", "figure text", "fill")
            seen.add((dark, text, driver.execute_script(f"return {look}", "body", "background-color")))
    assert driver.get_log("browser") == []
    # Two looks, and a chart's words have the colour of the page's.
    assert seen == {
        (False, "rgb(27, 31, 36)", "rgb(255, 255, 255)"),
        (True, "rgb(230, 233, 236)", "rgb(20, 23, 26)"),
    }


def test_markup_in_a_context_does_nothing(page):
    assert page.title == "soft – rlnsp"
    texts = [one.text for one in page.find_elements(By.CSS_SELECTOR, ".context")]
    assert any(text.startswith("<script>document.title") for text in texts)
    heights = page.execute_script(
        "return [...document.querySelectorAll('.context')].map(e => e.clientHeight)"
    )
    assert max(heights) <= 9 * 16


def test_clips_are_loaded_when_they_come_near_and_play(page):
    assert page.execute_script("return document.querySelectorAll('video[src]').length") < 32
    last = "document.querySelector('.card:last-child video')"
    assert not page.execute_script(f"return {last}.src")
    first = "document.querySelector('.card video')"
    page.execute_script(f"{first}.scrollIntoView()")
    assert until(page, f"{first}.currentTime > 0 && !{first}.paused")
    assert page.execute_script(f"return [{first}.videoWidth, {first}.videoHeight]") == [64, 64]
    page.execute_script(f"{last}.scrollIntoView()")
    assert until(page, f"{last}.currentTime > 0")
    assert until(page, f"{first}.paused")  # out of sight
    page.find_element(By.ID, "play").click()
    assert until(page, "[...document.querySelectorAll('video')].every(video => video.paused)")
    assert page.get_log("browser") == []


def test_scenes_are_sorted_by_change_and_worst_first(page):
    evaluated = cards(page)
    assert len(evaluated) == 16
    choose(page, "sort", "worst")
    worst = [
        view.split(":")[0]
        for view in page.execute_script(
            "return [...document.querySelectorAll('.card')].map(card => card.dataset.views.split(' ')[1])"
        )
    ]
    assert worst == sorted(worst)
    assert worst[0] == "0.0"
    choose(page, "sort", "gain")
    gained = cards(page)
    # 4 clips of 16 were right before, 12 after.
    assert [change for _, change in gained] == ["+1.000"] * 8 + ["+0.000"] * 8
    # Of equal gains, the one of more checks comes first.
    shares = page.execute_script(
        "return [...document.querySelectorAll('.card')].map(card => card.dataset.views.split(' ')).map("
        "([before, after]) => after.split(':')[1] - before.split(':')[1])"
    )
    assert shares[:8] == sorted(shares[:8], reverse=True)
    assert shares[0] > shares[7] > 0
    choose(page, "sort", "loss")
    assert [change for _, change in cards(page)] == ["+0.000"] * 8 + ["+1.000"] * 8
    choose(page, "sort", "order")
    assert cards(page) == evaluated
    choose(page, "show", "gained")
    assert len(cards(page)) == 8
    assert page.find_element(By.ID, "count").text == "8 of 16 scenes"
    choose(page, "show", "lost")
    assert cards(page) == []


def test_two_policies_of_a_comparison_can_be_sorted_against_each_other(driver, pages):
    show(driver, pages["two"], 1600, dark=False)
    labels = [one.text for one in Select(driver.find_element(By.ID, "from")).options]
    assert labels == ["before", "soft: after 40 iterations", "paper: after 40 iterations"]
    choose(driver, "from", "1")
    choose(driver, "sort", "loss")
    # Of four scenes soft has three right, paper two.
    assert [change for _, change in cards(driver)] == ["-1.000"] * 4 + ["+0.000"] * 12


def test_clips_of_a_sweeps_cells_play_and_are_sorted_against_each_other(driver, pages):
    show(driver, pages["sweep"], 1600, dark=False)
    views = "document.querySelectorAll('.card:first-child .view')"
    assert driver.execute_script(f"return {views}.length") == 7  # before, and after of six cells
    last = f"[...{views}].at(-1).querySelector('video')"
    driver.execute_script(f"{last}.scrollIntoView()")
    assert until(driver, f"{last}.currentTime > 0")
    choose(driver, "from", "1")
    choose(driver, "to", "2")  # the worse one
    choose(driver, "sort", "loss")
    assert float(cards(driver)[0][1].split()[0].replace("−", "-")) < 0
    assert driver.get_log("browser") == []


def test_everything_can_be_reached_and_done_with_the_keyboard(page):
    body = page.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("class") == "skip"
    reached = set()
    for _ in range(30):
        page.switch_to.active_element.send_keys(Keys.TAB)
        here = page.switch_to.active_element
        reached.add(here.get_attribute("id") or here.tag_name)
    assert {"a", "sort", "show", "speed", "play", "video"} <= reached
    assert not {"from", "to"} & reached  # of one run there is one comparison
    first = page.find_element(By.CSS_SELECTOR, ".card video")
    script = "document.querySelector('.card video')"
    page.execute_script(f"{script}.scrollIntoView()")
    assert until(page, f"{script}.currentTime > 0 && !{script}.paused")
    first.send_keys(Keys.ENTER)
    assert until(page, f"{script}.paused")
    for _ in range(12):
        first.send_keys(Keys.ARROW_LEFT)
    assert until(page, f"{script}.currentTime === 0")
    first.send_keys(Keys.ARROW_RIGHT)
    assert until(page, f"Math.abs({script}.currentTime - 1 / 8) < 1e-6")


def test_a_picture_of_the_page_can_be_taken(pages, tmp_path):
    assert main([str(pages["one"]), "-o", str(tmp_path / "images" / "report.png"), "--dark"]) == 0
    assert (tmp_path / "images" / "report.png").stat().st_size > 10_000
