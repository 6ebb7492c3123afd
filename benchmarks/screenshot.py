"""Take a picture of a report as a browser shows it, for the README.

    python -m benchmarks.screenshot runs/demo/report.html

Needs Chromium and its driver: apt-get install chromium chromium-driver.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from rlnsp.settings import ConfigError

PICTURE = Path("docs/images/report.png")
WIDTH, HEIGHT = 1200, 900
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_S = 240
"""A browser on a busy machine takes its time."""


def main(argv: list[str] | None = None) -> int:
    """Write the picture of one section; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.screenshot", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("report", type=Path, help="a report.html of rlnsp")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE, metavar="FILE.png", help=f"({PICTURE})")
    parser.add_argument(
        "--section", default="clips", metavar="NAME", help="at the top of the picture (clips)"
    )
    parser.add_argument("--width", type=int, default=WIDTH, metavar="PIXELS", help=f"({WIDTH})")
    parser.add_argument("--dark", action="store_true", help="as where dark pages are preferred")
    args = parser.parse_args(argv)
    if not args.report.is_file():
        raise ConfigError(f"{args.report}: there is no such file; write it with rlnsp report RUN")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        show(driver, args.report, args.width, dark=args.dark)
        driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", args.section)
        time.sleep(2)  # for the clips to have come some way
        driver.save_screenshot(str(args.output))
    print(args.output)
    return 0


def missing() -> list[str]:
    """What ``browser`` needs and is not installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


@contextmanager
def browser() -> Iterator[Chrome]:
    """Headless Chromium with an empty profile, closed afterwards."""
    if missing():
        raise ConfigError(f"not installed: {', '.join(missing())}; apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_page_load_timeout(PATIENCE_S)
            driver.set_script_timeout(PATIENCE_S)
            yield driver
        finally:
            driver.quit()


def show(driver: Chrome, report: Path, width: int, *, dark: bool) -> None:
    """Open a page as a screen of that width shows it, in light or dark."""
    screen = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(report.resolve().as_uri())


if __name__ == "__main__":
    raise SystemExit(main())
