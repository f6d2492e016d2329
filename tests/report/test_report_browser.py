from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import made

from landscape.report.report import write_report

pytestmark = pytest.mark.browser

DRAWN = (
    "[...document.querySelectorAll('.surfaces .js-plotly-plot')].filter(d => d._fullLayout?.scene?._scene?.glplot)"
)


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait for ``expression``; the page's own policy forbids playwright's `wait_for_function`."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page in a browser, its errors and its requests."""
    api = pytest.importorskip("playwright.sync_api")
    path = write_report(made.everything(), tmp_path_factory.mktemp("page") / "report.html", title="Surfaces")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        requests: list[str] = []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("request", lambda r: requests.append(r.url))
        page.goto(Path(path).as_uri())
        until(page, f"{DRAWN}.length === 2", 60)
        yield page, errors, requests
        browser.close()


def eye(page: Any, number: int) -> dict[str, float]:
    return page.evaluate(f"document.getElementById('surface-{number}').layout.scene.camera.eye")


def visible(page: Any) -> list[list[bool]]:
    return page.evaluate(
        "[...document.querySelectorAll('.surfaces .js-plotly-plot')].map(d => d.data.map(t => t.visible))"
    )


def drag(page: Any, number: int) -> None:
    page.locator(f"#surface-{number}").scroll_into_view_if_needed()
    box = page.locator(f"#surface-{number} .gl-container canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=5)
    page.mouse.move(x + 120, y + 30, steps=5)
    page.mouse.up()


def test_surfaces_turn_together_by_mouse_and_by_keys(opened: tuple[Any, list[str], list[str]]) -> None:
    page = opened[0]
    before = eye(page, 0)
    drag(page, 0)
    until(page, f"document.getElementById('surface-0').layout.scene.camera.eye.x !== {before['x']}")
    turned = eye(page, 0)
    assert abs(turned["x"] - before["x"]) > 0.05
    until(page, f"document.getElementById('surface-1').layout.scene.camera.eye.x === {turned['x']}")
    page.locator(".surfaces .view").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    until(page, f"document.getElementById('surface-0').layout.scene.camera.eye.x !== {turned['x']}")
    assert eye(page, 0) == pytest.approx(eye(page, 1))


def test_buttons_switch_all_surfaces_to_what_they_say(opened: tuple[Any, list[str], list[str]]) -> None:
    page = opened[0]
    ranges = []
    for i, name in enumerate(["log loss", "loss", "accuracy"]):
        page.get_by_role("button", name=name, exact=True).click()
        until(page, f"document.getElementById('surface-1').data[{i}].visible === true")
        assert visible(page) == [[j == i for j in range(3)]] * 2
        axis = page.evaluate("document.getElementById('surface-0')._fullLayout.scene.zaxis.title.text")
        assert axis == {"log loss": "log₁₀ loss"}.get(name, name)
        both = page.evaluate("[0, 1].map(i => document.getElementById('surface-' + i)._fullLayout.scene.zaxis.range)")
        assert both[0] == both[1]
        ranges.append(tuple(both[0]))
        pressed = page.locator(".buttons button[aria-pressed=true]").all_text_contents()
        assert pressed == [name]
    assert len(set(ranges)) == 3


def test_the_table_sorts_by_value(opened: tuple[Any, list[str], list[str]]) -> None:
    page = opened[0]
    names = page.locator("tbody th")
    for expected, direction in ((["SAM", "SGD"], "ascending"), (["SGD", "SAM"], "descending")):
        page.get_by_role("button", name="method").press("Enter")
        assert names.all_text_contents() == expected
        assert page.locator("thead th").first.get_attribute("aria-sort") == direction


@pytest.mark.parametrize("width", [1200, 390])
def test_surfaces_fit_and_the_page_never_scrolls_sideways(
    opened: tuple[Any, list[str], list[str]], width: int
) -> None:
    page = opened[0]
    page.set_viewport_size({"width": width, "height": 800})
    until(page, f"document.documentElement.scrollWidth <= {width}")
    drawn = "document.getElementById('surface-0').querySelector('.main-svg').getBoundingClientRect().width"
    until(page, f"Math.abs({drawn} - document.querySelector('.surfaces .view').clientWidth) <= 1")
    page.set_viewport_size({"width": 1200, "height": 900})


def test_dark_and_light_have_their_own_ink(opened: tuple[Any, list[str], list[str]]) -> None:
    page = opened[0]
    inks = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        inks.append(page.evaluate("document.getElementById('surface-0').layout.font.color"))
    assert len(set(inks)) == 2


def test_after_all_this_there_is_no_error_and_no_request(opened: tuple[Any, list[str], list[str]]) -> None:
    _, errors, requests = opened
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert sum(url.startswith("file:") for url in requests) == 1
