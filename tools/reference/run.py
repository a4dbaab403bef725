"""Interpreter, a tiny host, and the checks.   python run.py [--data DIR] [--quick]"""
import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np

from checkpoint import load, safetensors
from emit import Limits, StepShape, Weight, emit, op_counts, ring_rows, state_buffers
from ops import OPS

RUNGS = [1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 320, 512]


class Sequence:
    """`floor`: the lowest position this state can still be taken back to (rings forget, and a restored state has no past)."""
    def __init__(self, slot):
        self.slot, self.position, self.floor, self.pages = slot, 0, 0, []


class Engine:
    def __init__(self, c, weights, limits, real, bf16=False):
        self.c, self.weights, self.limits, self.real, self.bf16, self.plans = c, weights, limits, real, bf16, {}
        self.memory = {"w." + k: v.reshape(-1) for k, v in weights.items()}
        for k, shape in state_buffers(c, limits).items():                       # poison: an unwritten row must never matter
            self.memory[k] = np.full(shape[0] * shape[1], np.nan, real)
        self.slots = list(range(limits.slots))
        self.pages = list(np.random.default_rng(7).permutation(limits.pages))   # scattered on purpose

    # ---- sequence state: rings and pages addressed by position
    def open(self):
        return Sequence(self.slots.pop())

    def close(self, s):
        self.slots.append(s.slot)
        self.pages += s.pages

    def rings(self):
        """Each ring: buffer, ring length, first position the next token still needs."""
        c = self.c
        for i, m in enumerate(c.ratios):
            yield f"state.{i}.near", ring_rows(c, 0, self.limits), lambda p: p - c.window + 1
            for name in ("main", "index")[: 2 if c.indexed[m] else 1] if m else ():
                yield f"state.{i}.{name}.tail", ring_rows(c, m, self.limits), lambda p, m=m: (p // m - c.halves[m] + 1) * m

    def table(self, name):
        return self.memory[name].reshape(state_buffers(self.c, self.limits)[name])

    def entry_rows(self, s, m, count):
        per, e = self.limits.page_tokens // m, np.arange(count)
        return np.array(s.pages, np.int64)[e // per] * per + e % per if count else e

    def snapshot(self, s):
        """The whole state at s.position: only what the future needs, in the order of positions."""
        p, out = s.position, {}
        for name, ring, first in self.rings():
            out[name] = self.table(name)[s.slot * ring + np.arange(max(first(p), 0), p) % ring].copy()
        for name in [n for n in self.memory if n.endswith(".entries")]:
            m = self.c.ratios[int(name.split(".")[1])]
            out[name] = self.table(name)[self.entry_rows(s, m, p // m)].copy()
        return p, out

    def restore(self, saved):
        s, (p, rows) = self.open(), saved
        s.position = s.floor = p
        s.pages = [self.pages.pop() for _ in range(-(-p // self.limits.page_tokens))]
        for name, ring, first in self.rings():
            t = self.table(name)
            t[s.slot * ring:(s.slot + 1) * ring] = np.nan
            t[s.slot * ring + np.arange(max(first(p), 0), p) % ring] = rows[name]
        for name in [n for n in self.memory if n.endswith(".entries")]:
            m = self.c.ratios[int(name.split(".")[1])]
            self.table(name)[self.entry_rows(s, m, p // m)] = rows[name]
        return s

    def roll_back(self, s, tokens):
        assert s.position - tokens >= s.floor
        s.position -= tokens                                                    # that is all

    # ---- one step
    def plan(self, shape):
        """Compiled once per shape: every operand is bound to memory here and never again."""
        if shape not in self.plans:
            program = emit(self.c, shape, self.limits)
            assert program == emit(self.c, shape, self.limits)
            self.plans[shape] = Plan(program, self.memory, self.weights, self.real, self.bf16)
        return self.plans[shape]

    def fill(self, b, batch):
        """The step block of a batch [(sequence, tokens)]; everything not set stays at "absent"."""
        c, lim = self.c, self.limits
        for field in b.values():
            field.fill(-1 if field.dtype == np.int32 else 0)
        angle = lambda p, f: np.concatenate([np.cos(p[:, None] * f), np.sin(p[:, None] * f)], 1)
        b["experts"][:] = 0
        done, row0 = {m: 0 for m in set(c.ratios) - {0}}, 0
        for m in done:
            b[f"reach{m}"][:, 1] = 0
        for n, (s, tokens) in enumerate(batch):
            start, count = s.position, len(tokens)
            end, rows = start + count, slice(row0, row0 + count)
            t = np.arange(start, end)
            while len(s.pages) * lim.page_tokens < end:
                s.pages.append(self.pages.pop())
            b["pages"][n, :len(s.pages)] = s.pages
            b["token"][rows], b["experts"][rows] = tokens, c.experts
            b["rope_main"][rows], b["rope_compress"][rows] = angle(t, c.f_main), angle(t, c.f_compress)

            def place(p, ring):                             # buffer row of position p: landing if of this step, else its ring
                return np.where(p < 0, -1, np.where(p >= start, lim.slots * ring + row0 + p - start, s.slot * ring + p % ring))

            def keep(ring):                                 # where landing rows go when the readers are done
                return np.where(t >= end - ring, s.slot * ring + t % ring, -1)

            b["near"][rows] = place(t[:, None] + np.arange(1 - c.window, 1), ring_rows(c, 0, lim))
            b["near_keep"][rows] = keep(ring_rows(c, 0, lim))
            for m in done:
                h, ring, per = c.halves[m], ring_rows(c, m, lim), lim.page_tokens // m
                b[f"reach{m}"][rows] = np.stack([np.full(count, n), (t + 1) // m], 1)
                b[f"tail_keep{m}"][rows] = keep(ring)
                e = np.arange(start // m, end // m)         # windows whose last token is of this step
                out = slice(done[m], done[m] + len(e))
                done[m] += len(e)
                slot = np.arange(h * m)                     # slot j * h + half: token j of window e - (h - 1) + half
                p = place((e[:, None] - (h - 1) + slot % h) * m + slot // h, ring)
                E = len(b[f"entry_row{m}"])                 # values in the first E lists, gates in the last E
                b[f"pool{m}"][out] = np.where(p < 0, -1, p * 2 * h + slot % h)
                b[f"pool{m}"][E:][out] = np.where(p < 0, -1, p * 2 * h + h + slot % h)
                b[f"entry_row{m}"][out] = np.array(s.pages)[e // per] * per + e % per
                b[f"entry_rope{m}"][out] = angle(e * m, c.f_compress)
            row0 += count
        return b

    def step(self, batch, kind="Verify", rung=None, sequences=4, logit_rows=None):
        rows = sum(len(t) for _, t in batch)
        shape = StepShape(kind, rung or next(r for r in RUNGS if r >= rows), sequences)
        plan = self.plan(shape)
        self.fill(plan.step, batch)
        want = np.arange(rows) if logit_rows is None else np.asarray(logit_rows)
        plan.step["logit_rows"][:len(want)] = want
        plan.run()
        for s, tokens in batch:
            s.position += len(tokens)
            s.floor = max(s.floor, s.position - self.limits.rollback)
        return plan.logits[:len(want)].copy()


def resolve(memory, t):
    """The bytes a tensor names; np.ndarray refuses a view that leaves its buffer."""
    flat = memory[t.buffer]
    strides = [t.stride] + [math.prod(t.shape[d + 1:]) for d in range(1, len(t.shape))]
    return np.ndarray(t.shape, flat.dtype, flat, t.offset * flat.itemsize, [n * flat.itemsize for n in strides])


def to_bf16(x):
    """Nearest even, kept in a float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), np.float32(np.nan), ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32))


class Plan:
    def __init__(self, program, memory, weights, real, bf16):
        new = lambda d, n: np.zeros(n, np.int32 if d == "i32" else real)
        store = lambda t: (resolve(memory, t), bf16 and t.dtype == "bf16")
        self.scratch = {k: new(d, n) for k, (d, n) in program.buffers.items()}
        memory = memory | self.scratch | {"step." + k: new(d, math.prod(shape)) for k, (d, shape) in program.step.items()}
        self.step = {k: memory["step." + k].reshape(shape) for k, (_, shape) in program.step.items()}
        self.logits, self.bound = resolve(memory, program.logits), []
        for op in program.ops:
            fields = dict(op.fields) | ({"shape": op.out[0].shape} if op.kind == "map" else {})
            args = {k: weights[v.name].reshape(v.groups, v.rows, v.cols) if isinstance(v, Weight) else resolve(memory, v) for k, v in op.ins}
            self.bound.append((OPS[op.kind], args | fields, [store(t) for t in op.out if t]))

    def run(self):
        for array in self.scratch.values():                                     # nothing survives a step in scratch
            array.fill(-2**30 if array.dtype == np.int32 else np.nan)
        for op, args, out in self.bound:
            result = op(**args)
            for (place, rounds), value in zip(out, result if isinstance(result, tuple) else (result,)):
                place[...] = to_bf16(value) if rounds else value


# ---------------------------------------------------------------- checks
LIMITS = Limits(slots=4, pages=24, sequence_pages=4, page_tokens=128, rows=512, rollback=5, index_tile=48)


def engine(folder, real, served=False):
    """Served: the quantisation round trips in the program; with float32 also the rounding of bf16 tensors."""
    c, w = load(folder, real, served)
    return Engine(c, w, LIMITS, real, bf16=served and real == np.float32)


def feed(e, s, ids, sizes, **k):
    out, at, n = [], 0, 0
    while at < len(ids):
        size = sizes[n % len(sizes)]
        out.append(e.step([(s, ids[at:at + size])], **k))
        at, n = at + size, n + 1
    return np.concatenate(out)


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def check_references(data, preset, real):
    worst = 0
    for f in sorted((data / "refs").glob(preset + ".*")):
        ref = {k: t for k, _, t in safetensors(f)}
        e = engine(data / preset, real)
        s, ids = e.open(), ref["input_ids"]
        got = feed(e, s, ids, [37, 1, 90, 2])
        steps = np.concatenate([e.step([(s, [t])]) for t in ref["decode_ids"][:-1]])
        worst = max(worst, relative(got, ref["logits"]), relative(np.concatenate([got[-1:], steps]), ref["decode_logits"]))
    return worst


def same(a, b, what):
    assert a.shape == b.shape and a.tobytes() == b.tobytes(), what
    return 1


def check_bits(data, preset, length, quick, served=False):
    rng, e, n = np.random.default_rng(1), engine(data / preset, np.float32, served), 0
    ids = rng.integers(3, 384, (3, length))
    base = []
    for row in ids:                                                             # token by token, decode rung 1, alone
        s = e.open()
        base.append(feed(e, s, row, [1], kind="Decode", sequences=1, logit_rows=[0]))
        e.close(s)
    for sizes in [[2], [3], [5], [7], [31], [64], [127], [128], [129], [130], [300], [1, 130, 2, 5]][:: 4 if quick else 1]:
        s = e.open()
        n += same(feed(e, s, ids[0], sizes), base[0], f"chunks of {sizes}")
        e.close(s)
    for size in (5, 127):                                                       # exact shape against padded rung
        s = e.open()
        n += same(np.concatenate([e.step([(s, ids[0][a:a + size])], rung=len(ids[0][a:a + size])) for a in range(0, length, size)]),
                  base[0], f"exact rung {size}")
        e.close(s)
    s, got = e.open(), []                                                       # Prefill kind: logits of the last row only
    for a in range(0, length, 64):
        got.append(e.step([(s, ids[0][a:a + 64])], kind="Prefill", logit_rows=[len(ids[0][a:a + 64]) - 1]))
    n += same(np.concatenate(got), base[0][np.minimum(np.arange(63, length + 63, 64), length - 1)], "prefill kind")
    e.close(s)

    for trial in range(1 if quick else 4):                                      # three sequences: chunks, decode rows, saves, roll-backs
        seqs, got = [e.open() for _ in ids], [[] for _ in ids]
        while any(s.position < length for s in seqs):
            batch = []
            for k in rng.permutation(3):
                s, left = seqs[k], length - seqs[k].position
                if left and rng.random() < 0.8:
                    batch.append((s, ids[k][s.position:s.position + min(left, int(rng.choice([1, 1, 1, 2, 4, 9, 33, 90])))]))
            if not batch:
                continue
            rows = e.step(batch)
            for s, tokens in batch:
                k = seqs.index(s)
                got[k] += list(rows[:len(tokens)])
                rows = rows[len(tokens):]
                if rng.random() < 0.15:                                         # speculation: wrong tokens, then back
                    d = int(rng.integers(1, 6))
                    e.step([(s, rng.integers(3, 384, d))])
                    e.roll_back(s, d)
                    n += 1
                elif s.position > s.floor and rng.random() < 0.15:              # accepted tokens taken back and fed again
                    d = int(rng.integers(1, s.position - s.floor + 1))
                    e.roll_back(s, d)
                    del got[k][-d:]
                    n += 1
                if rng.random() < 0.1:                                          # save, evict, restore elsewhere
                    saved = e.snapshot(s)
                    e.close(s)
                    other, seqs[k] = e.open(), None                             # another sequence takes the freed slot and pages
                    e.step([(other, rng.integers(3, 384, 40))])
                    seqs[k] = e.restore(saved)
                    e.close(other)
                    n += 1
        for k in range(3):
            n += same(np.stack(got[k]), base[k], f"mix {trial} sequence {k}")
            e.close(seqs[k])
    return n, len(e.plans), sum(len(p.bound) for p in e.plans.values())


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "tests" / "checkpoints")
    a.add_argument("--length", type=int, default=300)
    a.add_argument("--only")
    a.add_argument("--quick", action="store_true")
    a = a.parse_args()
    np.seterr(all="ignore")                                                     # padding rows and unwritten columns hold NaN on purpose
    counts = {}
    for folder in sorted(p for p in a.data.iterdir() if (p / "config.json").exists() and (not a.only or p.name == a.only)):
        begin = time.time()
        e64, e32 = check_references(a.data, folder.name, np.float64), check_references(a.data, folder.name, np.float32)
        assert e64 < 1e-5 and e32 < 1e-4, (folder.name, e64, e32)
        n, plans, ops = check_bits(a.data, folder.name, a.length, a.quick)
        if folder.name.endswith("-orig"):                                       # the released types: also with every served rounding
            n += check_bits(a.data, folder.name, a.length, True, served=True)[0]
        for served in (False, True):
            c, _ = load(folder, np.float32, served)
            for k, v in op_counts(c, emit(c, StepShape("Decode", 4, 4), LIMITS)).items():
                counts.setdefault(k, {})[served] = v
        print(f"{folder.name:16s} vs reference: f64 {e64:.1e}  f32 {e32:.1e}   bitwise checks passed: {n}   "
              f"plans {plans}, ops {ops}   {time.time() - begin:.0f} s", flush=True)
    print("ops per layer (exact numerics / served numerics):", {k: f"{v[False]}/{v[True]}" for k, v in counts.items()})


if __name__ == "__main__":
    main()
