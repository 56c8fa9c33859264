"""How large the report of 500 requests of 500 tokens is, and how long it takes to write and to open
in a headless Chromium.

    python -m benchmarks.report

Answers are made up (tests/report/folders.py): two methods, every round traced.  "open" is from the
start of the navigation until the list of answers is on the page and the browser has painted it;
"item" from a click on an item until its tokens are painted.  Needs selenium, chromium and
chromedriver.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium import webdriver

from fly.report import write_report
from tests.report import folders

RESULT = Path(__file__).parent / "results" / "report.json"
NUM_REQUESTS, NUM_TOKENS, METHODS = 500, 500, ("target", "fly")
NUM_OPENINGS = 7

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


def main() -> None:
    """Measure, print and keep."""
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
        openings, items, version = _open(page)
        result = {
            "command": "python -m benchmarks.report",
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "platform": platform.platform(terse=True),
            "browser": version,
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


def _open(page: Path) -> tuple[list[float], list[float], str]:
    """Seconds of every opening and of the first item opened then, and the browser's version."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver: Any = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    openings, items = [], []
    for number in range(NUM_OPENINGS):
        driver.get("about:blank")
        driver.get(page.as_uri())
        # performance.now() counts from the start of the navigation; the script ran before `get`
        # returned, so the list is there.
        openings.append(driver.execute_async_script(_PAINTED) / 1000)
        items.append(driver.execute_async_script(_CLICKED, number) / 1000)
    version = driver.capabilities["browserVersion"]
    driver.quit()
    return openings, items, f"Chromium {version}"


if __name__ == "__main__":
    main()
