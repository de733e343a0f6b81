"""The server as the Python package `openai` sees it.

Where it is and the key that it wants are in OPENAI_BASE_URL and OPENAI_API_KEY, which the
package reads itself. The server has the bundled model, the template tools.jinja and four slots.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=key python openai_client.py
"""

import asyncio
import json
import math
import os
import time
import unittest
import urllib.request
from typing import Literal

import openai
from pydantic import BaseModel

CLIENT = openai.OpenAI(max_retries=0, timeout=120)
MODEL = CLIENT.models.list().data[0].id
QUESTION = [{"role": "user", "content": "How do I keep the experts on the CPU?"}]
ANSWER = "with_cpu_moe_all"

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Oslo", "Lima"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time"}}
CALL_WEATHER = {"type": "function", "function": {"name": "weather"}}


def chat(messages=QUESTION, **options):
    """A chat without chance."""
    options = {"model": MODEL, "temperature": 0, **options}
    return CLIENT.chat.completions.create(messages=messages, **options)


def metric(name):
    """A number of the server's metrics."""
    root = str(CLIENT.base_url).removesuffix("v1/")
    key = {"Authorization": f"Bearer {CLIENT.api_key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{root}metrics", headers=key)) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(f"no {name} among the metrics")


class Models(unittest.TestCase):
    def test_the_model_is_listed(self):
        models = CLIENT.models.list().data
        self.assertEqual([model.object for model in models], ["model"])
        self.assertEqual(CLIENT.models.retrieve(MODEL).id, MODEL)

    def test_another_is_not_found(self):
        with self.assertRaises(openai.NotFoundError):
            CLIENT.models.retrieve("no-such-model")


class Chat(unittest.TestCase):
    def test_it_answers(self):
        reply = chat()
        (choice,) = reply.choices
        self.assertIn(ANSWER, choice.message.content)
        self.assertEqual((choice.message.role, choice.finish_reason), ("assistant", "stop"))
        self.assertEqual((reply.object, reply.model), ("chat.completion", MODEL))
        usage = reply.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_content_in_parts(self):
        parts = [{"type": "text", "text": QUESTION[0]["content"]}]
        reply = chat([{"role": "user", "content": parts}])
        self.assertIn(ANSWER, reply.choices[0].message.content)

    def test_what_was_asked_before_is_not_computed_again(self):
        chat()
        usage = chat().usage
        self.assertGreater(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertLess(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens)

    def test_a_stream_has_the_same_text(self):
        whole = chat()
        chunks = list(chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.total_tokens), ([], whole.usage.total_tokens))
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
        text = "".join(choice.delta.content or "" for choice in deltas)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual([d.finish_reason for d in deltas if d.finish_reason], ["stop"])
        self.assertGreater(len([d for d in deltas if d.delta.content]), 5)

    def test_no_usage_in_a_stream_that_does_not_ask_for_it(self):
        self.assertTrue(all(chunk.choices and not chunk.usage for chunk in chat(stream=True)))

    def test_the_helper_for_streams(self):
        with CLIENT.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
            kinds = {event.type for event in stream}
            reply = stream.get_final_completion()
        self.assertLessEqual({"chunk", "content.delta", "content.done"}, kinds)
        self.assertIn(ANSWER, reply.choices[0].message.content)

    def test_a_bound_on_tokens(self):
        for name in ("max_tokens", "max_completion_tokens"):
            reply = chat(**{name: 3})
            self.assertEqual(reply.usage.completion_tokens, 3, name)
            self.assertEqual(reply.choices[0].finish_reason, "length", name)

    def test_stop_strings(self):
        whole = chat().choices[0].message.content
        at = whole.index("_cpu")
        for stop in ("_cpu", ["never there", "_cpu"]):
            (choice,) = chat(stop=stop).choices
            self.assertEqual((choice.message.content, choice.finish_reason), (whole[:at], "stop"))

    def test_several_answers(self):
        reply = chat(n=3, max_tokens=8)
        self.assertEqual([choice.index for choice in reply.choices], [0, 1, 2])
        self.assertEqual(len({choice.message.content for choice in reply.choices}), 1)
        self.assertEqual(reply.usage.completion_tokens, 24)
        texts = ["", "", ""]
        for chunk in chat(n=3, max_tokens=8, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        self.assertEqual(texts, [choice.message.content for choice in reply.choices])

    def test_logprobs(self):
        reply = chat(logprobs=True, top_logprobs=3, max_tokens=8)
        content = reply.choices[0].logprobs.content
        self.assertEqual(len(content), 8)
        text = b"".join(bytes(token.bytes) for token in content)
        self.assertEqual(text.decode(), reply.choices[0].message.content)
        for token in content:
            top = [other.logprob for other in token.top_logprobs]
            self.assertEqual(len(top), 3)
            self.assertEqual(top, sorted(top, reverse=True))
            # Without chance the likeliest is chosen.
            self.assertAlmostEqual(token.logprob, top[0], places=5)
            self.assertLessEqual(sum(map(math.exp, top)), 1.0001)

    def test_a_bias_forbids_a_token(self):
        first = chat(max_tokens=1, logprobs=True).choices[0].message.content
        ids = CLIENT.post("../tokenize", cast_to=object, body={"content": first})["tokens"]
        reply = chat(max_tokens=1, logit_bias={str(id): -100 for id in ids})
        self.assertNotEqual(reply.choices[0].message.content, first)

    def test_fields_that_mean_nothing_here(self):
        reply = chat(user="somebody", store=False, metadata={"a": "b"}, service_tier="auto", max_tokens=2)
        self.assertEqual(reply.usage.completion_tokens, 2)


class Tools(unittest.TestCase):
    def check(self, call):
        self.assertEqual((call.type, call.function.name), ("function", "weather"))
        self.assertTrue(call.id)
        arguments = json.loads(call.function.arguments)
        self.assertEqual(set(arguments), {"city", "days"})
        self.assertIn(arguments["city"], ["Oslo", "Lima"])
        self.assertIn(arguments["days"], range(1, 8))

    def test_a_call_and_its_result(self):
        reply = chat(tools=[WEATHER, CLOCK], tool_choice=CALL_WEATHER)
        message = reply.choices[0].message
        (call,) = message.tool_calls
        self.check(call)
        self.assertFalse(message.content)
        self.assertIn(reply.choices[0].finish_reason, ("stop", "tool_calls"))

        result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        conversation = [*QUESTION, message.model_dump(exclude_none=True), result]
        reply = chat(conversation, tools=[WEATHER], tool_choice="none", max_tokens=8)
        self.assertTrue(reply.choices[0].message.content)
        self.assertIsNone(reply.choices[0].message.tool_calls)

    def test_one_tool_that_is_required(self):
        reply = chat(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
        (call,) = reply.choices[0].message.tool_calls
        self.check(call)

    def test_a_call_in_a_stream(self):
        stream = CLIENT.chat.completions.stream(
            model=MODEL, messages=QUESTION, temperature=0, tools=[WEATHER], tool_choice=CALL_WEATHER
        )
        with stream as events:
            reply = events.get_final_completion()
        (call,) = reply.choices[0].message.tool_calls
        self.check(call)
        self.assertFalse(reply.choices[0].message.content)

    def test_a_call_is_parsed(self):
        class Weather(BaseModel):
            """The weather in a city."""

            city: Literal["Oslo", "Lima"]

        stream = CLIENT.chat.completions.stream(
            model=MODEL,
            messages=QUESTION,
            tools=[openai.pydantic_function_tool(Weather, name="weather")],
            tool_choice="required",
        )
        with stream as events:
            (call,) = events.get_final_completion().choices[0].message.tool_calls
        self.assertIsInstance(call.function.parsed_arguments, Weather)

    def test_tools_that_need_not_be_called(self):
        reply = chat(tools=[CLOCK], tool_choice="auto", max_tokens=8)
        message = reply.choices[0].message
        self.assertTrue(message.content or message.tool_calls)


class Schemas(unittest.TestCase):
    class Device(BaseModel):
        # The model is too small to end a text or a number of its own accord.
        name: Literal["CPU", "GPU"]
        gib: Literal[8, 16, 24]
        is_free: bool

    SCHEMA = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["cpu", "gpu"]},
            "sizes": {"type": "array", "items": {"enum": [1, 2, 4]}, "minItems": 2, "maxItems": 2},
        },
        "required": ["kind", "sizes"],
        "additionalProperties": False,
    }

    def test_an_answer_has_the_schema(self):
        named = {"name": "device", "strict": True, "schema": self.SCHEMA}
        for seed in range(3):
            form = {"type": "json_schema", "json_schema": named}
            # There can be white space in 14 places, up to 40 characters in each.
            reply = chat(response_format=form, temperature=1, seed=seed, max_tokens=800)
            self.assertEqual(reply.choices[0].finish_reason, "stop")
            answer = json.loads(reply.choices[0].message.content)
            self.assertEqual(set(answer), {"kind", "sizes"})
            self.assertIn(answer["kind"], ["cpu", "gpu"])
            self.assertEqual(len(answer["sizes"]), 2)
            self.assertLessEqual(set(answer["sizes"]), {1, 2, 4})

    def test_an_answer_is_parsed(self):
        reply = CLIENT.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=self.Device)
        self.assertIsInstance(reply.choices[0].message.parsed, self.Device)

    def test_any_object(self):
        for seed in range(5):
            reply = chat(response_format={"type": "json_object"}, temperature=1, seed=seed, max_tokens=300)
            if reply.choices[0].finish_reason == "stop":
                self.assertIsInstance(json.loads(reply.choices[0].message.content), dict)
                return
            self.assertTrue(reply.choices[0].message.content.lstrip().startswith("{"))


class Completions(unittest.TestCase):
    def complete(self, prompt="Experts are", **options):
        options = {"model": MODEL, "temperature": 0, "max_tokens": 3, **options}
        return CLIENT.completions.create(prompt=prompt, **options)

    def test_it_goes_on(self):
        reply = self.complete()
        self.assertEqual((reply.object, reply.usage.completion_tokens), ("text_completion", 3))
        self.assertTrue(reply.choices[0].text)
        self.assertEqual(reply.choices[0].finish_reason, "length")

    def test_a_stream_has_the_same_text(self):
        text = "".join(chunk.choices[0].text for chunk in self.complete(stream=True) if chunk.choices)
        self.assertEqual(text, self.complete().choices[0].text)

    def test_a_seed_repeats_an_answer(self):
        def texts(seed):
            # The beginning of an answer to nothing: of a question the model is too sure.
            prompt = "<|im_start|>assistant\n"
            reply = self.complete(prompt, temperature=2, top_p=1, seed=seed, n=4, max_tokens=16)
            return [choice.text for choice in reply.choices]

        first = texts(7)
        self.assertEqual(first, texts(7))
        self.assertGreater(len(set(first)), 1)
        self.assertNotEqual(first, texts(70))

    def test_several_prompts(self):
        reply = self.complete(["Experts are", "A router is"], n=1)
        self.assertEqual([choice.index for choice in reply.choices], [0, 1])
        self.assertEqual(reply.choices[0].text, self.complete().choices[0].text)

    def test_a_prompt_of_tokens(self):
        text = {"content": "Experts are", "add_special": True}
        tokens = CLIENT.post("../tokenize", cast_to=object, body=text)["tokens"]
        self.assertEqual(self.complete(tokens).choices[0].text, self.complete().choices[0].text)


class Embeddings(unittest.TestCase):
    def test_texts_are_embedded(self):
        texts = ["the experts are on the CPU", "the router is on the GPU", "the experts are on the CPU"]
        reply = CLIENT.embeddings.create(model=MODEL, input=texts)
        vectors = [entry.embedding for entry in reply.data]
        self.assertEqual([entry.index for entry in reply.data], [0, 1, 2])
        self.assertEqual(len({len(vector) for vector in vectors}), 1)
        for vector in vectors:
            self.assertAlmostEqual(math.hypot(*vector), 1.0, places=3)

        def cosine(a, b):
            return sum(x * y for x, y in zip(vectors[a], vectors[b]))

        self.assertAlmostEqual(cosine(0, 2), 1.0, places=3)
        self.assertLess(cosine(0, 1), cosine(0, 2))
        self.assertGreater(reply.usage.prompt_tokens, 3)
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens)

    def test_both_encodings_say_the_same(self):
        # What the package asks for where nobody says is base64.
        one, other = (
            CLIENT.embeddings.create(model=MODEL, input="experts", **options).data[0].embedding
            for options in ({}, {"encoding_format": "float"})
        )
        self.assertEqual(len(one), len(other))
        for a, b in zip(one, other):
            self.assertAlmostEqual(a, b, places=4)


class Errors(unittest.TestCase):
    def refused(self, kind=openai.BadRequestError, **options):
        with self.assertRaises(kind) as caught:
            chat(**options)
        body = caught.exception.body
        self.assertTrue(body["message"])
        self.assertLessEqual({"message", "type", "param", "code"}, set(body))
        return caught.exception

    def test_an_unknown_model(self):
        self.assertEqual(self.refused(openai.NotFoundError, model="gpt-17").code, "model_not_found")

    def test_a_wrong_key(self):
        client = CLIENT.with_options(api_key="wrong")
        with self.assertRaises(openai.AuthenticationError):
            client.chat.completions.create(model=MODEL, messages=QUESTION)

    def test_no_messages(self):
        self.refused(messages=[])

    def test_the_field_is_named(self):
        self.assertEqual(self.refused(temperature=7).param, "temperature")
        self.assertEqual(self.refused(openai.NotFoundError, model="gpt-17").param, "model")

    def test_wrong_types_and_values(self):
        for options in (
            {"temperature": "hot"},
            {"temperature": -1},
            {"temperature": 7},
            {"max_tokens": 0},
            {"max_tokens": -5},
            {"max_tokens": 1.5},
            {"n": 0},
            {"n": 1000},
            {"top_p": 7},
            {"stop": 3},
            {"stop": ""},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"99999999": 1}},
            {"top_logprobs": 3},
            {"stream": "yes"},
            {"tool_choice": "required"},
            {"tools": [{"type": "function"}]},
            {"messages": "hello"},
            {"messages": [{"role": "nobody", "content": "x"}]},
            {"messages": [{"role": "user", "content": 7}]},
        ):
            with self.subTest(options):
                self.refused(**options)

    def test_schemas_that_are_none(self):
        for schema in ({"type": "no such type"}, {"type": "object", "properties": 3}, {"$ref": "#/nowhere"}):
            with self.subTest(schema):
                named = {"name": "wrong", "schema": schema}
                self.refused(response_format={"type": "json_schema", "json_schema": named})

    def test_a_prompt_that_is_too_long(self):
        error = self.refused(messages=[{"role": "user", "content": "experts " * 20_000}])
        self.assertEqual(error.code, "context_length_exceeded")

    def test_nothing_there(self):
        with self.assertRaises(openai.NotFoundError):
            CLIENT.get("/no-such-thing", cast_to=object)

    def test_all_slots_are_free_afterwards(self):
        self.assertEqual(metric("llama_moe_slots_busy"), 0)
        self.assertIn(ANSWER, chat().choices[0].message.content)


class Cancelling(unittest.TestCase):
    # One letter, and never an end.
    GRAMMAR = {"grammar": 'root ::= "a" root'}

    def wait_for_free_slots(self):
        end = time.monotonic() + 10
        while metric("llama_moe_slots_busy") > 0:
            self.assertLess(time.monotonic(), end, "a slot is still taken")
            time.sleep(0.02)

    def test_a_client_that_leaves(self):
        cancelled = metric('llama_moe_requests_total{outcome="cancelled"}')
        for _ in range(8):
            stream = chat(stream=True, max_tokens=900, extra_body=self.GRAMMAR)
            for _, chunk in zip(range(4), stream):
                self.assertTrue(chunk.choices)
            stream.close()
        self.wait_for_free_slots()
        # One that was as good as over may have come to its end.
        self.assertGreater(metric('llama_moe_requests_total{outcome="cancelled"}'), cancelled + 4)
        self.assertIn(ANSWER, chat().choices[0].message.content)

    def test_a_client_that_has_no_time(self):
        hasty = CLIENT.with_options(timeout=0.1)
        with self.assertRaises(openai.APITimeoutError):
            hasty.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, max_tokens=900, extra_body=self.GRAMMAR
            )
        self.wait_for_free_slots()


class Many(unittest.TestCase):
    def test_all_at_a_time_say_the_same(self):
        async def ask():
            async with openai.AsyncOpenAI(max_retries=0, timeout=120) as client:
                request = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
                return (await request).choices[0].message.content

        async def ask_all():
            return await asyncio.gather(*(ask() for _ in range(16)))

        texts = asyncio.run(ask_all())
        self.assertTrue(all(ANSWER in text for text in texts), texts)


if __name__ == "__main__":
    for variable in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        assert variable in os.environ, f"{variable} is not set"
    unittest.main(verbosity=2)
