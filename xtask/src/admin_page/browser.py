"""The page `/admin` in Chromium, as a reader meets it: `browser.py OPEN_URL KEYED_URL ADMIN INFER CHROMIUM OUT`.

OPEN_URL is a server that asks nobody for a key, KEYED_URL one that knows the keys ADMIN and INFER of these roles, serves
`story` and may load `story-v2.gguf`, `spare.gguf`, which it knows as `spare`, and `broken.gguf`. Violations of the content
security policy arrive as errors of the console; any such error fails, and so does a script that throws.
"""

import json
import pathlib
import re
import sys
import urllib.request

from playwright.sync_api import expect, sync_playwright

open_url, keyed_url, admin, infer, chromium, out = sys.argv[1:]
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

    def renamed(route):
        answer = route.fetch()
        models = answer.json()
        models["models"][0]["id"] = models["models"][0]["kernel"] = HOSTILE
        models["models"][0]["error"] = {"message": HOSTILE}
        route.fulfill(response=answer, body=json.dumps(models))

    page.route("**/v1/stats", changed)
    page.route("**/v1/models", renamed)
    page.goto(f"{open_url}/admin")
    live(page)
    expect(page.locator("#slowest tbody td").first).to_have_text(HOSTILE)
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#model-list h3").first).to_have_text(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    page.unroute_all(behavior="wait")  # the page asks all the time: an answer half changed would be an error
    context.close()


def use_key(page, key):
    page.get_by_role("button", name="API key").click()
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")


def keys(browser, problems):
    context = browser.new_context()
    # Chromium tells refused requests in the console too.
    page = watched(context, problems, expected=("status of 401", "status of 403"))
    page.goto(f"{keyed_url}/admin")
    expect(page.locator("#key-dialog")).to_be_visible(timeout=10_000)
    page.screenshot(path=out / "key.png")
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#state-text")).to_contain_text("not valid", timeout=10_000)
    use_key(page, infer)
    live(page)
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#manage-note")).to_contain_text("role infer")
    expect(tile(page, "spare").locator(".badge")).to_have_text("not in memory")
    buttons = page.locator("#models button.manage:visible")
    assert buttons.count() >= 4, "orders are shown to who may not give them"
    for button in buttons.all():
        expect(button).to_be_disabled()
        assert "role admin" in button.get_attribute("title")
    page.screenshot(path=out / "models-infer.png", full_page=True)
    use_key(page, admin)
    expect(page.locator("#manage-note")).to_be_hidden(timeout=10_000)
    expect(tile(page, "spare").get_by_role("button", name="Load")).to_be_enabled()
    assert page.evaluate("JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])") == '[0,0,""]'
    assert admin not in page.url and admin not in page.content()
    context.close()


def tile(page, model):
    return page.locator("#model-list > li").filter(has=page.get_by_role("heading", name=model, exact=True))


def status(model):
    request = urllib.request.Request(f"{keyed_url}/v1/models/{model}/status", headers={"Authorization": f"Bearer {admin}"})
    return json.load(urllib.request.urlopen(request))


def answer(model):
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    headers = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{keyed_url}/v1/completions", json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["text"]


def order_ended(page, title, good=True):
    """The order is shown to have ended; its words."""
    job = page.locator("#jobs > li").filter(has=page.get_by_role("heading", name=title, exact=True)).first
    expect(job).to_have_class(re.compile(r"\bgood\b" if good else r"\bbad\b"), timeout=60_000)
    expect(job.get_by_role("button", name="Dismiss")).to_be_visible()
    return job.locator(".job-words").inner_text()


def sure(page, verb):
    page.locator("#sure-dialog").get_by_role("button", name=verb).click()


def orders(browser, problems):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = watched(context, problems, expected=("status of 401", "status of 403", "status of 422"))
    page.goto(f"{keyed_url}/admin")
    page.locator("#key").fill(admin)
    page.keyboard.press("Enter")
    live(page)
    page.get_by_role("tab", name="Models").click()
    story = tile(page, "story")
    expect(story.locator(".badge")).to_have_text("loaded")
    first = status("story")["version"]
    expect(story).to_contain_text(first[:12])
    expect(story.get_by_role("button", name="Roll back")).to_be_disabled()
    before = answer("story")

    # A model that is configured and not in memory, by its name alone.
    assert status("spare")["status"] == "unloaded"
    tile(page, "spare").get_by_role("button", name="Load").click()
    assert first[:12] in order_ended(page, "Load spare")
    expect(tile(page, "spare").locator(".badge")).to_have_text("loaded")
    assert status("spare")["status"] == "loaded"

    # A file of the directories, under a name of its own.
    row = page.locator("#files tbody tr").filter(has_text="story-v2.gguf")
    row.get_by_role("button", name="Load").click()
    expect(page.locator("#load-id")).to_have_value("story-v2")
    page.screenshot(path=out / "load.png")
    page.locator("#load-id").fill("other")
    page.locator("#load-validate").check()
    page.locator("#load-dialog").get_by_role("button", name="Load").click()
    told = order_ended(page, "Load story-v2.gguf as other")
    second = status("other")["version"]
    assert second != first and second[:12] in told and "compared with the reference" in told, told
    expect(tile(page, "other")).to_contain_text(second[:12])
    expect(row).to_contain_text("other")

    # A swap, what answers after it, and the way back.
    story.get_by_role("button", name="Swap").click()
    expect(page.locator("#swap-id")).to_have_value("story")
    page.locator("#swap-path").fill("story-v2.gguf")
    page.screenshot(path=out / "swap.png")
    page.locator("#swap-dialog").get_by_role("button", name="Swap").click()
    told = order_ended(page, "Swap story for story-v2.gguf")
    assert second[:12] in told and first[:12] in told, told
    expect(story).to_contain_text(second[:12])
    assert status("story")["version"] == second
    after = answer("story")
    assert after != before and after == answer("other"), (before, after)
    expect(story.get_by_role("button", name="Roll back")).to_be_enabled()
    story.get_by_role("button", name="Roll back").click()
    page.screenshot(path=out / "sure.png")
    page.locator("#sure-dialog").get_by_role("button", name="Cancel").click()
    assert status("story")["version"] == second, "nothing is done that was not meant"
    story.get_by_role("button", name="Roll back").click()
    sure(page, "Roll back")
    assert first[:12] in order_ended(page, "Roll back story")
    expect(story.locator("dd").first).to_have_text(first[:12])
    assert status("story")["version"] == first and answer("story") == before

    # What is no model is told, and changes nothing.
    page.locator("#files tbody tr").filter(has_text="broken.gguf").get_by_role("button", name="Load").click()
    page.locator("#load-dialog").get_by_role("button", name="Load").click()
    print(f"broken: {order_ended(page, 'Load broken.gguf as broken', good=False)}")
    page.get_by_role("button", name="Load by path").click()
    page.locator("#load-path").fill("/nowhere/model.gguf")
    page.locator("#load-id").fill("nowhere")
    page.locator("#load-dialog").get_by_role("button", name="Load").click()
    told = order_ended(page, "Load /nowhere/model.gguf as nowhere", good=False)
    assert "no model in the configured directories" in told, told
    story.get_by_role("button", name="Swap").click()
    page.locator("#swap-path").fill("broken.gguf")
    page.locator("#swap-dialog").get_by_role("button", name="Swap").click()
    order_ended(page, "Swap story for broken.gguf", good=False)
    assert answer("story") == before

    tile(page, "other").get_by_role("button", name="Unload").click()
    sure(page, "Unload")
    order_ended(page, "Unload other")
    expect(tile(page, "other").locator(".badge")).to_have_text("not in memory")
    assert status("other")["status"] == "unloaded"
    for device, width, height in (("desktop", 1280, 900), ("narrow", 640, 900), ("phone", 390, 844)):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": height})
            page.screenshot(path=out / f"orders-{device}-{scheme}.png", full_page=True)
            fits(page, f"orders on a {device}")
    for dismiss in page.get_by_role("button", name="Dismiss").all()[::-1]:
        dismiss.click()
    expect(page.locator("#jobs > li")).to_have_count(0)
    context.close()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    problems = []
    for part in (pictures, keyboard, hostile_names, keys, orders):
        part(browser, problems)
        print(f"{part.__name__}: done")
    browser.close()
    for problem in problems:
        print(f"console: {problem}")
    sys.exit(1 if problems else 0)
