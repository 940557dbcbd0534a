"""The page in a real browser: asked, followed, opened, filtered, and without a service.

A picture of it is left as `build/explorer.png`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, Route, expect, sync_playwright
from search_parts import FakeEncoders, write_bundle
from serving_parts import HOSTILE, RAN, Running, running

from processor.ultimate_embedder.retrieval.quality import QualityCard, figures

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
PICTURE = Path(__file__).resolve().parents[2] / "build" / "explorer.png"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


class Watch:
    """A page, what it logged, and where its requests went."""

    def __init__(self, browser: Browser, served: Running, **options: object) -> None:
        self.page: Page = browser.new_context(
            **{"viewport": DESK, "locale": "en-GB", **options}
        ).new_page()
        self.page.set_default_timeout(30_000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(served.address)
        self.served = served

    def ask(self, query: str) -> None:
        self.page.fill("#query", query)
        self.page.press("#query", "Enter")
        self.page.locator("#status", has_text=" ms").wait_for()

    def titles(self, stage: str) -> list[str]:
        hits = self.page.locator(f".column[data-stage={stage}] .hit")
        return [hit.get_attribute("data-id") or "" for hit in hits.all()]

    def close(self) -> None:
        self.page.context.close()


@pytest.fixture
def watch(browser: Browser, served: Running) -> Iterator[Watch]:
    found = Watch(browser, served)
    yield found
    foreign = [url for url in found.requests if not url.startswith(served.address)]
    assert not foreign, "a request left for another host"
    found.close()


def test_a_question_fills_four_columns_joined_by_lines(watch: Watch) -> None:
    watch.ask("filter by payload")
    for stage in ("dense", "fused", "reranked"):
        assert len(watch.titles(stage)) == 10
    assert len(watch.titles("sparse")) == 3  # those that share a word
    assert watch.page.locator("#lines path").count() > 10
    first = watch.page.locator(".column[data-stage=fused] .hit").first
    first.hover()
    chunk = first.get_attribute("data-id")
    lit = watch.page.locator(".hit.on")
    assert {hit.get_attribute("data-id") for hit in lit.all()} == {chunk}
    assert lit.count() >= 2
    assert watch.page.locator("#lines path.on").count() >= 1
    assert watch.problems == []
    PICTURE.parent.mkdir(exist_ok=True)
    watch.page.screenshot(path=PICTURE, full_page=True)


def test_what_was_asked_is_asked_again_after_a_reload(watch: Watch) -> None:
    watch.ask("scroll points")
    before = watch.titles("fused")
    watch.page.reload()
    watch.page.wait_for_selector(".hit")
    assert watch.page.input_value("#query") == "scroll points"
    assert watch.titles("fused") == before
    assert not any("scroll" in url for url in watch.requests)


def test_a_chunk_opens_with_its_text_and_closes(watch: Watch) -> None:
    watch.ask("filter by payload")
    watch.page.locator(".column[data-stage=fused] .hit").first.click()
    detail = watch.page.locator("#detail")
    assert "filter by payload" in detail.locator("#detail-text").inner_text()
    assert detail.locator("#detail-text mark").count() >= 2
    assert "reranked" in detail.locator("#detail-stages").inner_text()
    focused = "document.activeElement.dataset.id"
    opened = watch.titles("fused")[0]
    watch.page.keyboard.press("Escape")
    assert not detail.is_visible()
    assert watch.page.evaluate(focused) == opened
    watch.page.keyboard.press("Enter")
    watch.page.click("#close")
    assert not detail.is_visible()
    assert watch.page.evaluate(focused) == opened
    assert watch.problems == []


def test_neighbours_are_walked_and_the_way_back_keeps_its_marks(
    browser: Browser, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "files", per_file=3, rerank=RAN)
    with running(tmp_path, bundle=bundle) as served:
        watch = Watch(browser, served)
        watch.ask("quantize vectors")
        hits = [hit for hit in watch.titles("fused") if hit.endswith(":chunk:1")]
        card = f".column[data-stage=fused] .hit[data-id='{hits[0]}']"
        watch.page.locator(card).click()
        place = watch.page.locator("#detail-place")
        expect(place).to_contain_text("chunk 2 of 3")
        marks = watch.page.locator("#detail-text mark").count()
        watch.page.click("#after")
        expect(place).to_contain_text("chunk 3 of 3")
        assert watch.page.locator("#after").is_disabled()
        focused = watch.page.evaluate("document.activeElement.id")
        assert focused == "detail-text"  # the button under the finger is off
        assert not watch.page.locator("#detail-stages").is_visible()
        watch.page.click("#before")
        expect(place).to_contain_text("chunk 2 of 3")
        assert watch.page.locator("#detail-text mark").count() == marks
        assert watch.page.locator("#detail-stages").is_visible()
        assert watch.problems == []
        watch.close()


def hold(watch: Watch, address: str) -> list[Route]:
    """Keep requests to an address from now on; return them as they come."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    watch.page.route(address, keep)
    return held


def write_while_starting(watch: Watch, words: str) -> list[Route]:
    """Load the page and write words; return what it waits for before it can ask."""
    held = hold(watch, "**/collections")
    with watch.page.expect_request("**/collections"):
        watch.page.reload()
    watch.page.fill("#query", words)
    return held


def test_a_chunk_that_comes_late_does_not_replace_the_one_that_is_open(
    watch: Watch,
) -> None:
    watch.ask("filter by payload")
    held = hold(watch, "**/chunks/**")
    hits = watch.page.locator(".column[data-stage=fused] .hit")
    for place in (0, 1):
        with watch.page.expect_request("**/chunks/**"):
            hits.nth(place).click()
        if not place:
            watch.page.keyboard.press("Escape")
    for route in reversed(held):
        with watch.page.expect_response("**/chunks/**"):
            route.continue_()
    place_of = watch.page.locator("#detail-place")
    expect(place_of).to_contain_text("chunk 1 of 1")
    assert watch.titles("fused")[1] in place_of.inner_text()


def test_an_answer_that_breaks_off_for_a_newer_one_is_not_told_of(watch: Watch) -> None:
    watch.ask("filter by payload")
    watch.page.evaluate(
        """() => {
          const real = window.fetch;
          let held = false;
          window.told = 0;
          const problem = document.getElementById('problem');
          new MutationObserver(() => { window.told += !problem.hidden; })
            .observe(problem, { attributes: true });
          window.fetch = (path, options) => {
            if (path !== '/search' || held) return real(path, options);
            held = true;
            const { signal } = options;
            return Promise.resolve(new Response(new ReadableStream({
              start: (body) => {
                signal.addEventListener('abort', () => body.error(signal.reason));
              },
            })));
          };
        }"""
    )
    watch.page.fill("#query", "scroll points")
    watch.page.press("#query", "Enter")
    expect(watch.page.locator("#status")).to_have_text("Searching …")
    watch.ask("snapshot a shard")
    assert watch.page.evaluate("window.told") == 0
    assert watch.titles("fused")
    assert watch.problems == []


def test_a_reranker_that_lacks_is_told_and_the_rest_is_shown(
    browser: Browser, tmp_path: Path
) -> None:
    with running(tmp_path, FakeEncoders(["rerank"]), warm=True) as served:
        watch = Watch(browser, served)
        watch.ask("filter by payload")
        assert len(watch.titles("fused")) == 10
        absent = watch.page.locator(".column[data-stage=reranked] .absent")
        assert "No rerank model here" in absent.inner_text()
        assert watch.page.locator("#rerank").is_disabled()
        assert not watch.page.locator("#quality").is_visible()  # it has no card
        watch.close()


def test_another_collection_is_asked_and_answers_of_the_former_are_dropped(
    browser: Browser, tmp_path: Path
) -> None:
    lone = write_bundle(tmp_path / "lone", texts=[("x", "a lone shard", 1)])
    with running(tmp_path, others={"lone": lone}) as served:
        watch = Watch(browser, served)
        held = hold(watch, "**/search")
        with watch.page.expect_request("**/search"):
            watch.page.fill("#query", "copies of a shard")
            watch.page.press("#query", "Enter")
        watch.page.fill("#query", "")
        watch.page.select_option("#collection", "lone")
        watch.page.unroute("**/search")
        for route in held:
            with suppress(Error):  # the page asks for it no more
                route.continue_()
        watch.page.wait_for_timeout(300)
        assert watch.page.locator(".column").count() == 0
        watch.ask("copies of a shard")
        assert watch.titles("fused") == ["docs:x:000.md:chunk:0"]
        absent = watch.page.locator(".column[data-stage=reranked] .absent")
        assert "Rerank was off" in absent.inner_text()
        assert "collection=lone" in watch.page.url
        watch.close()


def test_a_question_asked_before_the_page_has_started_starts_it_once(
    browser: Browser, tmp_path: Path
) -> None:
    lone = write_bundle(tmp_path / "lone", texts=[("x", "a lone shard", 1)])
    with running(tmp_path, others={"lone": lone}) as served:
        watch = Watch(browser, served)
        held = hold(watch, "**/collections")
        watch.page.reload()
        watch.page.fill("#query", "copies of a shard")
        for _ in range(3):
            watch.page.press("#query", "Enter")
        watch.page.wait_for_timeout(100)
        assert len(held) == 1
        held[0].continue_()
        watch.page.locator("#status", has_text=" ms").wait_for()
        assert watch.titles("fused")
        watch.close()


def test_the_quality_card_shows_each_stages_figures_or_why_there_are_none(
    watch: Watch,
) -> None:
    ranks = [1, 2, 5, None] * 10
    cards = [
        QualityCard(
            seed=0,
            probes=40,
            kinds={"heading": 40},
            stages=(figures("fused", ranks, depth=10),),
            remarks=("<b>Few</b> questions.",),
        ),
        QualityCard(seed=0, probes=0, remarks=("No question can be made of it.",)),
    ]

    def with_card(route: Route) -> None:
        body = route.fetch().json()
        body["collections"][0]["quality"] = cards.pop(0).model_dump(mode="json")
        route.fulfill(json=body)

    watch.page.route("**/collections", with_card)
    card = watch.page.locator("#quality")
    for row, remark in ((1, "<b>Few</b> questions."), (0, "No question can be made")):
        watch.page.reload()
        card.locator("summary").click()
        expect(card).to_contain_text(remark)
        assert card.locator("tr:has(td)").count() == row
        if row:
            cells = card.locator("td").all_inner_texts()
            assert cells == ["fused", "", "0.504", "0.425", "0.750", "40"]
            bar = card.locator(".bar").get_attribute("aria-label")
            assert bar is not None
            assert bar.startswith("0.504, from 0.")
    assert watch.problems == []


def test_a_bundle_without_texts_and_with_long_names_fits_a_phone(
    browser: Browser, tmp_path: Path
) -> None:
    texts = [("x" * 150, f"a shard and {n}", n) for n in range(60)]
    bundle = write_bundle(tmp_path / "bare", texts=texts, exports=("npy",), rerank=RAN)
    with running(tmp_path, bundle=bundle) as served:
        watch = Watch(browser, served, viewport=PHONE)
        watch.page.locator("#rerank:disabled:not(:checked)").wait_for()
        watch.page.select_option("#top-k", "50")
        watch.ask("shard")
        assert len(watch.titles("fused")) == 50
        width = "document.documentElement.scrollWidth"
        assert watch.page.evaluate(width) <= PHONE["width"]
        card = watch.page.locator(".column.chosen .hit").first
        assert "holds no texts" in card.inner_text()
        card.click()
        watch.page.locator("#detail-source").wait_for()
        assert "holds no texts" in watch.page.locator("#detail-text").inner_text()
        inside = (
            "(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))"
        )
        assert watch.page.evaluate(inside)
        assert watch.problems == []
        watch.close()


def test_folders_and_switches_filter(watch: Watch) -> None:
    watch.ask("monitor a node")
    watch.page.select_option("#subdir", "guides more")
    column = watch.page.locator(".column[data-stage=fused]")
    expect(column.locator(".hit:not([data-id*=':guides more:'])")).to_have_count(0)
    assert watch.titles("fused")
    watch.page.uncheck("#sparse")
    watch.page.wait_for_selector(".column[data-stage=sparse] .absent")
    assert watch.titles("fused") == []
    assert watch.titles("reranked")


def test_the_keyboard_is_enough(watch: Watch) -> None:
    page = watch.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("quantize vectors")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    focused = "document.activeElement.dataset.id"
    column = "document.activeElement.closest('.column').dataset.stage"
    page.keyboard.press("ArrowDown")
    first = watch.titles("dense")[0]
    assert (page.evaluate(focused), page.evaluate(column)) == (first, "dense")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == watch.titles("dense")[1]
    page.keyboard.press("ArrowUp")
    assert first in watch.titles("sparse")
    page.keyboard.press("ArrowRight")
    assert (page.evaluate(focused), page.evaluate(column)) == (first, "sparse")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == first


def test_words_still_being_written_when_the_page_starts_are_not_asked(
    watch: Watch,
) -> None:
    held = write_while_starting(watch, "copies of")
    before = len(watch.requests)
    for route in held:
        route.continue_()
    watch.page.locator("#subdir option").nth(1).wait_for(state="attached")
    watch.ask("copies of a shard")
    asked = [url for url in watch.requests[before:] if url.endswith("/search")]
    assert len(asked) == 1
    assert watch.titles("fused")


def test_who_walks_over_chunks_keeps_a_place_when_a_newer_answer_comes(
    watch: Watch,
) -> None:
    watch.ask("filter by payload")
    held = hold(watch, "**/search")
    with watch.page.expect_request("**/search"):
        watch.page.press("#query", "Enter")
    watch.page.press("#query", "ArrowDown")
    watch.page.keyboard.press("ArrowDown")
    with watch.page.expect_response("**/search"):
        held[0].continue_()
    expect(watch.page.locator("#status")).to_contain_text(" ms")
    focused = "document.activeElement.dataset.id"
    assert watch.page.evaluate(focused) == watch.titles("dense")[1]


def test_who_opened_a_chunk_is_back_at_it_though_a_newer_answer_came(
    watch: Watch,
) -> None:
    watch.ask("filter by payload")
    held = hold(watch, "**/search")
    with watch.page.expect_request("**/search"):
        watch.page.press("#query", "Enter")
    watch.page.locator(".column[data-stage=fused] .hit").nth(1).click()
    with watch.page.expect_response("**/search"):
        held[0].continue_()
    expect(watch.page.locator("#status")).to_contain_text(" ms")
    watch.page.keyboard.press("Escape")
    expect(watch.page.locator("#detail")).to_be_hidden()
    opened = watch.titles("fused")[1]
    there = watch.page.locator(".column[data-stage=fused] .hit:focus")
    expect(there).to_have_attribute("data-id", opened)


def test_after_a_failure_who_walked_over_chunks_is_at_the_question(
    watch: Watch,
) -> None:
    watch.ask("filter by payload")
    watch.page.press("#query", "ArrowDown")
    watch.page.route("**/search", lambda route: route.abort())
    watch.page.evaluate("document.getElementById('ask').requestSubmit()")
    watch.page.locator("#problem").wait_for()
    assert watch.page.evaluate("document.activeElement.id") == "query"


def test_a_changed_setting_asks_nothing_before_the_page_has_started(
    watch: Watch,
) -> None:
    held = write_while_starting(watch, "copies of")
    watch.page.select_option("#top-k", "20")
    before = len(watch.requests)
    for route in held:
        route.continue_()
    watch.page.locator("#subdir option").nth(1).wait_for(state="attached")
    watch.page.wait_for_timeout(200)
    assert not [url for url in watch.requests[before:] if url.endswith("/search")]


def test_hostile_text_stays_text(watch: Watch) -> None:
    query = "<script>document.title='owned'</script> shard copied <b>x</b>"
    watch.ask(query)
    hostile = [hit for hit in watch.titles("fused") if ":027.md:" in hit]
    assert hostile, "the hostile chunk was not found"
    watch.page.locator(f".column.chosen .hit[data-id='{hostile[0]}']").click()
    watch.page.locator("#detail-source").wait_for()
    assert watch.page.locator("#detail-text").inner_text() == HOSTILE
    marked = watch.page.locator("#detail-text mark").all_inner_texts()
    assert "shard" in marked  # behind two characters outside the basic plane
    assert watch.page.title() == "Search, stage by stage"
    assert watch.page.locator("#detail img, #columns img, #columns script").count() == 0
    assert watch.problems == []


def test_a_service_that_stopped_is_told_of(watch: Watch) -> None:
    watch.ask("filter by payload")
    watch.served.stop()
    watch.page.fill("#query", "something else")
    watch.page.click("#go")
    problem = watch.page.locator("#problem")
    problem.wait_for()
    assert "does not answer" in problem.inner_text()
    assert problem.get_attribute("role") == "alert"
    assert watch.titles("fused") == []  # they answered something else


def test_a_service_that_comes_back_is_asked_again(watch: Watch) -> None:
    watch.page.route("**/collections", lambda route: route.abort())
    watch.page.reload()
    expect(watch.page.locator("#problem")).to_contain_text("does not answer")
    watch.page.unroute("**/collections")
    watch.ask("filter by payload")
    assert watch.titles("fused")
    assert not watch.page.locator("#problem").is_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_one_ranking_is_shown_and_nothing_overflows(
    browser: Browser, served: Running, *, dark: bool
) -> None:
    scheme = "dark" if dark else "light"
    watch = Watch(browser, served, viewport=PHONE, color_scheme=scheme)
    watch.ask("filter by payload")
    assert watch.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert watch.page.locator(".column:visible").count() == 1
    watch.page.click("#tabs button[data-tab=sparse]")
    assert watch.page.locator(".column[data-stage=sparse]").is_visible()
    ground = watch.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    assert watch.problems == []
    watch.close()


def test_every_control_has_a_name_for_screen_readers(watch: Watch) -> None:
    watch.ask("filter by payload")
    nameless = watch.page.evaluate(
        """[...document.querySelectorAll('button, input, select, section, nav')]
           .filter((one) => one.offsetParent !== null)
           .filter((one) => !(one.getAttribute('aria-label')
             || (one.tagName === 'BUTTON' && one.textContent.trim())
             || [...(one.labels || [])].some((label) => [...label.childNodes].some(
                  (part) => part !== one && part.textContent.trim()))))
           .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert watch.page.locator("#status[role=status]").count() == 1


def test_a_token_is_asked_for_and_used(browser: Browser, tmp_path: Path) -> None:
    token = "a-token-of-some-length"  # noqa: S105 - of a test
    with running(tmp_path, token=token) as served:
        watch = Watch(browser, served)
        watch.page.wait_for_selector("#token-form")
        watch.page.fill("#token", token)
        watch.page.press("#token", "Enter")
        watch.page.wait_for_selector("#token-form", state="hidden")
        watch.ask("filter by payload")
        assert watch.titles("fused")
        watch.close()


def test_the_page_of_the_interface_works_without_other_hosts(
    browser: Browser, served: Running
) -> None:
    watch = Watch(browser, served)
    watch.page.goto(served.address + "/docs")
    watch.page.wait_for_selector("text=/search")
    assert all(url.startswith((served.address, "data:")) for url in watch.requests)
    assert watch.problems == []
    watch.close()
