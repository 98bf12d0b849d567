"""The web page in a real browser: headless Chromium, driven by playwright."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serkit.edge.affect import expected_affect
from serkit.edge.audio import FakeSource, FileSource, Source
from serkit.edge.events import Event
from serkit.edge.listener import Listener, listen
from serkit.edge.sinks.web import WebPage, WebSettings

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt install chromium fonts-dejavu-core", allow_module_level=True)

CLIP = Path(__file__).parents[2] / "edge" / "demo" / "clip.flac"
SHIFTS = """
new Promise(resolve => new PerformanceObserver(list => resolve(list.getEntries().map(e => e.value)))
  .observe({type: "layout-shift", buffered: true}) ?? setTimeout(() => resolve([]), 300))
"""
# how well things stand out from a card, as WCAG counts it
CONTRAST = """([selector, property]) => [...document.querySelectorAll(selector)].map(e => {
    const light = colour => {
        const [r, g, b] = colour.match(/[0-9.]+/g).map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const card = light(getComputedStyle(document.querySelector("section")).backgroundColor);
    const own = light(getComputedStyle(e)[property]);
    return (Math.max(card, own) + 0.05) / (Math.min(card, own) + 0.05);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to be root with it
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visit:
    """One tab, with what it complained about and where it went."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.tab = browser.new_page(**options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.clock.install()  # runs as usual, but can be put forward
        self.tab.goto(address)
        expect(self.tab.get_by_role("main")).to_be_visible()

    def answer(self, text: str) -> None:
        expect(self.tab.locator("#answer")).to_have_text(text)


@contextmanager
def opened(settings: WebSettings | None = None) -> Iterator[tuple[WebPage, Listener]]:
    page = WebPage(settings or WebSettings(port=0))
    with listen(lambda rate: FakeSource(np.zeros(rate, np.float32), rate), sinks=[page]) as listener:
        yield page, listener


@pytest.fixture
def running() -> Iterator[tuple[WebPage, Listener]]:
    with opened() as pair:
        yield pair


@pytest.fixture
def visit(browser: Any, running: tuple[WebPage, Listener]) -> Iterator[Visit]:
    """A tab on the page, which must not have complained or left its origin in the end."""
    visit = Visit(browser, str(running[0].address))
    yield visit
    assert visit.complaints == []
    assert all(url.startswith(str(running[0].address)) for url in visit.requests)
    visit.tab.close()


def heard(time_s: float, emotion: str = "happy", p: float = 0.72) -> Event:
    other = "sad" if emotion != "sad" else "calm"
    probabilities = {emotion: p, other: 1 - p}
    arousal, valence = expected_affect(probabilities) or (None, None)
    return Event(
        time_s=time_s,
        kind="emotion",
        emotion=emotion,
        confidence=p,
        probabilities=probabilities,
        model="m",
        arousal=arousal,
        valence=valence,
        speech_ratio=0.9,
        level_dbfs=-20.0,
    )


def silent(time_s: float) -> Event:
    return Event(time_s=time_s, kind="silence", model="m", speech_ratio=0.0, level_dbfs=-70.0)


class Hurried(Source):
    """A file, several times as fast as it was spoken."""

    def __init__(self, path: Path, sample_rate: int, speed: float) -> None:
        super().__init__(sample_rate, 512)
        self._file, self._speed = FileSource(path, sample_rate, 512), speed

    def close(self) -> None:
        self._file.close()

    def _blocks(self) -> Iterator[Any]:
        for block in self._file:
            time.sleep(len(block) / self.sample_rate / self._speed)
            yield block


def test_a_recording_is_seen_from_its_audio_to_the_page(browser: Any) -> None:
    page = WebPage(WebSettings(port=0))
    with listen(lambda rate: Hurried(CLIP, rate, speed=8), sinks=[page]) as listener:
        visit = Visit(browser, str(page.address))
        visit.tab.evaluate(
            """() => {
                window.seen = [];
                const answer = document.getElementById("answer");
                new MutationObserver(() => window.seen.push(answer.textContent)).observe(answer, {childList: true});
            }"""
        )
        events: list[Event] = []
        thread = threading.Thread(target=lambda: events.extend(listener))
        thread.start()
        while thread.is_alive() and len(set(visit.tab.evaluate("window.seen"))) < 2:
            visit.tab.wait_for_timeout(50)
        visit.tab.get_by_role("button", name="Mute").click()
        visit.answer("muted")
        while thread.is_alive():
            visit.tab.wait_for_timeout(50)
        thread.join()
        seen = set(visit.tab.evaluate("window.seen")) - {"muted", "listening"}
        assert seen <= {event.answer.replace("silence", "no speech") for event in events}
        assert events[-1].message == "muted"  # it was the microphone that was muted, not the page alone
        assert any(event.kind == "status" and event.message == "muted" for event in events)
        expect(visit.tab.locator("#messages")).to_contain_text("muted")
        assert visit.complaints == []
        visit.tab.close()


def test_the_page_shows_what_an_event_says(visit: Visit, running: tuple[WebPage, Listener]) -> None:
    page, listener = running
    tab = visit.tab
    visit.answer("listening")
    listener.health.latency_ms = 34.6
    page.send(heard(3.0))
    visit.answer("happy")
    expect(tab).to_have_title("happy \u2013 serkit")
    expect(tab.get_by_text("confidence 72 %")).to_be_visible()
    expect(tab.get_by_role("meter", name="happy")).to_have_attribute("aria-valuetext", "72 %")
    expect(tab.get_by_role("meter", name="sad")).to_have_attribute("aria-valuenow", "28")
    expect(tab.get_by_role("meter", name="angry")).to_have_attribute("aria-valuetext", "not known now")
    expect(tab.get_by_role("meter", name="Level")).to_have_attribute("aria-valuetext", "\u221220 dB")
    expect(tab.locator("#speech")).to_have_text("speech")
    expect(tab.get_by_role("img", name="arousal +0.44, valence +0.44")).to_be_visible()
    expect(tab.get_by_text("35 ms")).to_be_visible()
    listener.health.audio_s += 0.5
    page.send(silent(3.5))
    expect(tab.locator("#speech")).to_have_text("no speech")
    visit.answer("happy")  # still there to be read
    tab.clock.fast_forward(2000)
    visit.answer("no speech")
    listener.health.audio_s += 0.5
    listener.health.windows += 1
    listener.health.scored += 1  # somebody speaks; the answer comes when they pause
    visit.answer("listening")
    expect(tab.locator("#speech")).to_have_text("speech")
    page.send(Event(time_s=4.0, kind="unsure", confidence=0.3, probabilities={"calm": 0.3, "sad": 0.2}, model="m"))
    visit.answer("unsure")
    expect(tab.get_by_text("perhaps calm, 30 %")).to_be_visible()
    page.send(Event(time_s=4.0, kind="status", model="m", message="microphone: lost"))
    expect(tab.get_by_role("list", name="Messages")).to_contain_text("microphone: lost")
    for _ in range(2):
        tab.clock.fast_forward(2500)
        page.send(silent(4.5))
    expect(tab.locator("#speech")).to_have_text("no audio")


def test_the_microphone_is_muted_by_button_and_key(visit: Visit, running: tuple[WebPage, Listener]) -> None:
    page, listener = running
    page.send(heard(1.0))
    visit.answer("happy")
    visit.tab.get_by_role("button", name="Mute").click()
    visit.answer("muted")
    assert listener.muted
    expect(visit.tab.get_by_role("button", name="Unmute")).to_be_visible()
    expect(visit.tab).to_have_title("muted \u2013 serkit")
    visit.tab.keyboard.press("m")
    visit.answer("happy")
    assert not listener.muted
    visit.tab.keyboard.press("Control+m")
    visit.tab.keyboard.press("Shift+M")
    visit.answer("muted")
    assert listener.muted
    listener.mute(False)  # from elsewhere
    expect(visit.tab.get_by_role("button", name="Mute", exact=False)).to_contain_text("Mute")
    visit.answer("happy")


def test_a_reload_keeps_the_timeline(visit: Visit, running: tuple[WebPage, Listener]) -> None:
    page, _ = running
    for i in range(4):
        page.send(heard(0.5 * i, "happy" if i < 2 else "sad"))
    page.send(Event(time_s=2.0, kind="status", model="m", message="microphone: back"))
    page.send(heard(2.5, "sad"))
    visit.tab.reload()
    visit.answer("sad")
    lane = visit.tab.locator(".lane")
    expect(lane.filter(has_text="happy").locator("rect")).to_have_count(1)
    expect(lane.filter(has_text="sad").locator("rect")).to_have_count(1)
    expect(lane.filter(has_text="angry").locator("rect")).to_have_count(0)
    expect(visit.tab.get_by_role("img", name="Answers of the last 5 minutes: ")).to_have_attribute(
        "aria-label", "Answers of the last 5 minutes: happy 1 s, sad 1 s"
    )
    visit.tab.get_by_text("As a list").click()
    expect(visit.tab.locator("#runs li")).to_have_count(2)
    expect(visit.tab.locator("#runs li").first).to_contain_text("sad, 1 s")
    expect(visit.tab.locator("#messages li")).to_contain_text(["microphone: back"])


def test_the_page_outlives_a_restart_of_the_server(browser: Any) -> None:
    with opened() as (page, _):
        visit = Visit(browser, str(page.address))
        page.send(heard(1.0))
        visit.answer("happy")
        port = int(str(page.address).rstrip("/").rpartition(":")[2])
    banner = visit.tab.get_by_role("alert")
    expect(banner).to_contain_text("Connection lost")
    expect(visit.tab).to_have_title("not connected \u2013 serkit")
    visit.tab.keyboard.press("m")
    expect(banner).to_contain_text("as far as known the microphone is NOT muted")
    with opened(WebSettings(port=port)) as (page, listener):
        expect(banner).to_be_hidden(timeout=15_000)
        page.send(heard(1.0, "sad"))
        visit.answer("sad")
        happy = visit.tab.locator(".lane").filter(has_text="happy")
        expect(happy.locator("rect")).to_have_count(1)  # from before
        visit.tab.keyboard.press("m")
        visit.answer("muted")
        assert listener.muted
        visit.tab.close()


def test_a_page_behind_a_token(browser: Any) -> None:
    with opened(WebSettings(port=0, token="open-sesame")) as (page, listener):
        visit = Visit(browser, f"{page.address}?token=open-sesame")
        assert visit.tab.url == page.address
        visit.tab.keyboard.press("m")
        visit.answer("muted")
        assert listener.muted
        visit.tab.reload()
        visit.answer("muted")
        visit.tab.context.clear_cookies()
        stranger = browser.new_page()
        stranger.goto(str(page.address))
        expect(stranger.get_by_text("open the address with ?token=")).to_be_visible()
        stranger.close()
        assert visit.complaints == []
        port = int(str(page.address).rstrip("/").rpartition(":")[2])
    with opened(WebSettings(port=port, token="another-word")):
        expect(visit.tab.get_by_role("alert")).to_contain_text("needs its token again", timeout=15_000)
    visit.tab.close()


def test_labels_are_text(visit: Visit, running: tuple[WebPage, Listener]) -> None:
    page, listener = running
    nasty = "<img src=x onerror=alert(1)>"
    listener.answers = (nasty, "__proto__", "constructor")
    visit.tab.reload()
    expect(visit.tab.locator("#bars li")).to_have_count(3)
    page.send(heard(1.0, nasty))
    page.send(Event(time_s=1.0, kind="status", model="m", message=nasty))
    visit.answer(nasty)
    assert visit.tab.locator("img[src]").count() == 0
    expect(visit.tab.get_by_role("meter", name="constructor")).to_have_attribute("aria-valuetext", "not known now")


def test_the_page_can_be_read_and_used_without_eyes_or_mouse(visit: Visit, running: tuple[WebPage, Listener]) -> None:
    page, _ = running
    tab = visit.tab
    page.send(heard(1.0))
    assert tab.locator("html").get_attribute("lang") == "en"
    expect(tab.get_by_role("banner")).to_be_visible()
    expect(tab.get_by_role("heading", level=1)).to_have_text("serkit")
    for name in ("Now", "Probabilities", "Last 5 minutes", "Arousal and valence", "Messages", "Listening"):
        expect(tab.get_by_role("region", name=name)).to_have_count(1)
    expect(tab.get_by_role("status")).to_have_text("happy")  # announced
    for i in range(4):
        page.send(heard(1.5 + i, p=0.6 + 0.01 * i))
    assert tab.locator("[aria-live], [role=alert], [role=status]").count() == 2
    reached = []
    for _ in range(3):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.localName"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["mute", "summary", "messages"]
    tab.get_by_role("button", name="Mute").focus()
    tab.keyboard.press("Space")
    expect(tab.get_by_role("status")).to_have_text("muted")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("status")).to_have_text("happy")


@pytest.mark.parametrize(("width", "height", "scheme"), [(360, 740, "dark"), (1280, 800, "light")])
def test_the_page_fits_holds_still_and_can_be_told_from_its_ground(
    browser: Any, width: int, height: int, scheme: str
) -> None:
    with opened() as (page, _):
        size = {"width": width, "height": height}
        visit = Visit(browser, str(page.address), viewport=size, color_scheme=scheme, reduced_motion="reduce")
        tab = visit.tab
        for i, answer in enumerate(("happy", "surprised", "distressed", "a very long label indeed", "sad")):
            page.send(heard(0.5 * i, answer))
            visit.answer(answer)
        assert min(tab.evaluate(CONTRAST, ["#bars .fill", "backgroundColor"])) > 3
        assert min(tab.evaluate(CONTRAST, ["h2, dt, dd, .label, summary, #confidence", "color"])) > 4.5
        tab.keyboard.press("m")
        visit.answer("muted")
        assert sum(tab.evaluate(SHIFTS)) < 0.01
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        box = tab.get_by_role("button", name="Unmute").bounding_box()
        assert box["y"] + box["height"] < height / 2  # at hand without scrolling
        assert tab.evaluate("getComputedStyle(document.querySelector('.fill')).transitionDuration") == "0s"
        tab.close()
