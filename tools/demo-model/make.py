#!/usr/bin/env python3
"""Make the demo model from nothing: data -> training -> export -> held-out sets -> scores -> golden continuations -> card.

    make.py OUT [--steps N] [--ranks 2] [--init MODEL]

OUT/train holds checkpoints and the log, OUT/model the finished folder (what models/demo is), OUT/results.json the scores.
A run that was killed goes on where it was when the same command is given again.
"""
import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


def run(script, *args):
    print("---", script, *args, flush=True)
    subprocess.run([sys.executable, os.path.join(HERE, script), *args], check=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--steps", type=int, default=4400)
    ap.add_argument("--ranks", type=int, default=2, help="training processes, one core each")
    ap.add_argument("--init", help="go on from the weights of this model folder instead of from nothing")
    a = ap.parse_args()
    init = ["--init", a.init] if a.init else []
    at = lambda *p: os.path.join(a.out, *p)
    run("train.py", at("train"), "--steps", str(a.steps), "--ranks", str(a.ranks), "--resume", *init)
    run("export.py", at("train", "ckpt.pt"), at("model"))
    import evalsets
    import tok
    t = tok.load()
    evalsets.write(at("model", "eval"), lambda s: len(t.encode(s, add_special_tokens=False).ids))
    run("eval.py", at("model"), "--sets", at("model", "eval"), "--out", at("results.json"), "--golden", at("model", "golden.json"))
    run("card.py", at("model"), at("results.json"), at("train", "log.jsonl"))


if __name__ == "__main__":
    main()
