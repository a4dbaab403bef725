"""Many streams at once against `hadal serve`, some of which leave at any moment: every greedy answer must be the one
given alone, to the bit of its log-probabilities; nothing may fail, and memory must stay flat.

Run by scripts/soak, which says in HADAL_URL where the server is and in HADAL_PID which process it is.

    soak.py SECONDS [STREAMS [SEED]]
"""

import asyncio
import json
import os
import random
import statistics
import sys
import time
from urllib.parse import urlsplit

URL = urlsplit(os.environ["HADAL_URL"])
PID = int(os.environ["HADAL_PID"])
SECONDS = float(sys.argv[1])
STREAMS = int(sys.argv[2]) if len(sys.argv) > 2 else 64
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 7
# Longest any one request may take: the machine may be busy with other things.
PATIENCE = 240
# Part of the requests that leave before their end.
LEAVE = 0.3
# Part of the requests that nobody has made before: they turn the caches over.
NEW = 0.1
FLAT = 1.05
# Part of the time until caches and buffers are full; that takes about a minute, so shorter runs are not judged.
WARM = 0.4
FLAT_FROM_SECONDS = 150
OFF = {"thinking": {"type": "disabled"}}
LIGHT = {
    "type": "object",
    "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 100}, "room": {"enum": ["kitchen", "bath"]}},
    "required": ["level", "room"],
    "additionalProperties": False,
}


def chat(text, **fields):
    body = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": text}], "max_tokens": 80}
    return "/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 1} | fields


def completion(text):
    body = {"model": "deepseek-v4-flash", "prompt": text, "max_tokens": 60, "logprobs": 1}
    return "/v1/completions", body


def message(text, **fields):
    messages = [{"role": "user", "content": text}]
    return "/v1/messages", {"model": "claude-soak", "messages": messages, "max_tokens": 80} | fields


def questions():
    tool = {"type": "function", "function": {"name": "set_light", "strict": True, "parameters": LIGHT}}
    shape = {"type": "json_schema", "json_schema": {"name": "light", "schema": LIGHT}}
    facts = "".join(f"The number of box {at} is {at * 37 % 89}.\n" for at in range(60))
    for at in range(8):
        yield chat(f"What is {17 + at} + {25 + 3 * at}?", **OFF)
        yield chat(f"how much is {345 + at} minus {78 - at}?")
        yield message(f"What is {40 + at} - {at}?", **OFF)
        yield message(f"What is {11 * at} + {7 * at}?")
        yield completion(f"Once upon a time there were {at} ")
        yield chat(facts + f"What is the number of box {7 * at}?", **OFF)
    for at in range(3):
        yield chat(f"Set the light to {at}.", tools=[tool], tool_choice="required")
        yield chat(f"Is there light at {at}?", response_format=shape, **OFF)


def streamed(body):
    return body | {"stream": True, "temperature": 0}


class Gone(Exception):
    """We left, as we meant to."""


class Connection:
    """One HTTP/1.1 connection that streams answers and may be used again."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls):
        return cls(*await asyncio.open_connection(URL.hostname, URL.port))

    async def send(self, path, body, upto=None):
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.writer.write((head.encode() + data)[:upto])
        await self.writer.drain()

    async def head(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ")[1])
        if status != 200:
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            raise AssertionError(f"status {status}: {await self.reader.readexactly(length)}")
        assert "transfer-encoding: chunked" in head, head

    async def chunk(self):
        """The next piece of the answer; empty at its end."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    def leave(self, dice):
        # Half with a reset, half with a polite end.
        if dice.random() < 0.5:
            self.writer.transport.abort()
        else:
            self.writer.close()


def said(path, text):
    """What must not depend on company, of a whole stream."""
    frames = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    if path == "/v1/messages":
        return said_messages([json.loads(frame) for frame in frames])
    assert frames[-1] == "[DONE]", text[-300:]
    out = {"content": "", "reasoning": "", "calls": [], "logprobs": [], "finish": None}
    for frame in map(json.loads, frames[:-1]):
        assert "error" not in frame, frame
        for choice in frame["choices"]:
            out["finish"] = choice["finish_reason"] or out["finish"]
            logprobs = choice["logprobs"] or {}
            if "delta" not in choice:
                out["content"] += choice["text"]
                out["logprobs"] += logprobs.get("token_logprobs") or []
                continue
            delta = choice["delta"]
            out["content"] += delta.get("content") or ""
            out["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                function = call["function"]
                out["calls"].append([call["index"], function.get("name"), function["arguments"]])
            for field in ("content", "reasoning_content"):
                out["logprobs"] += [entry["logprob"] for entry in logprobs.get(field) or []]
    assert out["finish"] and out["logprobs"], text[-300:]
    return out


def said_messages(events):
    out = {"texts": [], "stop": None, "tokens": None}
    for event in events:
        match event["type"]:
            case "content_block_start":
                out["texts"].append("")
            case "content_block_delta" if event["delta"]["type"] != "signature_delta":
                delta = event["delta"]
                out["texts"][-1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            case "message_delta":
                out["stop"], out["tokens"] = event["delta"]["stop_reason"], event["usage"]["output_tokens"]
            case "error":
                raise AssertionError(event)
    assert events[-1]["type"] == "message_stop" and out["tokens"], events[-1:]
    return out


class Soak:
    def __init__(self):
        self.questions = [(path, streamed(body)) for path, body in questions()]
        self.alone = []
        self.whole, self.left, self.new, self.tokens = 0, 0, 0, 0
        self.first, self.rss = [], []
        self.ends = None

    async def ask(self, connection, path, body, dice=None):
        """A whole answer; with dice, one that may be left."""
        leaves = dice.random() if dice else 1
        begun = time.monotonic()
        if leaves < LEAVE * 0.15:
            await connection.send(path, body, upto=dice.randrange(1, 400))
            raise Gone
        await connection.send(path, body)
        if leaves < LEAVE * 0.3:
            await asyncio.sleep(dice.random() * 0.05)
            raise Gone
        await connection.head()
        last = dice.randrange(1, 60) if leaves < LEAVE else None
        pieces, at = [], 0
        while piece := await connection.chunk():
            at += 1
            if at == 2 and dice:
                self.first.append(time.monotonic() - begun)
            if at == last:
                if leaves > LEAVE * 0.9:
                    # Does not read for a while before.
                    await asyncio.sleep(2 * dice.random())
                raise Gone
            pieces.append(piece)
        text = b"".join(pieces).decode()
        self.tokens += text.count("\ndata: ") if dice else 0
        return said(path, text)

    async def learn(self):
        """Every answer alone, twice: cold and from the cache."""
        for turn in range(2):
            for at, (path, body) in enumerate(self.questions):
                connection = await Connection.open()
                answer = await asyncio.wait_for(self.ask(connection, path, body), PATIENCE)
                connection.writer.close()
                if turn == 0:
                    self.alone.append(answer)
                assert self.alone[at] == answer, f"{body}: {self.alone[at]} became {answer}"

    async def stream(self, number):
        dice = random.Random(SEED * 1000 + number)
        connection = None
        while time.monotonic() < self.ends:
            connection = connection or await Connection.open()
            at = dice.randrange(len(self.questions))
            path, body = self.questions[at]
            new = dice.random() < NEW
            if new:
                path, body = chat(f"Of {dice.random()}: What is {dice.randrange(99)} + {number}?", **OFF)
                body = streamed(body)
            try:
                answer = await asyncio.wait_for(self.ask(connection, path, body, dice), PATIENCE)
            except Gone:
                connection.leave(dice)
                connection, self.left = None, self.left + 1
                continue
            if new:
                self.new += 1
            else:
                assert answer == self.alone[at], f"{body}: alone {self.alone[at]}, in company {answer}"
                self.whole += 1
            if dice.random() < 0.5:
                connection.writer.close()
                connection = None
        if connection:
            connection.writer.close()

    async def watch(self):
        while time.monotonic() < self.ends:
            self.rss.append((time.monotonic(), resident()))
            await asyncio.sleep(1)

    async def run(self):
        begun = time.monotonic()
        await self.learn()
        print(f"{len(self.alone)} answers alone, twice: {time.monotonic() - begun:.0f} s", flush=True)
        files = open_files()
        begun = time.monotonic()
        self.ends = begun + SECONDS
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch())
            for number in range(STREAMS):
                group.create_task(self.stream(number))
        took = time.monotonic() - begun
        print(f"{STREAMS} streams for {took:.0f} s: {self.whole} whole and as alone, {self.new} new, {self.left} left;")
        first = sorted(self.first)
        quantile = [first[int(len(first) * share)] * 1000 for share in (0.5, 0.95)]
        print(f"{self.tokens / took:.0f} frames/s, first token {quantile[0]:.0f} ms (p95 {quantile[1]:.0f})")
        await settle(files)
        await self.learn()
        self.judge_memory(begun)

    def judge_memory(self, begun):
        warm = begun + WARM * SECONDS
        after = [rss for at, rss in self.rss if at >= warm]
        usual = statistics.median(after[: max(1, len(after) // 5)])
        print(f"memory: {usual / 1024:.0f} MiB after warm-up, at most {max(after) / 1024:.0f}, at the end {after[-1] / 1024:.0f}")
        print("memory over time, MiB:", *(rss // 1024 for _, rss in self.rss[:: max(1, len(self.rss) // 20)]))
        if SECONDS < FLAT_FROM_SECONDS:
            print(f"memory is not judged in less than {FLAT_FROM_SECONDS} s")
            return
        assert max(after) <= usual * FLAT, f"memory grew from {usual} to {max(after)} KiB"
        assert self.whole > STREAMS and self.left > STREAMS, "too little was asked"


def resident():
    with open(f"/proc/{PID}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def open_files():
    return len(os.listdir(f"/proc/{PID}/fd"))


async def status():
    reader, writer = await asyncio.open_connection(URL.hostname, URL.port)
    writer.write(b"GET /status HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
    text = await reader.read()
    writer.close()
    return json.loads(text.split(b"\r\n\r\n")[1])


async def settle(files):
    """Everything that was left is given back."""
    for _ in range(100):
        now = await status()
        worker = now["worker"]
        held = {name: worker[name] for name in ("live", "queued", "paused", "pages_promised")}
        held |= {"answers": now["answers"], "files": max(0, open_files() - files - 4)}
        if not any(held.values()):
            break
        await asyncio.sleep(0.1)
    assert not any(held.values()), f"still held: {held}"
    assert worker["failed"] == 0 and worker["cache_broken"] == 0 and worker["busy"] == 0, worker
    ended = worker["finished"] + worker["cancelled"]
    assert worker["submitted"] == ended, worker
    print(f"the worker: {worker['finished']} finished, {worker['cancelled']} cancelled, {worker['cache_hits']} hits, "
          f"{worker['cache_evicted']} evicted")


asyncio.run(Soak().run())
