"""The page in a real browser: filters, tokens and links by mouse and by keyboard, hostile text, and
what axe finds."""

import importlib.resources
import json

import pytest

from fly.report import write_report
from tests.report import folders

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>window.__pwned.push('script')</script>",
    "</script><script>window.__pwned.push('closed')</script>",
    "<img src=x onerror=\"window.__pwned.push('img')\">",
    "<svg onload=window.__pwned.push('svg')>",
    "javascript:window.__pwned.push('url')",
    '"><style>body{display:none}</style><link rel=stylesheet href=http://localhost/x.css>',
    "{{ 7 * 7 }}${7 * 7}",
    "a\u202eb\u2066c\u2069\u200f",
    "\x00\x1b[31m\x07",
    "]]>-->'\"`\\",
    "x" * 5000,
    "\u2028\u2029\n",
    "",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(folders.write_comparison(tmp_path_factory.mktemp("compare")))


@pytest.fixture(scope="module")
def untraced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untraced")
    folders.write_comparison(folder, tasks=["gsm8k"], num_items=5, is_traced=False)
    return write_report(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    name = HOSTILE[1]
    origins = "mlcb"
    made = (HOSTILE, "".join(origins[at % 4] for at in range(len(HOSTILE))), [(9, 8)], None)
    reordered = (HOSTILE[::-1], "p" * len(HOSTILE), [], None)
    prompt = "\n".join(HOSTILE)
    extra = [
        folders.answer(name, name, 0, prompt, made, {}),
        folders.answer("target", name, 0, prompt, reordered, {}),
    ]
    folder = tmp_path_factory.mktemp("hostile")
    folders.write_comparison(folder, tasks=[name], num_items=2, num_tokens=20, extra=extra)
    return write_report(folder)


def keys_shown(browser):
    return [one.text for one in browser.all("#list .name")]


def test_opens_with_a_list_and_a_quiet_console(browser, page):
    browser.open(page)
    assert browser.text("#count") == "120 items of 120"
    assert len(keys_shown(browser)) == 40
    assert browser.all(".answer .t") == []
    browser.assert_untouched()


def test_pages_of_the_list(browser, page):
    browser.open(page)
    first = keys_shown(browser)
    assert not browser.one("#back").is_enabled()
    browser.one("#on").click()
    assert browser.text("#where") == "41 to 80"
    assert not set(first) & set(keys_shown(browser))
    browser.one("#on").click()
    assert not browser.one("#on").is_enabled()


def test_filters(browser, page):
    browser.open(page)
    browser.choose("#task", "2")
    assert browser.text("#count") == "60 items of 120"
    assert all(key.startswith("humaneval_instruct/") for key in keys_shown(browser))
    browser.choose("#task", "1")
    browser.choose("#show", "wrong")
    keys = keys_shown(browser)
    assert keys[:2] == ["gsm8k/3", "gsm8k/10"]
    assert all(int(key.split("/")[1]) % 7 == 3 for key in keys)
    browser.choose("#show", "right")
    assert keys_shown(browser)[0] == "gsm8k/5"
    browser.choose("#method", "1")  # native loses nothing
    assert browser.text("#count") == "0 items of 120"
    browser.choose("#show", "all")
    assert browser.text("#count") == "60 items of 120"


def test_most_loose_tokens_first(browser, page):
    browser.open(page)
    browser.choose("#order", "loose")
    counts = [int(one.text.split()[0]) for one in browser.all("#list .small")]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 1


def test_search_by_id_prompt_and_answer(browser, page):
    browser.open(page)
    wait = "return document.getElementById('count').textContent"
    box = browser.one("#search")
    box.send_keys("Question 17:")
    assert until(browser, wait, "2 items of 120")
    box.clear()
    box.send_keys("GSM8K/42")
    assert until(browser, wait, "1 item of 120")
    assert keys_shown(browser) == ["gsm8k/42"]


def until(browser, script, wanted):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser.driver, 10).until(lambda _: browser.run(script) == wanted)


def test_hovering_a_loose_token_tells_what_the_target_thought(browser, page):
    browser.open(page, "#item=gsm8k%2F3")
    browser.hover(browser.one(".answer .t.l"))
    told = browser.text(".inspector")
    for part in (
        "loose",
        "Target preferred",
        "by the target",
        "Entropy",
        "Window",
        "matched behind",
    ):
        assert part in told
    assert "5 tokens" in told
    browser.hover(browser.one(".answer .t.c"))
    assert "Refused because" in browser.text(".inspector")
    browser.hover(browser.one(".answer .t.m"))
    assert "the target's own choice" in browser.text(".inspector")
    browser.assert_untouched()


def test_everything_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    browser.run("document.querySelector('#list a').focus()")
    browser.press(Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)
    # The page follows a link's fragment by an event, which may come after the keys' end.
    assert until(browser, "return document.activeElement.id", "item-title")
    assert browser.text("#item-title") == "gsm8k/3"
    for _ in range(20):
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement.matches('.answer .t')"):
            break
    index = "return Number(document.activeElement.dataset.i)"
    first = browser.run(index)
    assert f"Token {first + 1} of" in browser.text(".inspector")
    browser.press(Keys.ARROW_RIGHT)
    second = browser.run(index)
    assert second > first
    assert f"Token {second + 1} of" in browser.text(".inspector")
    browser.press(Keys.END)
    assert browser.run(index) > second
    browser.press(Keys.ARROW_RIGHT)  # at the end: stays
    browser.press(Keys.HOME)
    assert browser.run(index) == first
    browser.press(Keys.TAB)  # leaves: no trap
    assert not browser.run("return document.activeElement.matches('.answer .t')")


def test_first_tab_offers_to_skip_the_navigation(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press(Keys.ENTER)
    assert until(browser, "return document.activeElement.id", "main")


def test_side_by_side_with_the_target(browser, page):
    browser.open(page, "#item=gsm8k%2F3")
    rows = browser.run(
        """const cells = [...document.querySelectorAll(".pair > .tokens")];
        const kept = (cell) => [...cell.querySelectorAll(".t:not(.d)")].map((t) => t.textContent);
        return cells.map(kept)"""
    )
    assert len(rows) > 4
    assert rows[0::2] == rows[1::2]  # what is not marked is the same on both sides
    own = browser.run("return document.querySelectorAll('.pair .own .t').length")
    assert own == 120
    loose = browser.run("return document.querySelectorAll('.pair .t.l').length")
    assert browser.run("return document.querySelectorAll('.pair .t.l.d').length") == loose > 0


@pytest.mark.parametrize(("toggle", "selector"), [("isBeside", ".pair"), ("hasRounds", ".rounds")])
def test_toggles(browser, page, toggle, selector):
    browser.open(page, "#item=gsm8k%2F3")
    assert browser.all(selector)
    browser.one(f"[data-toggle={toggle}]").click()
    assert browser.all(selector) == []
    assert browser.run("return document.activeElement.dataset.toggle") == toggle


def test_other_method_of_the_same_item(browser, page):
    browser.open(page, "#item=gsm8k%2F3")
    browser.one("#answer input[value='2']").click()
    assert browser.all(".pair") == []
    assert len(browser.all(".answer .t.p")) == 120


def test_links_to_items(browser, page):
    browser.open(page, "#item=humaneval_instruct%2F50&method=1")
    assert browser.text("#item-title") == "humaneval_instruct/50"
    assert browser.run("return document.querySelector('#answer input:checked').value") == "1"
    link = browser.one("#answer .link").get_attribute("href")
    assert link.endswith("#item=humaneval_instruct%2F50&method=1")
    browser.run("location.hash = '#item=gsm8k/7'")
    assert until(browser, "return document.getElementById('item-title').textContent", "gsm8k/7")
    browser.open(page, "#item=gsm8k%2F999")
    assert "no such item" in browser.text("#answer")
    browser.open(page, "#item=%E0%A4%A")
    assert "no such item" in browser.text("#answer")
    browser.assert_untouched()


def test_without_a_trace_the_page_says_how_to_get_one(browser, untraced):
    browser.open(untraced, "#item=gsm8k%2F3")
    browser.hover(browser.one(".answer .t.c"))
    assert "--trace" in browser.text(".inspector")
    browser.assert_untouched()


def test_older_schema_opens(browser, tmp_path):
    from tests.formats.test_reading import older

    folder = folders.write_comparison(tmp_path, tasks=["gsm8k"], num_items=4)
    older(folder / "answers.jsonl")
    browser.open(write_report(folder), "#item=gsm8k%2F3")
    assert "origins are not known" in browser.text("#answer")
    assert len(browser.all(".answer .t")) == 240
    browser.hover(browser.one(".answer .t"))
    assert "another engine" in browser.text(".inspector")
    browser.assert_untouched()


@pytest.mark.parametrize("make", [folders.write_sweep, folders.write_run])
def test_sweeps_and_runs_open(browser, tmp_path, make):
    browser.open(write_report(make(tmp_path)), "#item=gsm8k%2F3")
    assert browser.text("#item-title") == "gsm8k/3"
    assert browser.all("figure svg")
    browser.assert_untouched()


def test_hostile_text_does_nothing(browser, hostile):
    browser.open(hostile)
    task = browser.run("return JSON.parse(document.getElementById('data').textContent).tasks[0]")
    assert task == HOSTILE[1]
    browser.run("document.querySelector('#list li:last-child a').click()")
    assert until(browser, "return document.querySelectorAll('.pair').length", 1)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for token in browser.all(".answer > :not(.own) .t"):
        browser.run(
            "arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", token
        )
        browser.run("arguments[0].click()", token)
    shown = browser.text(".answer")
    assert HOSTILE[0] in shown
    for sign in ("⟦U+202E⟧", "⟦U+2066⟧", "⟦U+200F⟧", "␀", "␛[31m", "⟦U+2028⟧"):
        assert sign in shown
    everything = browser.run("return document.body.innerText")
    assert not set(everything) & set("\u202e\u2066\u2069\u200f\x00\x1b\x07")
    markup = "return document.querySelectorAll('body img, body link, body style, [onload]').length"
    assert browser.run(markup) == 0
    assert browser.run("return document.scripts.length") == 2
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.run(wide) == 0
    browser.assert_untouched()


@pytest.mark.parametrize("width", [390, 360])
def test_a_phone_need_not_scroll_sideways(browser, page, width):
    browser.open(page, "#item=gsm8k%2F3", width=width)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.run(wide) == 0


def small_comparison(folder):
    return folders.write_comparison(folder, num_items=4, num_tokens=60)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("make", [small_comparison, folders.write_sweep])
def test_axe_finds_nothing_serious(browser, tmp_path, make, width, scheme):
    pytest.importorskip("axe_selenium_python")
    axe = importlib.resources.files("axe_selenium_python") / "node_modules/axe-core/axe.min.js"
    browser.open(write_report(make(tmp_path)), "#item=gsm8k%2F3", width=width, scheme=scheme)
    browser.hover(browser.one(".answer .t.l"))
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.run(axe.read_text(encoding="utf-8"))
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done)"
    )
    serious = [
        (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == [], json.dumps(serious, indent=1)
    assert len(found["passes"]) > 15  # it did look
