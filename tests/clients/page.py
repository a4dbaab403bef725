"""The page at `/` in a real browser: it asks, thinks, answers, stops, shows the server's state, and loads nothing
from elsewhere.

Run by scripts/test-page, which says in HADAL_URL where a server without keys is, and in HADAL_LOCKED_URL and
HADAL_KEY where one is that asks for a key. Speaks WebDriver to chromedriver, with nothing but the standard library.
"""

import json
import os
import subprocess
import threading
import time
import unittest
import urllib.request

URL, LOCKED, KEY = os.environ["HADAL_URL"], os.environ["HADAL_LOCKED_URL"], os.environ["HADAL_KEY"]
PATIENCE_S = 120
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    def __init__(self):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}/session"
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": arguments, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        session = self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + session["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=PATIENCE_S))["value"]

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def element(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def type(self, selector, text):
        self.call("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def until(self, script):
        begun = time.time()
        while not (value := self.run("return " + script)):
            if time.time() - begun > PATIENCE_S:
                raise AssertionError(f"still not: {script}\n{self.run('return document.body.innerText')}")
            time.sleep(0.1)
        return value

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def close(self):
        self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()


class Page(unittest.TestCase):
    def setUp(self):
        self.browser = Browser()
        self.addCleanup(self.browser.close)

    def ask(self, text):
        self.browser.type("#input", text + "\n")

    def test_it_thinks_folded_and_answers(self):
        self.browser.open(URL)
        self.ask("What is 17 + 25?")
        self.browser.until("document.querySelector('.answer .note')")
        answer = self.browser.run("return [...document.querySelectorAll('.answer > .turn')].map(t => t.textContent)")
        self.assertEqual(answer, ["17 + 25 = 42."])
        self.assertFalse(self.browser.run("return document.querySelector('.answer details').open"))
        self.assertIn("42", self.browser.run("return document.querySelector('.answer details').textContent"))
        self.ask("how much is 345 minus 78?")
        self.browser.until("document.querySelectorAll('.answer .note').length == 2")
        self.browser.until("document.querySelector('#device').textContent == 'cpu'")
        self.browser.until("/\\d/.test(document.querySelector('#pagestext').textContent)")

    def test_an_answer_can_be_stopped(self):
        self.browser.open(URL)
        self.browser.run("document.querySelector('#effort').value = 'none'")
        self.ask("Please repeat the word whale five hundred times: " + "whale " * 300)
        self.browser.until("document.querySelector('#send').textContent == 'Stop'")
        self.browser.run("document.querySelector('#send').click()")
        self.browser.until("document.querySelector('#send').textContent == 'Send'")
        self.assertIsNone(self.browser.run("return document.querySelector('.error')"))

    def test_gauges_move_while_it_answers(self):
        self.browser.open(URL)
        self.browser.until("/[1-9]/.test(document.querySelector('#batchtext').textContent)")
        # An answer that goes on until it is left: its schema wants a hundred thousand numbers.
        schema = {"type": "object", "required": ["n"], "additionalProperties": False, "properties": {
            "n": {"type": "array", "minItems": 100000, "items": {"type": "integer"}}}}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        body = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "Count."}], "stream": True,
                "thinking": {"type": "disabled"}, "response_format": form}
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(URL + "/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            self.drain(answer)
            for gauge in ("#batch", "#pages"):
                self.browser.until(f"document.querySelector('{gauge}').value > 0")
            self.browser.until("Number(document.querySelector('#rate').textContent) > 0")
        self.browser.until("document.querySelector('#batch').value == 0")

    def drain(self, answer):
        """Reads on until the answer is closed: one that is not read rests."""
        def read():
            try:
                while answer.read1(65536):
                    pass
            except (OSError, ValueError, AttributeError):
                pass
        threading.Thread(target=read, daemon=True).start()

    def test_the_load_of_experts_is_drawn(self):
        self.browser.open(URL)
        self.ask("What is 17 + 25?")
        self.browser.until("document.querySelector('.answer .note')")
        self.browser.run("document.querySelector('#experts summary').click()")
        self.browser.until("document.querySelector('#heatnote').textContent.includes('layers of')")
        layers = json.load(urllib.request.urlopen(URL + "/status/experts"))["layers"]
        size = self.browser.run("const heat = document.querySelector('#heat'); return [heat.height, heat.width]")
        self.assertEqual(size, [len(layers), len(layers[0])])
        drawn = self.browser.run("""
            const heat = document.querySelector('#heat');
            return [...heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data]""")[3::4]
        self.assertEqual(max(drawn), 255, "the busiest expert of a layer is darkest")
        for layer, counts in enumerate(layers):
            row = drawn[layer * len(counts):][:len(counts)]
            self.assertEqual(row[counts.index(max(counts))], 255, f"layer {layer}")
            self.assertTrue(all((shade > 0) <= (count > 0) for shade, count in zip(row, counts)))
        self.browser.run("""
            const heat = document.querySelector('#heat'), box = heat.getBoundingClientRect();
            heat.onmousemove({ clientX: box.left + 1, clientY: box.bottom - 1 });""")
        note = self.browser.run("return document.querySelector('#heatnote').textContent")
        self.assertIn(f"layer {len(layers) - 1}, expert 0: chosen", note)

    def test_nothing_comes_from_elsewhere_and_nothing_goes_wrong(self):
        self.browser.open(URL)
        self.ask("What is 17 + 25?")
        self.browser.until("document.querySelector('.answer .note')")
        asked = [json.loads(entry["message"])["message"] for entry in self.browser.log("performance")]
        urls = [event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"]
        self.assertTrue(urls)
        for url in urls:
            self.assertTrue(url.startswith((URL, "data:")), url)
        wrong = [entry for entry in self.browser.log("browser") if "favicon" not in entry["message"]]
        self.assertEqual(wrong, [])

    def test_it_asks_for_a_key_and_keeps_it_for_the_session(self):
        self.browser.open(LOCKED)
        self.browser.until("!document.querySelector('#keybox').hidden")
        self.browser.type("#key", KEY + "\t")
        self.browser.until("document.querySelector('#device').textContent == 'cpu'")
        self.ask("What is 17 + 25?")
        self.browser.until("document.querySelector('.answer .note')")

    def test_every_control_has_a_name(self):
        self.browser.open(URL)
        nameless = self.browser.run("""
            return [...document.querySelectorAll('button, input, select, textarea, meter')].filter(e =>
                !e.textContent.trim() && !e.ariaLabel && !e.labels?.length).map(e => e.id)""")
        self.assertEqual(nameless, [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
