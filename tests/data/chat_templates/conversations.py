"""The conversations that every template is rendered with."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city — now.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of the city"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
            "return": {"type": "number"},
        },
    },
]


def _call(call_id, name, arguments):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "What is 2 + 2? <b>\"quoted\"</b> & 'such'"}
ASSISTANT = {"role": "assistant", "content": "It is 4."}
SYSTEM = {"role": "system", "content": "You are terse.\nVery."}

MESSAGES = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "Et en français ? 日本語で 🙂"}],
    "turns_plain": [USER, ASSISTANT, {"role": "user", "content": "  padded \n"}, ASSISTANT],
    "thinking": [
        USER,
        {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."},
        {"role": "user", "content": "Sure?"},
    ],
    "reasoning": [
        USER,
        {
            "role": "assistant",
            "content": "It is 4.",
            "reasoning_content": "Two and two.",
            "thinking": "Two and two.",
        },
        {"role": "user", "content": "Sure?"},
    ],
    "tool_call": [
        SYSTEM,
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [_call("abcdef123", "get_weather", {"city": "Paris", "days": [1, 2]})],
        },
    ],
    "tool_result": [
        {"role": "user", "content": "Weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [_call("abcdef123", "get_weather", {"city": "Zürich", "unit": "celsius"})],
        },
        {
            "role": "tool",
            "name": "get_weather",
            "tool_call_id": "abcdef123",
            "content": '{"temperature": 21.5}',
        },
        {"role": "assistant", "content": "21.5 degrees."},
        {"role": "user", "content": "Thanks"},
    ],
    "tool_strings": [
        {"role": "user", "content": "Add"},
        {
            "role": "assistant",
            "content": "Adding.",
            "tool_calls": [_call("abcdef123", "add", '{"a": 1, "b": 2}')],
        },
        {"role": "tool", "name": "add", "tool_call_id": "abcdef123", "content": "3"},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "Part one."}, {"type": "text", "text": " Two."}]}
    ],
    "bad_roles": [USER, USER],
}

# name: messages, and variables beside the usual ones
CONVERSATIONS = {
    "one": ("one", {}),
    "one_closed": ("one", {"add_generation_prompt": False}),
    "system": ("system", {}),
    "turns": ("turns", {}),
    "turns_plain": ("turns_plain", {"add_generation_prompt": False}),
    "thinking": ("thinking", {}),
    "reasoning": ("reasoning", {}),
    "no_thinking": ("system", {"enable_thinking": False, "thinking": False}),
    "with_thinking": ("system", {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    "tools": ("system", {"tools": TOOLS}),
    "tool_call": ("tool_call", {"tools": TOOLS, "add_generation_prompt": False}),
    "tool_result": ("tool_result", {"tools": TOOLS}),
    "tool_strings": ("tool_strings", {"tools": TOOLS}),
    "parts": ("parts", {}),
    "bad_roles": ("bad_roles", {}),
    "documents": ("one", {"documents": [{"title": "T", "text": "Body", "doc_id": 1}]}),
}


def contexts():
    for name, (messages, more) in CONVERSATIONS.items():
        context = {
            "messages": MESSAGES[messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
        yield name, {**context, **more}
