from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import made

from landscape.report.report import write_report
from landscape.report.sections import CAPTIONS

pytestmark = pytest.mark.browser

READY = "document.body.dataset.ready === 'true'"


def until(page: Any, expression: str, seconds: float = 60) -> None:
    """Wait for ``expression``; the page's own policy forbids playwright's `wait_for_function`."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def visit(browser: Any, path: Path) -> tuple[Any, list[str], list[str]]:
    """The page in a browser, its errors and its requests."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))
    page.goto(Path(path).as_uri())
    until(page, READY, 180)
    assert page.evaluate("document.body.dataset.drawn") == ""  # nothing is drawn before it is asked for
    page.evaluate("for (const fold of document.querySelectorAll('details.group, #main details')) fold.open = true")
    until(page, "document.body.dataset.drawn === 'surfaces trajectory curves '", 180)
    return page, errors, requests


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str], list[str]]:
    path = write_report(made.everything(), tmp_path_factory.mktemp("page") / "report.html", title="Surfaces")
    assert path.stat().st_size < 6e6
    return visit(browser, path)


def eye(page: Any, number: int) -> dict[str, float]:
    return page.evaluate(f"document.getElementById('surface-{number}').layout.scene.camera.eye")


def drag(page: Any, number: int) -> None:
    page.locator(f"#surface-{number}").scroll_into_view_if_needed()
    box = page.locator(f"#surface-{number} .gl-container canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=5)
    page.mouse.move(x + 120, y + 30, steps=5)
    page.mouse.up()


def test_every_kind_of_figure_has_its_section_and_a_picture(opened: Any) -> None:
    page = opened[0]
    for kind in CAPTIONS:
        if kind == "accuracy-radius":  # all these trainings have one radius, of which it tells nothing
            assert page.evaluate(f"document.querySelector('#{kind}')") is None
        else:
            assert page.evaluate(f"document.querySelector('#{kind} img').naturalWidth") > 100


def test_surfaces_turn_together_by_mouse_and_by_keys(opened: Any) -> None:
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


def drawn(page: Any, number: int) -> Any:
    return np.array(page.evaluate(f"document.getElementById('surface-{number}').data[0].z"), dtype=float)


def title(page: Any) -> str:
    return page.evaluate("document.getElementById('surface-0')._fullLayout.scene.zaxis.title.text")


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(("quantity", "domain"), [("loss", ""), ("loss", "q"), ("accuracy", "")])
def test_switches_show_what_they_say(opened: Any, quantity: str, domain: str, scale: str) -> None:
    page = opened[0]
    page.locator("#quantity").select_option(quantity)
    page.locator("#domain").select_option(domain)
    page.locator("#scale").select_option(scale)
    words = quantity + (f" of {domain}" if domain else "")
    expected = f"log₁₀ {words}" if scale == "log" else words
    until(page, f"document.getElementById('surface-1')._fullLayout.scene.zaxis.title.text === '{expected}'")
    heights = []
    for number, label in enumerate(("sgd", "sam")):
        stored = made.plane(label, 0).data
        plane = stored["domain_loss"].sel(domain=domain) if domain else stored[quantity]
        values = plane.transpose("y", "x").values
        heights.append(np.log10(values) if scale == "log" else values)
        assert drawn(page, number) == pytest.approx(heights[-1], abs=1e-5)
    low, high = np.min(heights), np.max(heights)
    ranges = page.evaluate("[0, 1].map(i => document.getElementById('surface-' + i)._fullLayout.scene.zaxis.range)")
    assert ranges == [pytest.approx([low, high], abs=1e-5)] * 2


def test_domains_without_the_quantity_cannot_be_chosen(opened: Any) -> None:
    page = opened[0]
    page.locator("#quantity").select_option("accuracy")
    assert page.locator("#domain option[value=q]").is_disabled()
    page.locator("#quantity").select_option("loss")
    assert not page.locator("#domain option[value=q]").is_disabled()


def test_an_optimizer_can_be_taken_out_and_the_range_follows(opened: Any) -> None:
    page = opened[0]
    page.locator("#scale").select_option("linear")
    page.get_by_label("SAM, seed 0 (1 of 2)", exact=True).uncheck()
    until(page, "document.querySelectorAll('.surfaces article')[1].hidden")
    assert page.locator(".surfaces article").nth(0).is_visible()
    assert not page.locator(".surfaces article").nth(1).is_visible()
    page.get_by_label("SAM, seed 0 (1 of 2)", exact=True).check()
    until(page, "!document.querySelectorAll('.surfaces article')[1].hidden")


def test_the_slider_goes_through_the_steps_of_training(opened: Any) -> None:
    page = opened[0]
    stored = [made.domain_curves("sgd", seed).data["loss"].sel(domain="r") for seed in (0, 1)]
    slider = page.locator("#step")
    slider.focus()
    page.keyboard.press("Home")
    for place, step in enumerate((0, 2, 4)):
        until(page, f"document.getElementById('step-text').textContent === '{step}'")
        expected = np.mean([s.sel(step=step) for s in stored])
        row = page.locator("#at-step tbody tr", has=page.get_by_role("rowheader", name="r", exact=True))
        assert float(row.locator("td").first.text_content()) == pytest.approx(expected, rel=5e-3)
        assert page.evaluate("document.getElementById('curves-plot').layout.shapes[0].x0") == step, place
        page.keyboard.press("ArrowRight")


def test_trajectories_have_a_frame_per_checkpoint(opened: Any) -> None:
    page = opened[0]
    counts = "document.getElementById('trajectory-plot')._fullData.slice(1).map(t => t.x.length)"
    assert page.evaluate(counts) == [4, 4]
    page.evaluate("Plotly.animate('trajectory-plot', ['1'], {mode: 'immediate', frame: {duration: 0}})")
    until(page, f"{counts}.every(n => n === 2)")


@pytest.mark.parametrize(("form", "start"), [("PDF", b"%PDF"), ("SVG", b"<?xml"), ("PNG", b"\x89PNG")])
def test_figures_can_be_downloaded(opened: Any, form: str, start: bytes) -> None:
    page = opened[0]
    with page.expect_download() as download:
        page.locator("#eigenvalues").get_by_role("link", name=form, exact=True).click()
    assert download.value.suggested_filename == f"eigenvalues.{form.lower()}"
    assert Path(download.value.path()).read_bytes().startswith(start)


def test_the_table_sorts_by_value(opened: Any) -> None:
    page = opened[0]
    names = page.locator("#table tbody th")
    for expected, direction in ((["SAM", "SGD"], "ascending"), (["SGD", "SAM"], "descending")):
        page.get_by_role("button", name="method").press("Enter")
        assert names.all_text_contents() == expected
        assert page.locator("#table thead th").first.get_attribute("aria-sort") == direction


@pytest.mark.parametrize("width", [1250, 1100, 900, 600, 390])
def test_neither_the_page_nor_its_table_scrolls_sideways(opened: Any, width: int) -> None:
    page = opened[0]
    page.set_viewport_size({"width": width, "height": 800})
    until(page, f"document.documentElement.scrollWidth <= {width}")
    table = "document.querySelector('#table .scroll')"
    until(page, f"{table}.scrollWidth <= {table}.clientWidth")
    inside = "document.getElementById('surface-0').querySelector('.main-svg').getBoundingClientRect().width"
    until(page, f"Math.abs({inside} - document.querySelector('.surfaces .view').clientWidth) <= 1")
    page.set_viewport_size({"width": 1200, "height": 900})


def test_on_paper_there_are_no_controls_and_everything_else(opened: Any) -> None:
    page = opened[0]
    page.emulate_media(media="print")
    for part in ("nav", "#surfaces .controls", ".files"):
        assert not page.locator(part).first.is_visible()
    for part in (".verdict", "#table table", "#contour img", "#provenance", "#surfaces img.paper"):
        assert page.locator(part).first.is_visible()
    assert not page.locator(".surfaces").is_visible()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 0
    page.emulate_media(media="screen")


def test_a_link_opens_what_it_points_to(opened: Any) -> None:
    page = opened[0]
    page.evaluate("document.querySelector('#contour').closest('details').open = false")
    page.locator("nav").get_by_role("link", name="Loss around each network", exact=True).click()
    until(page, "document.querySelector('#contour').closest('details').open")
    until(page, "Math.abs(document.querySelector('#contour').getBoundingClientRect().top) < 200")


def test_few_tab_stops(opened: Any) -> None:
    """Links, buttons, switches, surfaces; a figure only where it is wider than the screen."""
    page = opened[0]
    scrolled = "[...document.querySelectorAll('.scroll')].filter(s => s.tabIndex === 0).length"
    until(page, f"{scrolled} === 0")
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, f"{scrolled} > 5")
    assert page.locator("#contour .hint").is_visible()
    page.set_viewport_size({"width": 1200, "height": 900})
    until(page, f"{scrolled} === 0")
    assert not page.locator("#contour .hint").is_visible()


def test_nothing_is_offered_that_sends_data_away(opened: Any) -> None:
    page = opened[0]
    assert page.locator(".modebar-btn").count() == 0
    configs = "['surface-0', 'trajectory-plot', 'curves-plot'].map(i => document.getElementById(i)._context)"
    for config in page.evaluate(f"{configs}.map(c => [c.showSendToCloud, c.showEditInChartStudio, c.displaylogo])"):
        assert not any(config)


def test_a_finger_scrolls_the_page_until_it_has_tapped(browser: Any, opened: Any, tmp_path: Path) -> None:
    path = write_report([made.plane("sgd", 0), made.plane("sam", 0)], tmp_path / "report.html", title="Touched")
    page = browser.new_page(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page.goto(path.as_uri())
    until(page, READY)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    until(page, "document.body.dataset.drawn.startsWith('surfaces')")
    under = "getComputedStyle(document.getElementById('surface-0')).pointerEvents"
    assert page.evaluate(under) == "none"
    page.locator(".surfaces .view").first.tap()
    until(page, f"{under} === 'auto'")
    page.locator("#surfaces h3").tap()
    until(page, f"{under} === 'none'")
    page.close()


def test_dark_and_light_have_their_own_ink(opened: Any) -> None:
    page = opened[0]
    inks = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        inks.append(page.evaluate("document.getElementById('surface-0').layout.font.color"))
    assert len(set(inks)) == 2


def test_after_all_this_there_is_no_error_and_no_request(opened: Any) -> None:
    _, errors, requests = opened
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert sum(url.startswith("file:") for url in requests) == 1


def test_names_that_try_to_break_out_are_text(browser: Any, tmp_path: Path) -> None:
    path = write_report(made.hostile(("sgd", *made.HOSTILE[:2])), tmp_path / "report.html", title=made.HOSTILE[0])
    page, errors, requests = visit(browser, path)
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert page.locator("h1").text_content() == made.HOSTILE[0]
    assert made.HOSTILE[0] in page.locator("#table tbody").text_content()
    assert made.HOSTILE[0] in page.locator("#at-step tbody").text_content()
    assert made.HOSTILE[0] in page.locator("#domain").text_content()
    page.locator("#domain").select_option(made.HOSTILE[0])
    until(page, "document.getElementById('surface-0')._fullLayout.scene.zaxis.title.text.includes('&lt;img')")
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    page.close()
