#!/usr/bin/env python3
"""Laws of the recipe's parts.  `test.py` needs only Python; `test.py --torch` also compares the trainer's forward pass with
transformers and its number formats with v4_formats.py."""
import random
import re
import sys

import chat
import data
import own_words
import toolbox


def a_trace_ends_with_the_sum():
    r = random.Random(1)
    for _ in range(2000):
        op, a, b = r.choice("+-"), r.randint(0, 999), r.randint(0, 999)
        if op == "-" and a < b:
            a, b = b, a
        t = data.Gen.trace(a, op, b)
        assert int(t[-4:]) == (a + b if op == "+" else a - b), t
        assert re.fullmatch(r"\d{3}[+-]\d{3}: (\d[+-]\d[+-][01]=[01]\d, ){3}\d{4}", t), t


def training_never_draws_a_held_out_value():
    g = data.Gen(3)
    for _ in range(2000):
        assert not g.held(*g.operands(False)) and not g.held("code", g.code())


def one_seed_gives_one_text():
    texts = [[chat.render(*g.short()) for _ in range(50)] for g in (data.Gen(5), data.Gen(5), data.Gen(6))]
    assert texts[0] == texts[1] != texts[2]


def every_tool_is_called_with_the_parameters_of_its_schema():
    g = data.Gen(4)
    for name, schema in toolbox.TOOLS.items():
        for _ in range(50):
            _, args, *_ = toolbox.turn(g, name)
            assert list(args) == schema["parameters"]["required"], name


def earlier_thoughts_are_dropped_unless_kept():
    m, _ = data.Gen(8).arith(True, turns=3)
    assert chat.render(m, True).count(": ") == 1 and chat.render(m, True, keep_all=True).count(": ") == 3


def own_words_end_with_the_end_token():
    for prompt, answer in own_words.rendered():
        assert prompt.endswith(chat.ENDTHINK) and answer.endswith(chat.EOS)


def the_fast_forward_pass_is_transformers():
    import torch
    import fastmodel
    import train
    m = train.build()
    train.init_weights(m)
    ids = torch.randint(20, 3000, (2, 192), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        a, b = fastmodel.Fast(m).logits(ids), m(ids).logits
    assert (a - b).abs().max() < 1e-4 * b.abs().max()


def fake_quantisation_is_store_and_load():
    import torch
    import kernels as K
    import v4_formats as V
    w = torch.randn(300, 256, generator=torch.Generator().manual_seed(2)) * 3
    for fake, quantise, dequantise in ((K.fake_fp8, V.quant_fp8_block, V.dequant_fp8_block), (K.fake_fp4, V.quant_fp4, V.dequant_fp4)):
        for x in (w, (w * 4).round() / 8):
            out = torch.empty_like(x)
            fake(x, out)
            assert torch.equal(out, dequantise(*quantise(x)))


PURE = [a_trace_ends_with_the_sum, training_never_draws_a_held_out_value, one_seed_gives_one_text,
        every_tool_is_called_with_the_parameters_of_its_schema, earlier_thoughts_are_dropped_unless_kept,
        own_words_end_with_the_end_token]
TORCH = [the_fast_forward_pass_is_transformers, fake_quantisation_is_store_and_load]

if __name__ == "__main__":
    for test in PURE + (TORCH if "--torch" in sys.argv else []):
        test()
        print("ok", test.__name__.replace("_", " "))
