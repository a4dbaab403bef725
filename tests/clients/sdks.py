"""The official SDKs drive every feature of `hadal serve` with the demo model behind it.

Run by scripts/test-clients, which installs the SDKs and says in HADAL_URL where the server is and in HADAL_KEY
what it asks for. Answers are greedy where a test looks at words.
"""

import json
import os
import unittest

import anthropic
import openai

URL = os.environ["HADAL_URL"]
KEY = os.environ["HADAL_KEY"]
MODEL = "deepseek-v4-flash"
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
ANSWER = "17 + 25 = 42."
OFF = {"thinking": {"type": "disabled"}}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class OpenAI(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)

    def ask(self, **fields):
        fields = {"model": MODEL, "messages": QUESTION} | fields
        return self.client.chat.completions.create(**fields)

    def test_a_whole_answer_thinks_and_counts(self):
        answer = self.ask()
        message = answer.choices[0].message
        self.assertEqual(message.content, ANSWER)
        self.assertIn("42", message.reasoning_content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreater(usage.completion_tokens_details.reasoning_tokens, 0)

    def test_a_second_question_hits_the_cache(self):
        history = QUESTION + [{"role": "assistant", "content": ANSWER}]
        messages = history + [{"role": "user", "content": "how much is 345 minus 78?"}]
        self.ask(messages=messages, extra_body=OFF, max_tokens=4)
        usage = self.ask(messages=messages, extra_body=OFF, max_tokens=4).usage
        self.assertGreater(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, usage.prompt_tokens)

    def test_a_stream_thinks_before_it_answers(self):
        reasoning, content, usage = "", "", None
        for chunk in self.ask(stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                thought = getattr(choice.delta, "reasoning_content", None) or ""
                self.assertFalse(thought and content, "reasoning after content")
                reasoning += thought
                content += choice.delta.content or ""
        self.assertEqual(content, ANSWER)
        self.assertIn("42", reasoning)
        self.assertGreater(usage.completion_tokens, 0)

    def test_a_tool_goes_round(self):
        tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}
        messages = [{"role": "user", "content": "What is the weather in Rome?"}]
        answer = self.ask(messages=messages, tools=[tool], tool_choice="required", temperature=0)
        choice = answer.choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        call = choice.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        self.assertEqual(set(arguments), {"city", "days"})
        self.assertIn(arguments["days"], range(1, 10))
        messages.append(choice.message.to_dict())
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees"})
        answer = self.ask(messages=messages, tools=[tool], temperature=0, extra_body=OFF, max_tokens=60)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length", "tool_calls"))

    def test_a_streamed_call_is_the_whole_call(self):
        tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
        named = {"type": "function", "function": {"name": "weather"}}
        fields = {"tools": [tool], "tool_choice": named, "temperature": 0}
        whole = self.ask(**fields).choices[0].message.tool_calls[0].function.arguments
        pieces = []
        for chunk in self.ask(stream=True, **fields):
            for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                pieces.append(call.function.arguments or "")
        self.assertEqual("".join(pieces), whole)
        self.assertGreater(len(pieces), 4, "arguments come while they are written")

    def test_the_sdks_own_accumulator_understands_a_streamed_call(self):
        tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}
        with self.client.chat.completions.stream(
            model=MODEL, messages=QUESTION, tools=[tool], tool_choice="required", temperature=0
        ) as stream:
            deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
            call = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual("".join(event.arguments_delta for event in deltas), call.function.arguments)
        self.assertEqual(set(json.loads(call.function.arguments)), {"city", "days"})
        self.assertRegex(call.id, r"^call_00_[A-Za-z0-9]{24}$")

    def test_documents_follow_their_schema(self):
        form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER, "strict": True}}
        answer = self.ask(response_format=form, temperature=2, seed=1, extra_body=OFF, max_tokens=400)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(set(json.loads(answer.choices[0].message.content)), {"city", "days"})
        answer = self.ask(response_format={"type": "json_object"}, temperature=0, extra_body=OFF, max_tokens=400)
        if answer.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)

    def test_logprobs_are_those_of_the_tokens(self):
        answer = self.ask(logprobs=True, top_logprobs=3, temperature=0, extra_body=OFF, max_tokens=8)
        entries = answer.choices[0].logprobs.content
        self.assertEqual("".join(entry.token for entry in entries), answer.choices[0].message.content)
        for entry in entries:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.top_logprobs[0].token, entry.token, "greedy takes the likeliest")

    def test_a_prefix_is_continued(self):
        messages = QUESTION + [{"role": "assistant", "content": "17 + 25 = ", "prefix": True}]
        answer = self.ask(messages=messages, temperature=0, extra_body=OFF, max_tokens=20)
        self.assertNotIn("17", answer.choices[0].message.content)

    def test_completions_continue_a_text(self):
        answer = self.client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, temperature=0)
        self.assertEqual(answer.object, "text_completion")
        self.assertGreater(answer.usage.completion_tokens, 0)

    def test_errors_are_the_sdks_own(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(temperature=9)
        self.assertIn("temperature", caught.exception.message)
        with self.assertRaises(openai.BadRequestError):
            self.ask(model="gpt-4")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-4")
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=URL, api_key="wrong", max_retries=0).models.list()

    def test_a_stream_can_be_left(self):
        with self.client.completions.create(
            model=MODEL, prompt="Once", max_tokens=20000, temperature=2, stream=True
        ) as stream:
            next(iter(stream))
        self.assertEqual(self.ask(max_tokens=3).choices[0].finish_reason, "length")

    def test_models_are_listed(self):
        self.assertIn(MODEL, [model.id for model in self.client.models.list()])


class Anthropic(unittest.TestCase):
    def setUp(self):
        self.client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
        self.addCleanup(self.client.close)
        self.fields = {"model": MODEL, "max_tokens": 600, "messages": QUESTION}

    def ask(self, **fields):
        return self.client.messages.create(**self.fields | fields)

    def test_a_whole_answer_thinks_and_counts(self):
        answer = self.ask()
        self.assertEqual([block.type for block in answer.content], ["thinking", "text"])
        self.assertEqual(answer.content[1].text, ANSWER)
        self.assertTrue(answer.content[0].signature)
        self.assertEqual(answer.stop_reason, "end_turn")
        counted = self.client.messages.count_tokens(model=MODEL, messages=QUESTION)
        usage = answer.usage
        self.assertEqual(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)

    def test_a_stream_gives_the_whole_answer(self):
        kinds = set()
        with self.client.messages.stream(**self.fields) as stream:
            for event in stream:
                kinds.add(event.type)
            message = stream.get_final_message()
        self.assertEqual(message.content[-1].text, ANSWER)
        self.assertIn("thinking", kinds)
        self.assertEqual(message.stop_reason, "end_turn")

    def test_a_tool_goes_round(self):
        tool = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
        messages = [{"role": "user", "content": "What is the weather in Rome?"}]
        answer = self.ask(messages=messages, tools=[tool], tool_choice={"type": "any"}, extra_body={"temperature": 0})
        self.assertEqual(answer.stop_reason, "tool_use")
        call = answer.content[-1]
        self.assertEqual((call.type, call.name, set(call.input)), ("tool_use", "weather", {"city", "days"}))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        answer = self.ask(messages=messages, tools=[tool], thinking={"type": "disabled"}, max_tokens=60)
        self.assertIn(answer.stop_reason, ("end_turn", "max_tokens", "tool_use"))

    def test_a_streamed_call_is_a_call(self):
        tool = {"name": "weather", "input_schema": WEATHER}
        choice = {"type": "tool", "name": "weather"}
        with self.client.messages.stream(**self.fields, tools=[tool], tool_choice=choice) as stream:
            pieces = [event.partial_json for event in stream if event.type == "input_json"]
            message = stream.get_final_message()
        self.assertGreater(len(pieces), 4, "the input comes while it is written")
        self.assertEqual(json.loads("".join(pieces)), message.content[-1].input)
        self.assertEqual(message.content[-1].type, "tool_use")
        self.assertEqual(set(message.content[-1].input), {"city", "days"})

    def test_a_streamed_call_that_is_cut_off_is_no_fault(self):
        tool = {"name": "weather", "input_schema": WEATHER}
        fields = self.fields | {"max_tokens": 40}
        with self.client.messages.stream(
            **fields, tools=[tool], tool_choice={"type": "tool", "name": "weather"}
        ) as stream:
            message = stream.get_final_message()
        self.assertEqual(message.stop_reason, "max_tokens")
        self.assertIsInstance(message.content[-1].input, dict)

    def test_thinking_goes_back(self):
        first = self.ask()
        messages = QUESTION + [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": "how much is 345 minus 78?"},
        ]
        self.assertIn(self.ask(messages=messages).stop_reason, ("end_turn", "max_tokens"))

    def test_errors_are_the_sdks_own(self):
        with self.assertRaises(anthropic.BadRequestError):
            self.ask(max_tokens=0)
        with self.assertRaises(anthropic.NotFoundError):
            self.ask(model="gpt-4")
        with self.assertRaises(anthropic.AuthenticationError):
            anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0).models.list()

    def test_a_stream_can_be_left(self):
        fields = self.fields | {"messages": [{"role": "user", "content": "Tell me a story."}]}
        with self.client.messages.stream(**fields) as stream:
            next(iter(stream))
        self.assertEqual(self.ask(max_tokens=3).stop_reason, "max_tokens")

    def test_models_are_listed(self):
        self.assertIn(MODEL, [model.id for model in self.client.models.list()])


if __name__ == "__main__":
    unittest.main(verbosity=2)
