"""Writes requests.jsonl: what OpenAI's Python client sends on the wire, one request in each line.

    python3 -m venv /tmp/openai && /tmp/openai/bin/pip install openai==3.57.0
    /tmp/openai/bin/python tests/data/openai_client/record.py > tests/data/openai_client/requests.jsonl
"""
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from openai import OpenAI

SEEN = []


class Recorder(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        SEEN.append({"path": self.path, "authorization": self.headers["Authorization"],
                     "content_type": self.headers["Content-Type"], "body": json.loads(body)})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Recorder)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="secret", max_retries=0)

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a town", "strict": True,
        "parameters": {"type": "object", "properties": {"town": {"type": "string", "maxLength": 4}},
                       "required": ["town"], "additionalProperties": False}}}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}},
          "required": ["age"], "additionalProperties": False}


def chat(**more):
    for stream in (False, True):
        options = {"stream_options": {"include_usage": True}} if stream else {}
        try:
            client.chat.completions.create(
                **{"model": "gpt-4o", "messages": ASK, "max_tokens": 8, "stream": stream, **options, **more})
        except Exception:
            pass  # the recorder's answer is none


chat()
chat(max_completion_tokens=8, temperature=0.5, top_p=0.9, seed=3, user="somebody")
chat(n=2, presence_penalty=0.1, frequency_penalty=0.1, logit_bias={"5": -100})
chat(stop=["x", "y"])
chat(stop="x")
chat(logprobs=True, top_logprobs=2)
chat(response_format={"type": "json_object"})
chat(response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}})
for choice in ("auto", "none", "required", {"type": "function", "function": {"name": "weather"}}):
    chat(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
chat(messages=ASK + [
    {"role": "assistant", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"town\": \"Rome\"}"}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}])
for more in ({}, {"stream": True}, {"logprobs": 2}, {"echo": True}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}):
    try:
        client.completions.create(**{"model": "gpt-4o", "prompt": "One", "max_tokens": 4, **more})
    except Exception:
        pass
for more in ({"input": "a cat"}, {"input": ["a", "b"]}, {"input": "a", "encoding_format": "float"}):
    try:
        client.embeddings.create(model="gpt-4o", **more)
    except Exception:
        pass
for request in SEEN:
    print(json.dumps(request))
