"""A headless Chromium, Debian's; without it the tests that need one are skipped."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Set before any script of a page runs: hostile text that ran would be found here, and so would a
# request.
WATCH = """
window.__pwned = [];
window.__requests = [];
for (const name of ["alert", "confirm", "prompt", "open", "fetch"])
  window[name] = () => { window.__pwned.push(name); };
addEventListener("error", (event) => window.__pwned.push("error: " + event.message));
addEventListener("securitypolicyviolation", (event) =>
  window.__requests.push(event.violatedDirective + " " + event.blockedURI));
"""


@dataclass(frozen=True)
class Browser:
    """A page in Chromium."""

    driver: Any

    def open(
        self, page: Path, fragment: str = "", *, width: int = 1280, scheme: str = "light"
    ) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        self.driver.get("about:blank")  # the same file with another fragment would not load anew
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.as_uri() + fragment)
        # On a busy machine `get` may return while the new page is still being read.
        ready = "return document.readyState === 'complete' && location.protocol === 'file:'"
        WebDriverWait(self.driver, 30).until(lambda _: self.run(ready))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.one(selector)).select_by_value(value)

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, its own apart."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("file://", "data:", "about:"))]

    def assert_untouched(self) -> None:
        """No script but the page's ran, nothing was asked for, the console is empty."""
        assert self.run("return window.__pwned") == []
        assert self.run("return window.__requests") == []
        assert self.requests() == []
        assert self.driver.get_log("browser") == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    pytest.importorskip("selenium")
    program, helper = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or helper is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(helper))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    yield Browser(driver)
    driver.quit()
    driver.service.stop()
