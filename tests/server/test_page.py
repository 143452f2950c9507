"""The live page in a real browser: Debian's Chromium without a window."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from neverblink.memory.journal import STOP_WORDS
from tests.server.running import Server

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
LIT = """() => {
  const c = document.getElementById("video");
  return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 !== 3 && v > 60);
}"""
PALE = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const c = rgb(getComputedStyle(one).backgroundColor);
      if (c.length < 4 || c[3] > 0.9) return c;
    }
    return [255, 255, 255];
  };
  const all = document.querySelectorAll("button, a, p, h1, h2, h3, strong, time, small, output, .chip, .tile span");
  return [...all].filter((one) => one.textContent.trim() && one.offsetParent).map((one) => {
    const pair = [light(rgb(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), one.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""
NEWER = "n => Number([...document.querySelectorAll('#timeline .moment')].at(-1).dataset.row) > n + 1"
LONG = 60_000  # ms: a busy machine; nothing here measures time


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    assert path, "the page's tests need Chromium: apt-get install chromium (scripts/test does)"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose errors and requests are looked at in the end."""
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.set_default_timeout(LONG)
    expect.set_options(timeout=LONG)
    tab.wrong, tab.hosts = [], set()
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on("console", lambda line: tab.wrong.append(line.text) if line.type == "error" else None)
    tab.on("request", lambda request: tab.hosts.add(request.url.split("/")[2]))
    yield tab
    tab.close()


def rows(page: Any) -> list[int]:
    return page.eval_on_selector_all("#timeline .moment", "all => all.map(one => Number(one.dataset.row))")


def test_a_visitor_watches_asks_searches_and_looks_back(server: Server, pong: str, page: Any) -> None:
    page.goto(f"{server.url}/#{pong}")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#badge")).to_have_text("LIVE")
    for hidden in ("#empty", "#past", "#panel-alerts", "#tolive"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator(".tile[aria-current=true] b")).to_have_text("Pong")
    first = len(rows(page))
    page.wait_for_function("n => document.querySelectorAll('#timeline .moment').length > n + 1", arg=first)
    page.wait_for_function(LIT)

    page.keyboard.press("a")
    page.keyboard.type("What is the score?")
    page.keyboard.press("Enter")
    expect(page.locator(".qa .m")).to_contain_text("first word after")
    asked = len(rows(page))
    page.wait_for_function("n => document.querySelectorAll('#timeline .moment').length > n", arg=asked)

    words: list[str] = []
    while not words:  # a model of random weights does not say a word every second
        page.wait_for_function("n => document.querySelectorAll('#timeline .moment').length > n", arg=len(rows(page)))
        lines = server.call(f"/v1/journal?stream={pong}&limit=1000")["lines"]
        said = [w for line in lines if line["type"] == "caption" for w in line["text"].split()]
        words = [w for w in said if w.isalnum() and w.lower() not in STOP_WORDS]
    page.locator("#search").fill(words[0])
    expect(page.locator("#found")).to_contain_text("found, best first")
    page.locator("#timeline .moment").first.click()
    expect(page.locator("#badge")).to_have_text("LOOKING BACK")
    expect(page.locator("#past")).to_be_visible()
    expect(page.locator("#timeline .moment").first).to_have_attribute("aria-current", "true")
    page.locator("#tolive").click()
    expect(page.locator("#badge")).to_have_text("LIVE")

    page.locator("#tab-alerts").click()
    page.locator("#alert-text").fill("*")
    page.locator("#alert button").click()
    expect(page.locator("#told .moment").first).to_be_visible()
    mine = page.get_by_role("button", name="Delete the alert *", exact=True)  # other tests share the server
    mine.click()
    expect(mine).to_have_count(0)
    assert [] == page.wrong
    assert {f"127.0.0.1:{server.port}"} == page.hosts


def test_streams_are_started_from_the_page(server: Server, page: Any) -> None:
    """A game, and the browser's own camera, whose frames the model sees; both are deleted by keyboard and click."""
    before = {stream["id"] for stream in server.call("/v1/streams")["streams"]}
    page.goto(server.url)
    page.on("dialog", lambda dialog: dialog.accept())
    expect(page.locator("#link")).to_have_text("live")
    page.locator("#url").evaluate("one => one.blur()")
    page.keyboard.press("n")
    expect(page.locator("#start")).to_be_visible()
    page.get_by_role("button", name="Boxing").click()
    expect(page.locator("#start")).to_be_hidden()
    expect(page.locator("#name")).to_have_text("Boxing")
    page.locator("#new").click()
    page.locator("#by-camera").click()
    expect(page.locator("#name")).to_have_text("This device's camera")
    new = [stream["id"] for stream in server.call("/v1/streams")["streams"] if stream["id"] not in before]
    assert 2 == len(new)
    server.watched(new[1], 2)
    page.locator("#new").click()
    page.locator("#url").fill("ftp://x")
    page.locator("#by-url button").click()
    expect(page.locator("#start-trouble")).to_contain_text("a source is arcade:GAME")
    page.keyboard.press("Escape")
    page.locator("#delete").click()
    expect(page.locator("#name")).not_to_have_text("This device's camera")
    assert all("422" in wrong for wrong in page.wrong), page.wrong
    server.call(f"/v1/streams/{new[0]}", "DELETE")


def test_the_page_outlives_its_server(page: Any, tmp_path: Path) -> None:
    """The server stops and comes back: the page goes on by itself, and shows every line once."""
    with Server(tmp_path, max_streams=1) as server:
        stream_id = server.start(source="arcade:pong")
        page.goto(server.url)
        expect(page.locator("#link")).to_have_text("live")
        page.wait_for_selector("#timeline .moment")
    expect(page.locator("#link")).to_contain_text("connection lost")
    with Server(tmp_path, port=server.port, max_streams=1) as server:
        expect(page.locator("#link")).to_have_text("live")
        last = rows(page)[-1]
        page.wait_for_function(NEWER, arg=last)
        shown = rows(page)
        lines = server.call(f"/v1/journal?stream={stream_id}&limit=1000")["lines"]
        told = [line["row"] for line in lines if line["row"] <= shown[-1]]
        kept = [line["row"] for line in lines if line["type"] == "question"]
        assert shown == sorted(set(shown))
        assert set(told) <= set(shown) | set(kept)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_names_for_everything(server: Server, pong: str, browser: Any, scheme: str) -> None:
    """Every control has a name that a screen reader can say, and text stands out from its ground (WCAG AA, 4.5 : 1)."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    page.goto(f"{server.url}/#{pong}")
    expect(page.locator("#badge")).to_have_text("LIVE", timeout=LONG)
    nameless = """() => [...document.querySelectorAll('button, a, input, select')].filter(one =>
      !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"""
    assert [] == page.evaluate(nameless)
    assert [] == page.evaluate(PALE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over a phone's edge"
    page.close()
