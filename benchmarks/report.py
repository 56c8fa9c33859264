"""The report's page: `python -m benchmarks.report` measures how large that of 500 requests of 500
tokens is, and how long it takes to write and to open in a headless Chromium.

Answers are made up (tests/report/folders.py): two methods, every round traced.  "open" is from the
start of the navigation until the list of answers is on the page and the browser has painted it;
"item" from a click on an item until its tokens are painted.  `--pictures COMPARED SWEPT` makes
those of the README, from output folders of `fly compare --trace` and `fly sweep`.  Needs selenium,
chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

from fly.report import write_report
from fly.workbench import environment
from tests.report import folders

RESULT = Path(__file__).parent / "results" / "report.json"
NUM_REQUESTS, NUM_TOKENS, METHODS = 500, 500, ("target", "fly")
NUM_OPENINGS = 7
IMAGES = Path("docs/images")
WIDTH, HEIGHT = 1280, 960
SETTLE_S = 1.5  # until the page has drawn
LOOSE, FRONTIER = ".tokens .t.l", "#plots figure"

_PAINTED = """
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
"""
_CLICKED = """
const done = arguments[arguments.length - 1], begin = performance.now();
document.querySelectorAll("#list a")[arguments[0]].click();
const look = () => document.querySelector(".answer .t")
  ? requestAnimationFrame(() => done(performance.now() - begin)) : setTimeout(look);
look();
"""


def browser() -> Any:
    """Headless Chromium, light scheme."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={WIDTH},{HEIGHT}")
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def main() -> None:
    """Take pictures, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, nargs=2, metavar=("COMPARED", "SWEPT"))
    parser.add_argument("--item", default="fly_demo_math/3", help="whose tokens are shown")
    arguments = parser.parse_args()
    driver = browser()
    try:
        if arguments.pictures:
            compared, swept = arguments.pictures
            take_pictures(driver, compared, swept, arguments.item)
        else:
            measure(driver)
    finally:
        driver.quit()


def take_pictures(driver: Any, compared: Path, swept: Path, item: str) -> None:
    """A loosened token of a comparison, and a sweep's frontier."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    driver.get(f"{write_report(compared).resolve().as_uri()}#item={item}")
    time.sleep(SETTLE_S)
    [first, *_] = driver.find_elements(By.CSS_SELECTOR, LOOSE)
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", first
    )
    time.sleep(SETTLE_S)
    driver.save_screenshot(str(IMAGES / "report.png"))
    driver.get(write_report(swept).resolve().as_uri())
    time.sleep(SETTLE_S)
    driver.find_element(By.CSS_SELECTOR, FRONTIER).screenshot(str(IMAGES / "sweep.png"))


def measure(driver: Any) -> None:
    """Write a page, open it, and keep what that took."""
    with tempfile.TemporaryDirectory() as name:
        folder = folders.write_comparison(
            Path(name),
            tasks=["gsm8k"],
            num_items=NUM_REQUESTS,
            num_tokens=NUM_TOKENS,
            methods=METHODS,
        )
        begin = time.perf_counter()
        page = write_report(folder)
        seconds_write = time.perf_counter() - begin
        openings, items = _open(driver, page)
        result = environment.describe("python -m benchmarks.report") | {
            "browser": f"Chromium {driver.capabilities['browserVersion']}",
            "requests": NUM_REQUESTS,
            "tokens": NUM_TOKENS,
            "methods": list(METHODS),
            "traced": True,
            "page_mib": round(page.stat().st_size / 2**20, 2),
            "answers_mib": round((folder / "answers.jsonl").stat().st_size / 2**20, 2),
            "seconds_write": round(seconds_write, 2),
            "seconds_open": [round(seconds, 3) for seconds in openings],
            "seconds_open_median": round(statistics.median(openings), 3),
            "seconds_item": [round(seconds, 3) for seconds in items],
            "seconds_item_median": round(statistics.median(items), 3),
        }
    text = json.dumps(result, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


def _open(driver: Any, page: Path) -> tuple[list[float], list[float]]:
    """Seconds of every opening and of the first item opened then."""
    openings, items = [], []
    for number in range(NUM_OPENINGS):
        driver.get("about:blank")
        driver.get(page.as_uri())
        # performance.now() counts from the start of the navigation; the script ran before `get`
        # returned, so the list is there.
        openings.append(driver.execute_async_script(_PAINTED) / 1000)
        items.append(driver.execute_async_script(_CLICKED, number) / 1000)
    return openings, items


if __name__ == "__main__":
    main()
