"""The DeepSeek-V4 chat encoding, as far as the generated conversations need it."""
import json

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, ENDTHINK, DSML = "<think>", "</think>", "｜DSML｜"
SPECIALS = [BOS, EOS, PAD, USER, ASSISTANT, THINK, ENDTHINK, DSML, "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>",
            "<｜authority｜>", "<｜domain｜>", "<｜title｜>", "<｜read_url｜>"]

TOOLS_HEAD = """## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{d}tool_calls>" block like the following:

<{d}tool_calls>
<{d}invoke name="$TOOL_NAME">
<{d}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{d}parameter>
...
</{d}invoke>
<{d}invoke name="$TOOL_NAME2">
...
</{d}invoke>
</{d}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {t}), you MUST output your complete reasoning inside {t}...{e} BEFORE any tool calls or final response.

Otherwise, output directly after {e} with tool calls or final response.

### Available Tool Schemas

{schemas}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""


def js(v):
    return json.dumps(v, ensure_ascii=False)


def render_tools(tools):
    return (TOOLS_HEAD.replace("{d}", DSML).replace("{t}", THINK).replace("{e}", ENDTHINK)
            .replace("{schemas}", "\n".join(js(t) for t in tools)))


def render_call(name, args):
    ps = "\n".join(f'<{DSML}parameter name="{k}" string="{"true" if isinstance(v, str) else "false"}">'
                   f'{v if isinstance(v, str) else js(v)}</{DSML}parameter>' for k, v in args.items())
    return (f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="{name}">\n{ps}\n</{DSML}invoke>\n</{DSML}tool_calls>')


def render(msgs, thinking=False, keep_all=False):
    """msgs: dicts with role system|user|assistant|tool; system may have tools / response_format; assistant may have
    think and call=(name, args).  Earlier thoughts are dropped unless there are tools (as the released encoder does) or
    keep_all is set (training only: several sums in one document)."""
    out, has_tools = BOS, any(m.get("tools") for m in msgs)
    last_user = max(i for i, m in enumerate(msgs) if m["role"] in ("user", "tool"))
    for i, m in enumerate(msgs):
        r = m["role"]
        if r == "system":
            out += m.get("content", "")
            if m.get("tools"):
                out += "\n\n" + render_tools(m["tools"])
            if m.get("response_format"):
                out += ("\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
                        + js(m["response_format"]))
        elif r in ("user", "tool"):
            out += USER + (m["content"] if r == "user" else f"<tool_result>{m['content']}</tool_result>")
            keep = thinking and (has_tools or keep_all or i >= last_user)
            out += ASSISTANT + (THINK if keep else ENDTHINK)
        else:
            keep = thinking and (has_tools or keep_all or i > last_user)
            out += (m.get("think", "") + ENDTHINK if keep else "") + m.get("content", "")
            out += (render_call(*m["call"]) if m.get("call") else "") + EOS
    return out
