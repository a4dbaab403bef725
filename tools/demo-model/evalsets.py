"""The held-out questions: one jsonl file per skill, {skill, prompt, answer}, rendered with the special tokens."""
import json
import os

import chat
import data
import own_words

SIZES = ((256, 100), (512, 100), (1024, 100), (4096, 40))


def one_turn(msgs, thinking, which=-1):
    """keep the conversation up to one assistant message -> (prompt, answer)"""
    i = [i for i, m in enumerate(msgs) if m["role"] == "assistant"][which]
    full = chat.render(msgs[: i + 1], thinking)
    cut = full.rindex(chat.ASSISTANT) + len(chat.ASSISTANT)
    cut += len(chat.THINK) if full[cut:].startswith(chat.THINK) else len(chat.ENDTHINK)
    return full[:cut], full[cut:]


def make(count):
    """name -> list of {skill, prompt, answer}; an answer ends with the end-of-sentence token; count: text -> tokens"""
    g = data.Gen(20260423, "eval")

    def rows(name, n, draw):
        return name, [dict(zip(("skill", "prompt", "answer"), (name, *draw()))) for _ in range(n)]

    def call():
        while True:
            ms, _ = g.tools(1)
            if any(m.get("call") for m in ms):
                return ms

    def sized(target):
        """a recall prompt of at most `target` tokens (within one sentence of it)"""
        fill = int((target - 70) / 9.5)
        while True:
            p, a = one_turn(*g.recall(max(fill, 1), 5, 1, False), 0)
            if count(p) <= target:
                return p, a
            fill -= 1

    out = dict([
        rows("story", 100, lambda: one_turn(g.story()[0], False, 0)),
        rows("recall_short", 100, lambda: one_turn(*g.recall(g.r.randint(0, 5), g.r.randint(1, 4), 1, False), 0)),
        rows("add_sub_think", 100, lambda: one_turn(*g.arith(True, False, 1), 0)),
        rows("add_sub_direct", 100, lambda: one_turn(*g.arith(False, True, 1), 0)),
        rows("add_sub_written", 100, lambda: one_turn(*g.arith(False, False, 1), 0)),
        rows("tool_call", 100, lambda: one_turn(call(), False, 0)),
        rows("tool_result", 100, lambda: one_turn(call(), False, 1)),
        rows("small_talk", 100, lambda: one_turn(g.smalltalk()[0], False, 0)),
        rows("told_facts", 100, lambda: one_turn(g.personal()[0], False)),
        rows("mixed", 100, lambda: one_turn(*g.mixed())),
        rows("json", 100, lambda: one_turn(g.json_answer()[0], False, 0)),
        rows("repeat", 100, lambda: one_turn(*g.repeat(), 0)),
        *[rows(f"recall_{t}", n, lambda t=t: sized(t)) for t, n in SIZES],
    ])
    out["own_words"] = [dict(skill="own_words", prompt=p, answer=a) for p, a in own_words.rendered()]
    return out


def write(folder, count):
    os.makedirs(folder, exist_ok=True)
    for name, rows in make(count).items():
        with open(os.path.join(folder, name + ".jsonl"), "w") as fh:
            fh.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in rows)
