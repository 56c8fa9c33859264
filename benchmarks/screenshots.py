"""The README's pictures, from real reports: `python benchmarks/screenshots.py COMPARED SWEPT`, two
output folders of `fly compare --trace` and `fly sweep`.  Needs Chromium and its driver."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from fly.report import write_report

IMAGES = Path("docs/images")
WIDTH, HEIGHT = 1280, 960
SETTLE_S = 1.5  # until the page has drawn
LOOSE, FRONTIER = ".tokens .t.l", "#plots figure"


def browser() -> webdriver.Chrome:
    """Headless Chromium, light scheme."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={WIDTH},{HEIGHT}")
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def main() -> None:
    """Open both reports and save what the README shows of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compare", type=Path)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--item", default="fly_demo_math/3", help="whose tokens are shown")
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    driver = browser()
    try:
        page = write_report(arguments.compare).resolve().as_uri()
        driver.get(f"{page}#item={arguments.item}")
        time.sleep(SETTLE_S)
        [first, *_] = driver.find_elements(By.CSS_SELECTOR, LOOSE)
        driver.execute_script(
            "arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", first
        )
        time.sleep(SETTLE_S)
        driver.save_screenshot(str(IMAGES / "report.png"))
        driver.get(write_report(arguments.sweep).resolve().as_uri())
        time.sleep(SETTLE_S)
        driver.find_element(By.CSS_SELECTOR, FRONTIER).screenshot(str(IMAGES / "sweep.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
