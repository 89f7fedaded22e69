#!/usr/bin/env python3
"""Uses the server's page as a person would, in headless Chromium.

    tests/page/page_test.py PROGRAM MODEL [--shots FOLDER]

Prints each test and "N passed, N failed"; the exit status is 0 when nothing failed.
"""
import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 60  # seconds; turns a hang into a failure


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def server(program, model, *flags):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([program, "serve", "--model", model, "--port", str(port), "--drain", "0", *flags],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(address + "/health", timeout=5):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the server did not start") from None
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def browser(size=(1280, 860)):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        try:
            yield driver
        finally:
            driver.quit()


class Page:
    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        self.wait(lambda: self.find("#settings-form input"), "the page to be ready")

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition, what):
        try:
            return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02).until(lambda _: condition())
        except Exception:
            raise AssertionError(f"waited in vain for {what}") from None

    def idle(self):
        return not self.one("#stop").is_displayed()

    def say(self, text):
        box = self.one("#prompt")
        box.send_keys(text)
        box.send_keys(Keys.ENTER)

    def answers(self):
        return [e.text for e in self.find(".message.assistant .body")]

    def questions(self):
        return [e.text for e in self.find(".message.user .body")]

    def ask(self, text):
        before = len(self.find(".message.assistant"))
        self.say(text)
        self.wait(lambda: len(self.find(".message.assistant")) == before + 1 and self.idle(), "an answer")

    def set_setting(self, name, value):
        self.driver.execute_script(
            "const f = document.querySelector(`#settings-form [name=${arguments[0]}]`);"
            "f.value = arguments[1]; f.dispatchEvent(new Event('change'));", name, value)

    def module(self, path, script, *arguments):
        """What a script gives that has a module of the page as `m`."""
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1]; const a = arguments;"
            f"import('{path}').then(m => done((() => {{ {script} }})()), e => done('failed: ' + e));", *arguments)

    def shot(self, name):
        if SHOTS:
            os.makedirs(SHOTS, exist_ok=True)
            self.driver.save_screenshot(os.path.join(SHOTS, name + ".png"))


SHOTS = None


def check(condition, what):
    if not condition:
        raise AssertionError(what)


# ---- the modules, by themselves

def test_events_are_read_however_they_are_cut(page):
    got = page.module("/api.js", """
      const text = 'data: {"a": 1}\\n\\n: ping\\n\\ndata: {"b":\\ndata: 2}\\r\\n\\r\\ndata: [DONE]\\n\\n';
      return [1, 2, 3, 7, 100].map((size) => {
        const reader = new m.EventReader(), out = [];
        for (let i = 0; i < text.length; i += size) out.push(...reader.push(text.slice(i, i + size)));
        return out;
      });""")
    for events in got:
        check(events == ['{"a": 1}', '{"b":\n2}', "[DONE]"], f"events {events}")


def test_markdown(page):
    def html(text):
        return page.module("/markdown.js", "const d = document.createElement('div');"
                           "d.append(m.renderMarkdown(a[0])); return d.innerHTML;", text)
    cases = {
        "# Title\n\nSome *soft* and **hard** `code`.":
            "<h1>Title</h1><p>Some <em>soft</em> and <strong>hard</strong> <code>code</code>.</p>",
        "- a\n- b\n  - c\n\ntext": "<ul><li>a</li><li><p>b</p><ul><li>c</li></ul></li></ul><p>text</p>",
        "3. x\n4. y": '<ol start="3"><li>x</li><li>y</li></ol>',
        "> q\n> r": "<blockquote><p>q\nr</p></blockquote>",
        "a | b\n--|--\n1 | 2": '<div class="table"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
                               "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>",
        "2 * 3 * 4 and snake_case_name": "<p>2 * 3 * 4 and snake_case_name</p>",
        "---": "<hr>",
    }
    for text, expected in cases.items():
        check(html(text) == expected, f"{text!r} became {html(text)}")
    check("<pre><code>x &lt; 1\n\ny" in html("```python\nx < 1\n\ny"), "an open fence is code already")
    check('href="https://example.org/a"' in html("see https://example.org/a."), "addresses become links")


def test_markdown_runs_nothing(page):
    evil = ["<img src=x onerror=\"window.hacked=1\">", "[a](javascript:window.hacked=1)",
            "<script>window.hacked=1</script>", "[a](data:text/html,<script>window.hacked=1</script>)",
            "```<img src=x onerror=window.hacked=1>\n```", "| <img src=x onerror=window.hacked=1> |\n|--|\n| x |"]
    for text in evil:
        bad = page.module("/markdown.js",
                          "const d = document.createElement('div'); d.append(m.renderMarkdown(a[0])); document.body.append(d);"
                          "const n = d.querySelectorAll('img, script, a').length; d.remove(); return n;", text)
        check(bad == 0, f"{text} made {bad} elements")
    check(page.driver.execute_script("return window.hacked") is None, "a script has run")


def test_no_text_stops_markdown(page):
    # What a model may write, cut anywhere: rendering always ends and loses no word.
    words = page.module("/markdown.js", """
      const text = '# h\\n\\n1. one **two\\n   - three `four\\n> five\\n\\n| six | seven |\\n|---|---|\\n| eight |\\n```js\\nnine\\n```\\n[ten](http://x) _eleven_';
      const lost = [];
      for (let i = 0; i <= text.length; ++i) {
        const d = document.createElement('div');
        d.append(m.renderMarkdown(text.slice(0, i)));
        for (const w of text.slice(0, i).match(/[a-z]{3,}(?=[^a-z])/g) ?? [])
          if (!d.textContent.includes(w) && w !== 'http') lost.push([i, w]);
      }
      return lost;""")
    check(words == [], f"lost {words}")


# ---- as a person

def test_a_conversation(page):
    page.set_setting("max_tokens", "24")
    page.set_setting("temperature", "0")
    page.shot("empty")
    page.ask("Say hello.")
    check(page.questions() == ["Say hello."], "the question shows")
    check(page.answers()[0] != "", "there is an answer")
    check("tokens/s" in page.one(".message.assistant .stats").text, "its speed shows")
    first = page.answers()[0]
    page.find(".message.assistant .tools button")[1].click()  # regenerate
    page.wait(lambda: page.idle() and len(page.answers()) == 1 and page.answers()[0] != "", "a new answer")
    check(page.answers()[0] == first, "greedy: the same answer again")

    page.find(".message.user .tools button")[1].click()  # edit
    area = page.one(".edit textarea")
    area.clear()
    area.send_keys("Say goodbye.", Keys.ENTER)
    page.wait(lambda: page.questions() == ["Say goodbye."] and page.idle() and page.answers(), "the edited question")
    page.ask("And again.")
    check(len(page.answers()) == 2, "two turns")
    page.shot("conversation")

    page.driver.refresh()
    page.wait(lambda: len(page.answers()) == 2, "the conversation after a reload")
    check(page.questions() == ["Say goodbye.", "And again."], "the questions are kept")
    check(page.one("#conversations li").text.startswith("Say hello."), "it is listed")


def test_stop(page):
    page.wait(lambda: page.find("#settings-form input"), "the settings")
    page.set_setting("max_tokens", "4000")
    page.one("#new-chat").click()
    page.say("Tell me a long story about a fox and a crow.")
    page.wait(lambda: page.answers() and len(page.answers()[-1]) > 20, "the stream")
    page.shot("streaming")
    page.one("body").send_keys(Keys.ESCAPE)
    page.wait(page.idle, "the stop")
    check("stopped" in page.one(".message.assistant .stats").text, "it says so")
    text = page.answers()[-1]
    page.driver.refresh()
    page.wait(lambda: page.answers() and page.answers()[-1] == text, "the stopped answer after a reload")


def test_markup_in_messages_is_text(page):
    page.wait(lambda: page.find("#settings-form input"), "the settings")
    page.set_setting("max_tokens", "4")
    page.one("#new-chat").click()
    page.ask("<img src=x onerror='window.hacked=1'>")
    check(page.find(".message img") == [], "no element from a message")
    check(page.driver.execute_script("return window.hacked") is None, "a script has run")


def test_machine_room(page):
    page.one("#tab-room").click()
    page.wait(lambda: "finished" in page.one("#room").text, "the machine room")
    for title in ("Tokens per second", "KV cache", "Time to the first token", "Requests"):
        check(title in page.one("#room").text, title)
    page.shot("room")
    page.one("#tab-chat").click()


def test_narrow(page):
    page.driver.set_window_size(360, 740)
    width = page.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    check(width[0] <= max(width[1], 500), f"scrolls sideways: {width}")  # Chromium's least width is 500
    over = page.driver.execute_script(
        "return [...document.querySelectorAll('#main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('pre, .table, #shade')).map(e => e.tagName + '#' + e.id)")
    check(over == [], f"stick out: {over}")
    page.shot("phone")
    page.one("#menu").click()
    page.wait(lambda: page.one("#new-chat").is_displayed(), "the drawer")
    page.shot("phone_drawer")
    page.one("body").send_keys(Keys.ESCAPE)
    page.driver.set_window_size(1280, 860)


def test_dark(page):
    for _ in range(2):
        page.one("#theme").click()
    check(page.driver.execute_script("return document.documentElement.dataset.theme") == "dark", "dark")
    page.shot("dark")
    page.one("#theme").click()


def test_keyboard_alone(page):
    page.one("#new-chat").click()
    page.wait(lambda: page.driver.switch_to.active_element.get_attribute("id") == "prompt", "the focus")
    page.driver.switch_to.active_element.send_keys("One", Keys.SHIFT, Keys.ENTER)
    check(page.one("#prompt").get_attribute("value") == "One\n", "shift and enter is a new line")
    page.one("#prompt").clear()


def test_nothing_is_complained_about(page):
    severe = [e["message"] for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]
    check(severe == [], f"the console says {severe}")


TESTS = [test_events_are_read_however_they_are_cut, test_markdown, test_markdown_runs_nothing,
         test_no_text_stops_markdown, test_a_conversation, test_stop, test_markup_in_messages_is_text,
         test_machine_room, test_narrow, test_dark, test_keyboard_alone, test_nothing_is_complained_about]


def test_key(program, model):
    with server(program, model, "--api-key", "secret") as address, browser() as driver:
        driver.get(address)
        wait = WebDriverWait(driver, PATIENCE, poll_frequency=0.02)
        field = wait.until(lambda d: d.find_element(By.CSS_SELECTOR, "#banner input"))
        field.send_keys("secret", Keys.ENTER)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#settings-form input"))


def main():
    global SHOTS
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--shots")
    arguments = parser.parse_args()
    SHOTS = arguments.shots
    if not os.path.exists(arguments.model):
        print(f"skipped: there is no {arguments.model}")
        return 0
    passed = failed = 0

    def run(name, body):
        nonlocal passed, failed
        try:
            body()
            passed += 1
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc(limit=-2)}", flush=True)

    with server(arguments.program, arguments.model) as address, browser() as driver:
        page = Page(driver, address)
        for test in TESTS:
            run(test.__name__, lambda test=test: test(page))
    run("test_key", lambda: test_key(arguments.program, arguments.model))
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
