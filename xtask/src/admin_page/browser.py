"""The page `/admin` in Chromium, as a reader meets it: `browser.py OPEN_URL KEYED_URL KEY CHROMIUM OUT`.

OPEN_URL is a server that asks nobody for a key, KEYED_URL one that knows KEY as an administrator's. Violations of the
content security policy arrive as errors of the console; any such error fails, and so does a script that throws.
"""

import json
import pathlib
import sys

from playwright.sync_api import expect, sync_playwright

open_url, keyed_url, key, chromium, out = sys.argv[1:]
out = pathlib.Path(out)
HOSTILE = "<img src=x onerror=\"window.hacked=1\">"


def watched(context, problems, expected=()):
    page = context.new_page()

    def heard(message):
        if message.type in ("error", "warning") and not any(part in message.text for part in expected):
            problems.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: problems.append(str(error)))
    return page


def live(page):
    expect(page.locator("#state-text")).to_have_text("live", timeout=20_000)


def chat(page):
    page.get_by_role("tab", name="Chat").click()
    page.locator("#chat-tokens").fill("30")
    page.locator("#chat-text").fill("Once upon a time")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-note")).to_contain_text("tokens in", timeout=30_000)
    assert len(page.locator("#messages .assistant").inner_text()) > 10


def fits(page, name):
    """Nothing but tables scrolls sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is {wide} pixels too wide"


def pictures(browser, problems):
    for scheme in ("light", "dark"):
        for device, width, height in (("desktop", 1280, 900), ("phone", 390, 844)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
            page = watched(context, problems)
            page.goto(f"{open_url}/admin")
            live(page)
            chat(page)
            page.screenshot(path=out / f"chat-{device}-{scheme}.png", full_page=True)
            fits(page, "chat")
            page.get_by_role("tab", name="Models").click()
            page.screenshot(path=out / f"models-{device}-{scheme}.png", full_page=True)
            fits(page, "models")
            page.get_by_role("tab", name="Overview").click()
            expect(page.locator("#slowest tbody tr").first).to_contain_text("req-", timeout=10_000)
            expect(page.locator("#rate")).not_to_have_text("–", timeout=10_000)
            page.wait_for_timeout(2500)  # two points make a line
            page.screenshot(path=out / f"overview-{device}-{scheme}.png", full_page=True)
            fits(page, "overview")
            context.close()


def keyboard(browser, problems):
    context = browser.new_context()
    page = watched(context, problems)
    page.goto(f"{open_url}/admin")
    live(page)
    page.locator("#tab-overview").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#models")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#chat")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "tab-chat"
    page.keyboard.press("Home")
    expect(page.locator("#overview")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "key-open"
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#key-dialog")).to_be_hidden()
    context.close()


def hostile_names(browser, problems):
    context = browser.new_context()
    page = watched(context, problems)

    def changed(route):
        answer = route.fetch()
        stats = answer.json()
        stats["models"][0]["id"] = stats["models"][0]["kernel"] = HOSTILE
        for request in stats["slowest_requests"]:
            request["request_id"] = HOSTILE
        route.fulfill(response=answer, body=json.dumps(stats))

    page.route("**/v1/stats", changed)
    page.goto(f"{open_url}/admin")
    live(page)
    expect(page.locator("#slowest tbody td").first).to_have_text(HOSTILE)
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#model-list tbody td").first).to_have_text(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('td img').length") == 0
    context.close()


def keys(browser, problems):
    context = browser.new_context()
    # Chromium tells refused requests in the console too.
    page = watched(context, problems, expected=("status of 401", "status of 403", "status of 404", "status of 422",
                                                "status of 400"))
    page.goto(f"{keyed_url}/admin")
    expect(page.locator("#key-dialog")).to_be_visible(timeout=10_000)
    page.screenshot(path=out / "key.png")
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#state-text")).to_contain_text("not valid", timeout=10_000)
    page.get_by_role("button", name="API key").click()
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    live(page)
    assert page.evaluate("JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])") == '[0,0,""]'
    assert key not in page.url and key not in page.content()
    page.get_by_role("tab", name="Models").click()
    page.locator("#load-path").fill("/nowhere/model.gguf")
    page.locator("#load-id").fill("other")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#manage-answer")).not_to_have_text("…", timeout=20_000)
    told = page.locator("#manage-answer").inner_text()
    assert told, "the answer to loading is shown"
    print(f"loading a path that is not allowed: {told}")
    page.locator("#swap-path").fill("/nowhere/model.gguf")
    page.get_by_role("button", name="Swap", exact=True).click()
    page.wait_for_timeout(500)
    print(f"swapping to it: {page.locator('#manage-answer').inner_text()}")
    page.screenshot(path=out / "manage.png", full_page=True)
    context.close()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    problems = []
    for part in (pictures, keyboard, hostile_names, keys):
        part(browser, problems)
        print(f"{part.__name__}: done")
    browser.close()
    for problem in problems:
        print(f"console: {problem}")
    sys.exit(1 if problems else 0)
