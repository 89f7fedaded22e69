"""Asks a running `weft serve` with OpenAI's client (pip install openai): python3 chat.py "Why?" """
import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
question = sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?"
stream = client.chat.completions.create(
    model="any", messages=[{"role": "user", "content": question}], stream=True
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
