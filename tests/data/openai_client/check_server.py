"""Drives `weft serve` with OpenAI's own Python client: what the client sends and how it reads the
answers is its business, so this is the test that nobody here could have bent.

    python3 -m venv /tmp/openai && /tmp/openai/bin/pip install openai==3.57.0
    /tmp/openai/bin/python tests/data/openai_client/check_server.py build/release/weft MODEL.gguf

Needs a network for the second line alone, so it is not part of ./test; what it covers on the wire is
kept in requests.jsonl (record.py), which src/serve/http_server_test.cc sends again. Ends with 0 if everything held.
"""
import json
import socket
import subprocess
import sys
import time
import traceback
import urllib.request

import openai
from openai import OpenAI

WEFT, MODEL = sys.argv[1], sys.argv[2]
ASK = [{"role": "user", "content": "Name three colours."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 20}},
            "required": ["town"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, *flags):
        self.port = free_port()
        self.process = subprocess.Popen(
            [WEFT, "serve", "--model", f"small={MODEL}", "--port", str(self.port), "--kv-tokens", "4096", *flags],
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def wait_ready(self):
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health")
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("never ready")

    def client(self, key="secret"):
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=120)


def chat(c, **more):
    return c.chat.completions.create(**{"model": "small", "messages": ASK, "max_tokens": 16, "temperature": 0, **more})


def whole_and_streamed(c):
    whole = chat(c)
    assert whole.choices[0].finish_reason in ("stop", "length"), whole
    assert whole.usage.prompt_tokens > 0 and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text, usage, reason = "", None, None
    for chunk in chat(c, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
            assert chunk.choices == []
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert text == whole.choices[0].message.content, (text, whole)
    assert usage.completion_tokens == whole.usage.completion_tokens and reason == whole.choices[0].finish_reason


def stream_helper(c):
    # A stop string, since the helper calls an answer cut off by max_tokens an error.
    stop = chat(c).choices[0].message.content[3:6]
    with c.chat.completions.stream(model="small", messages=ASK, max_tokens=16, temperature=0, stop=stop) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    assert final.choices[0].message.content


def choices_and_seed(c):
    three = chat(c, n=3, temperature=1.0, seed=7)
    again = chat(c, n=3, temperature=1.0, seed=7)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2] and len(set(texts)) > 1, texts
    assert texts == [choice.message.content for choice in again.choices]


def stops(c):
    text = chat(c, max_tokens=32).choices[0].message.content
    stop = text[4:7]
    for form in (stop, [stop, "\u0000never"]):
        cut = chat(c, max_tokens=32, stop=form).choices[0]
        assert cut.message.content == text[: text.index(stop)] and cut.finish_reason == "stop", cut


def logprobs(c):
    content = chat(c, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 16 or len(content) > 0
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0 and token.bytes is not None
        assert token.top_logprobs[0].logprob >= token.logprob - 1e-6
    old = c.completions.create(model="small", prompt="One, two,", max_tokens=4, logprobs=2, temperature=0)
    assert len(old.choices[0].logprobs.tokens) == 4


def completions(c):
    one = c.completions.create(model="small", prompt="One, two,", max_tokens=6, temperature=0)
    assert one.choices[0].text and one.object == "text_completion"
    two = c.completions.create(model="small", prompt=["One, two,", "Red, green,"], max_tokens=6, temperature=0)
    assert [choice.index for choice in two.choices] == [0, 1] and two.choices[0].text == one.choices[0].text
    text = "".join(chunk.choices[0].text for chunk in c.completions.create(
        model="small", prompt="One, two,", max_tokens=6, temperature=0, stream=True) if chunk.choices)
    assert text == one.choices[0].text
    echoed = c.completions.create(model="small", prompt="One, two,", max_tokens=2, temperature=0, echo=True)
    assert echoed.choices[0].text.startswith("One, two,")


def embeddings(c):
    packed = c.embeddings.create(model="small", input=["a cat", "a dog"])  # asks for base64 by itself
    plain = c.embeddings.create(model="small", input="a cat", encoding_format="float")
    assert len(packed.data) == 2 and packed.usage.prompt_tokens > 0
    assert max(abs(a - b) for a, b in zip(packed.data[0].embedding, plain.data[0].embedding)) < 1e-6


def models(c):
    assert [m.id for m in c.models.list()] == ["small"]
    assert c.models.retrieve("small").object == "model"


def forms(c):
    anything = chat(c, max_tokens=200, response_format={"type": "json_object"}).choices[0]
    if anything.finish_reason == "stop":
        assert isinstance(json.loads(anything.message.content), dict)
    person = chat(c, max_tokens=200, response_format={
        "type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}).choices[0]
    assert person.finish_reason == "stop", person
    value = json.loads(person.message.content)
    assert set(value) == {"name", "age"} and 0 <= value["age"] <= 130


def parsed_form(c):
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    try:
        answer = c.chat.completions.parse(model="small", messages=ASK, max_tokens=300, temperature=0, response_format=Person)
        assert isinstance(answer.choices[0].message.parsed, Person)
    except openai.LengthFinishReasonError:
        pass  # an unbounded string may not end; what came was cut off


def tools(c):
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        called = chat(c, messages=ask, tools=[TOOL], tool_choice=choice, max_tokens=100).choices[0]
        for call in called.message.tool_calls:
            assert call.type == "function" and call.function.name == "weather" and call.id
            assert set(json.loads(call.function.arguments)) == {"town"}
        assert called.finish_reason in ("tool_calls", "stop"), called
    streamed = {}
    for chunk in chat(c, messages=ask, tools=[TOOL], tool_choice=choice, max_tokens=100, stream=True):
        for part in chunk.choices:
            for piece in part.delta.tool_calls or []:
                name, arguments = streamed.get(piece.index, ("", ""))
                streamed[piece.index] = (name + (piece.function.name or ""), arguments + (piece.function.arguments or ""))
    whole = {i: (call.function.name, call.function.arguments) for i, call in enumerate(called.message.tool_calls)}
    assert streamed == whole, (streamed, whole)
    assert chat(c, messages=ask, tools=[TOOL], tool_choice="none").choices[0].message.tool_calls is None
    chat(c, messages=ask, tools=[TOOL])  # auto: whatever the model likes
    done = ask + [called.message.model_dump(exclude_none=True),
                  *({"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in called.message.tool_calls)]
    assert chat(c, messages=done, tools=[TOOL]).choices[0].message is not None


def raises(kind, call, status, param=None):
    try:
        call()
    except kind as error:
        assert error.status_code == status, error
        body = error.body
        assert {"message", "type", "param", "code"} <= set(body), body
        assert param is None or body["param"] == param, body
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors(c, server):
    raises(openai.BadRequestError, lambda: chat(c, temperature="hot"), 400, "temperature")
    raises(openai.BadRequestError, lambda: chat(c, max_tokens=-1), 400)
    raises(openai.BadRequestError, lambda: chat(c, response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object", "unevaluatedProperties": False}}}), 400)
    raises(openai.AuthenticationError, lambda: chat(server.client("wrong")), 401)
    raises(openai.NotFoundError, lambda: c.models.retrieve("nobody"), 404)
    raises(openai.APIStatusError, lambda: chat(c, messages=[{"role": "user", "content": "x" * 70000}]), 413)


def refuses_when_full(server):
    c = server.client()
    streams = []
    try:
        for _ in range(8):
            streams.append(chat(c, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}))
    except openai.RateLimitError as error:
        assert error.status_code == 429 and "retry-after" in error.response.headers
    else:
        raise AssertionError("nothing was refused")
    finally:
        for stream in streams:
            stream.close()


def main():
    failed = 0

    def run(name, test):
        nonlocal failed
        try:
            test()
            print("ok     ", name, flush=True)
        except Exception:
            failed += 1
            print("FAILED ", name, flush=True)
            traceback.print_exc()

    with Server("--api-key", "secret", "--max-body", "60000") as server:
        run("503 while loading", lambda: loading(server))
        server.wait_ready()
        c = server.client()
        for test in (whole_and_streamed, stream_helper, choices_and_seed, stops, logprobs, completions, embeddings,
                     models, forms, parsed_form, tools):
            run(test.__name__, lambda: test(c))
        run("errors", lambda: errors(c, server))
    with Server("--api-key", "secret", "--max-running", "1", "--max-queued", "2") as server:
        server.wait_ready()
        run("429 when full", lambda: refuses_when_full(server))
    print(f"openai {openai.__version__}: {failed} failed")
    sys.exit(failed != 0)


def loading(server):
    for _ in range(200):
        try:
            chat(server.client())
            return  # it was quicker
        except openai.APIConnectionError:
            time.sleep(0.01)
        except openai.InternalServerError as error:
            assert error.status_code == 503, error
            return
    raise AssertionError("never listened")


main()
