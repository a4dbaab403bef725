"""Claude Code and OpenCode hold a session with `hadal serve` and the demo model behind it: a plain answer, thinking
while it streams, a forced tool call with its result, an error, a cancel.

Run by scripts/test-agents, which installs the programs and says in HADAL_URL where the server is, in HADAL_KEY
what it asks for, and in AGENTS where the programs are. The demo model is far too small to follow an agent's
instructions, so what is tested is that the sessions complete; the tool call is forced by a proxy that adds
`tool_choice` to the first request with tools.
"""

import http.server
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

URL, KEY, AGENTS = os.environ["HADAL_URL"], os.environ["HADAL_KEY"], os.environ["AGENTS"]
MODEL = "deepseek-v4-flash"
PATIENCE_S = 900


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on, limits their answers so that a small model ends, and notes them."""

    daemon_threads = True

    def __init__(self, tool=None, tokens=120):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tool, self.tokens, self.seen = tool, tokens, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def change(self, path, body):
        """Limits the answer; forces the tool on the first request that offers it."""
        if "max_tokens" in body:
            body["max_tokens"] = min(body["max_tokens"], self.tokens)
        named = self.tool and self.tool[0]
        anthropic = "messages" in path
        for tool in body.get("tools") or []:
            name = tool["name"] if anthropic else tool["function"]["name"]
            if name != named:
                continue
            schema = {"type": "object", "properties": self.tool[1], "required": list(self.tool[1]),
                      "additionalProperties": False}
            if anthropic:
                tool["input_schema"] = schema
                body["tool_choice"] = {"type": "tool", "name": name}
            else:
                tool["function"]["parameters"] = schema
                body["tool_choice"] = {"type": "function", "function": {"name": name}}
            self.tool = None
        return body


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.forward(None)

    do_HEAD = do_GET

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)
        self.forward(json.dumps(self.server.change(self.path, body)).encode())

    def forward(self, body):
        skipped = ("host", "content-length", "connection", "accept-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        request = urllib.request.Request(URL + self.path, body, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE_S)
        except urllib.error.HTTPError as error:
            answer = error
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", "text/plain"))
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            answer.close()

    def log_message(self, *_):
        pass


def status():
    request = urllib.request.Request(URL + "/status", headers={"x-api-key": KEY})
    return json.load(urllib.request.urlopen(request))["worker"]


class Agent(unittest.TestCase):
    """What both programs are asked to do; `command` differs."""

    program = None

    def setUp(self):
        self.home = tempfile.TemporaryDirectory()
        self.addCleanup(self.home.cleanup)
        self.note = os.path.join(self.home.name, "note.txt")
        with open(self.note, "w") as file:
            file.write("The blue whale sings.\n")

    def start(self, proxy, prompt, key=KEY):
        environment = {"PATH": os.environ["PATH"], "HOME": self.home.name, "NO_COLOR": "1"}
        command, more = self.command(proxy.url, prompt, key)
        return subprocess.Popen(
            command, env=environment | more, cwd=self.home.name, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def run_to_end(self, proxy, prompt, key=KEY):
        process = self.start(proxy, prompt, key)
        try:
            output, _ = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self.fail(f"no end within {PATIENCE_S} s: {process.communicate()[0][-2000:]}")
        return process.returncode, output

    def answer(self):
        proxy = Proxy()
        code, output = self.run_to_end(proxy, "What is 17 + 25?")
        self.assertEqual(code, 0, output[-2000:])
        self.assertTrue(any(body.get("stream") for body in proxy.seen))
        return output

    def tool(self, name, fields, results):
        proxy = Proxy(tool=(name, fields))
        code, output = self.run_to_end(proxy, "Read the note.")
        self.assertEqual(code, 0, output[-2000:])
        self.assertIsNone(proxy.tool, f"{name} was never offered")
        found = [text for body in proxy.seen for text in results(body)]
        self.assertTrue(any("blue whale" in text for text in found), "the result came back")

    def cancel(self, name, field):
        """Kills the program in the middle of an answer that cannot end soon: a call with a very long argument."""
        before = status()["cancelled"]
        proxy = Proxy(tool=(name, {field: {"type": "string", "minLength": 20000}}), tokens=30000)
        process = self.start(proxy, "Read a very long name.")
        begun = time.time()
        while proxy.tool or not status()["live"]:
            self.assertLess(time.time() - begun, PATIENCE_S)
            self.assertIsNone(process.poll(), "it ended before it asked")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        proxy.shutdown()
        while status()["live"]:
            self.assertLess(time.time() - begun, PATIENCE_S)
            time.sleep(0.2)
        self.assertGreater(status()["cancelled"], before)


class ClaudeCode(Agent):
    def command(self, url, prompt, key):
        words = [f"{AGENTS}/claude", "-p", prompt, "--model", MODEL, "--output-format", "stream-json",
                 "--verbose", "--include-partial-messages", "--dangerously-skip-permissions"]
        return words, {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key, "IS_SANDBOX": "1",
                       "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_MAX_RETRIES": "1"}

    def test_it_answers_and_thinks_while_it_streams(self):
        output = self.answer()
        self.assertIn('"thinking_delta"', output)

    def test_a_forced_tool_call_gets_its_result(self):
        def results(body):
            for message in body.get("messages", []):
                for block in message["content"] if isinstance(message["content"], list) else []:
                    if block["type"] == "tool_result":
                        yield json.dumps(block.get("content"))
        self.tool("Read", {"file_path": {"enum": [self.note]}}, results)

    def test_an_error_is_shown(self):
        code, output = self.run_to_end(Proxy(), "Hi.", key="wrong")
        self.assertNotEqual(code, 0)
        self.assertIn("Authentication Fails", output)

    def test_a_cancel_ends_the_job(self):
        self.cancel("Read", "file_path")


class OpenCode(Agent):
    def command(self, url, prompt, key):
        options = {"baseURL": url + "/v1", "apiKey": key}
        model = {"reasoning": True, "tool_call": True, "interleaved": {"field": "reasoning_content"},
                 "limit": {"context": 60000, "output": 32000}}
        provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {MODEL: model}}
        settings = {"provider": {"hadal": provider}, "autoupdate": False, "share": "disabled",
                    "permission": {"read": "allow", "external_directory": "allow"}}
        words = [f"{AGENTS}/opencode", "run", "--model", f"hadal/{MODEL}", "--format", "json", prompt]
        return words, {"OPENCODE_CONFIG_CONTENT": json.dumps(settings), "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    def test_it_answers(self):
        self.answer()

    def test_a_forced_tool_call_gets_its_result(self):
        def results(body):
            for message in body.get("messages", []):
                if message["role"] == "tool":
                    yield json.dumps(message["content"])
        self.tool("read", {"filePath": {"enum": [self.note]}}, results)

    def test_an_error_is_shown(self):
        _, output = self.run_to_end(Proxy(), "Hi.", key="wrong")
        self.assertIn("Authentication Fails", output)

    def test_a_cancel_ends_the_job(self):
        self.cancel("read", "filePath")


del Agent

if __name__ == "__main__":
    # Proxies live as long as the program.
    unittest.main(verbosity=2, warnings="ignore")
