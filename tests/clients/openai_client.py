"""The openai package for Python against the server.

Usage: openai_client.py URL URL_WITH_TOOLS

The second server has a chat template with a place for tools.
"""

import json
import math
import sys
from typing import Literal

import openai
import pydantic

MODEL = "moe-guide-q8_0"
QUESTION = [{"role": "user", "content": "How do I keep the experts on the CPU?"}]


# The bundled model is too small to end a text of its own accord: what it may choose is listed.
class Plan(pydantic.BaseModel):
    device: Literal["CPU", "GPU"]
    layers: Literal[1, 2, 4, 8]


class Weather(pydantic.BaseModel):
    """The weather in a city."""

    city: Literal["Oslo", "Rome"]


def connect(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def chat(client):
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    text = whole.choices[0].message.content
    assert "cpu-moe" in text and whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stream=True, stream_options=options
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    several = client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=2, seed=7, max_completion_tokens=5,
        logprobs=True, top_logprobs=2, stop=["nowhere"],
    )
    assert [choice.index for choice in several.choices] == [0, 1]
    for token in several.choices[0].logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2, token


def completions(client):
    text = client.completions.create(model=MODEL, prompt="How do I", max_tokens=4, temperature=0)
    stream = client.completions.create(
        model=MODEL, prompt="How do I", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text


def schema(client):
    parsed = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Plan)
    assert isinstance(parsed.choices[0].message.parsed, Plan), parsed
    plain = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=200, temperature=0,
        response_format={"type": "json_object"},
    )
    if plain.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(plain.choices[0].message.content), dict)


def embeddings(client):
    # The package asks for base64 unless told otherwise.
    both = client.embeddings.create(model=MODEL, input=["an expert", "a router"])
    floats = client.embeddings.create(model=MODEL, input="an expert", encoding_format="float")
    first = both.data[0].embedding
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-3)
    for a, b in zip(first, floats.data[0].embedding, strict=True):
        assert math.isclose(a, b, abs_tol=1e-3)
    assert both.data[1].index == 1 and both.usage.prompt_tokens > 0


def tools(client):
    tool = openai.pydantic_function_tool(Weather, name="weather")
    asked = {"model": MODEL, "messages": QUESTION, "tools": [tool]}
    forced = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(**asked, tool_choice=forced, seed=1)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", answer
    call = choice.message.tool_calls[0]
    Weather.model_validate_json(call.function.arguments)

    with client.chat.completions.stream(**asked, tool_choice="required", seed=1) as stream:
        final = stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls[0]
    assert streamed.function.name == "weather", final
    Weather.model_validate(streamed.function.parsed_arguments)

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*QUESTION, choice.message, result]
    client.chat.completions.create(
        model=MODEL, messages=messages, tools=[tool], max_completion_tokens=4
    )


def errors(client):
    def ask(**more):
        fields = {"model": MODEL, "messages": QUESTION, **more}
        return lambda: client.chat.completions.create(**fields)

    error = refused(openai.NotFoundError, ask(model="gpt-4"))
    assert error.code == "model_not_found" and error.param == "model", error
    error = refused(openai.BadRequestError, ask(temperature=7))
    assert error.param == "temperature", error
    refused(openai.BadRequestError, ask(messages=[]))
    refused(openai.BadRequestError, ask(max_completion_tokens=0))
    error = refused(openai.BadRequestError, ask(messages=[{"role": "user", "content": "a " * 9000}]))
    assert error.code == "context_length_exceeded", error


def cancel(client):
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    next(iter(stream))
    stream.close()
    client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=1)


def main():
    url, url_with_tools = sys.argv[1:]
    for test in (models, chat, completions, schema, embeddings, errors, cancel):
        test(connect(url))
        print(f"openai {openai.__version__} (Python): {test.__name__} ok")
    tools(connect(url_with_tools))
    print(f"openai {openai.__version__} (Python): tools ok")


main()
