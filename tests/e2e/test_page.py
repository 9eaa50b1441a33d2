"""The chat page in headless Chromium; skipped where there is none. SPDX-License-Identifier: Apache-2.0"""
import json

import pytest

import browser
from conftest import Server, say

pytestmark = pytest.mark.skipif(not browser.BINARY, reason="no Chromium on this machine")
ENTER = ("Enter", 13, "\r")
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}]


@pytest.fixture(scope="module")
def chromium(model, tmp_path_factory):
    s = Server("quern-fake", model, FAKE_STEP_US=3000)
    p = browser.Page(s.url + "/", tmp_path_factory.mktemp("chromium"))
    p.server = s
    yield p
    p.close()
    s.stop()


@pytest.fixture
def page(chromium):
    chromium.run("localStorage.clear()")
    chromium.requests.clear()
    chromium.open(chromium.server.url + "/")
    return chromium


def ask(page, text):
    page.run("document.getElementById('input').focus()")
    page.type(text)
    page.press(*ENTER)


def answered(n):
    return f"document.querySelectorAll('article.answer[aria-busy=false]').length === {n}"


def test_conversation(page):
    assert page.run("document.activeElement.id") == "input"
    page.wait("document.getElementById('model').textContent.startsWith('fake')")
    ask(page, say("plain `code` <b>no markup</b>\n```\nfenced\n```\nend"))
    page.wait(answered(1))
    assert page.run("document.querySelector('article.answer code').textContent") == "code"
    assert page.run("document.querySelector('article.answer pre').textContent") == "fenced"
    assert page.run("document.querySelector('article.answer b') === null")
    stats = page.run("document.querySelector('.stats').textContent")
    assert "tokens/s" in stats and "cache" in stats and "drafts accepted" in stats
    ask(page, say("second"))
    page.wait(answered(2))
    assert page.run("document.querySelectorAll('article.answer .text.busy').length") == 0
    assert page.run("[...document.querySelectorAll('article.answer > .text')].at(-1).textContent") == "second"
    assert "The answer: second" in page.run("document.getElementById('say').textContent")
    # nothing from anywhere else
    assert all(url.startswith((page.server.url, "data:", "about:")) for url in page.requests)


def test_thinking_is_folded_and_calls_are_shown(page):
    page.run("localStorage.setItem('quern-options', JSON.stringify({thinking: 'on', tools: %s})); loadOptions()"
             % json.dumps(json.dumps(TOOLS)))
    ask(page, say("because</think>\n\nLooking.\n<tool_call>\n<function=look>\n<parameter=at>\nthe door\n</parameter>\n</function>\n</tool_call>"))
    page.wait(answered(1))
    assert page.run("document.querySelector('details').open") is False
    assert page.run("document.querySelector('details .text').textContent") == "because"
    assert page.run("JSON.parse(document.querySelector('.call pre').textContent).at") == "the door"
    page.run("document.querySelector('.call textarea').value = %s; document.querySelector('.call + button').click()"
             % json.dumps(say("hm</think>\n\nIt is shut.")))
    page.wait(answered(2))
    assert page.run("[...document.querySelectorAll('article.answer > .text')].at(-1).textContent") == "It is shut."


def test_stop_by_keyboard(page):
    ask(page, say("x" * 3000))
    page.wait("document.querySelector('article.answer > .text')?.textContent.length > 5")
    page.press("Escape", 27)
    page.wait(answered(1))
    assert "ended: stopped" in page.run("document.querySelector('.stats').textContent")
    assert page.server.wait_idle(5)


def test_options_are_sent_and_errors_shown(page):
    page.run("document.getElementById('open-options').click()")
    assert page.run("document.getElementById('options').open")
    page.run("document.querySelector('[data-key=max_tokens]').value = '3'; document.getElementById('close-options').click()")
    ask(page, say("one two"))
    page.wait(answered(1))
    assert page.run("document.querySelector('article.answer > .text').textContent") == "one"
    assert "ended: length" in page.run("document.querySelector('.stats').textContent")
    ask(page, "long " * 4000)
    page.wait("document.querySelector('[role=alert].error')?.textContent.includes('maximum context length')")


def test_names_for_everything(page):
    """Every control has a name a screen reader can say."""
    nameless = page.run("""[...document.querySelectorAll('button, input, textarea, select')].filter(e =>
        !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)""")
    assert nameless == []
    assert page.run("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    ratio = page.run("""(() => {
      const light = (c) => c.match(/[0-9.]+/g).slice(0, 3).map(Number).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
      const of = (name) => { const e = document.createElement('i'); e.style.color = `var(--${name})`; document.body.append(e);
        const c = getComputedStyle(e).color; e.remove(); return light(c); };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return Math.min(...[['text', 'back'], ['text', 'card'], ['text', 'mine'], ['dim', 'card'], ['dim', 'back'], ['warn', 'card'], ['back', 'accent']]
        .map(([a, b]) => ratio(of(a), of(b))));
    })()""")
    assert ratio >= 4.5
