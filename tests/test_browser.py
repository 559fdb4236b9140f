"""The browser other tests use does what they rely on."""

import functools
import http.server
import threading

import pytest

pytestmark = pytest.mark.chromium

PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><title>A page</title>
<style>@media (prefers-color-scheme: dark) { body { background: rgb(1, 2, 3) } }</style>
<button onclick="this.textContent = 'clicked'">click me</button>
<svg><title>wait for me</title></svg>
<p id="late"></p><script>setTimeout(() => { late.textContent = "wait for me" }, 300)</script>
<script>console.log("fine"); console.error("not fine"); throw new Error("thrown")</script>"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    return path


def test_a_page_is_seen_clicked_and_heard(browser, page, tmp_path):
    with browser.open(page, width=390, height=500, dark=True) as tab:
        assert tab.page.title() == "A page"
        assert tab.page.evaluate("innerWidth") == 390
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(1, 2, 3)"
        )
        tab.page.get_by_role("button", name="click me").click()
        tab.wait_for_text("clicked")
        tab.wait_for_text("wait for me")
        assert tab.text().split() == ["clicked", "wait", "for", "me"]
        assert tab.errors == ["not fine", "thrown"]
        assert tab.requests == [page.as_uri()]
        tab.page.screenshot(path=tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    with browser.open(page) as tab:
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgba(0, 0, 0, 0)"
        )


def test_a_server_is_asked(browser, page):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=page.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with browser.open(f"{url}/page.html") as tab:
                assert tab.page.title() == "A page"
                assert tab.requests[0] == f"{url}/page.html"
        finally:
            server.shutdown()
            thread.join()
