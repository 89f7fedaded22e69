"""Makes the reasoners' tokenizer: tokenizer.json and tokenizer_config.json beside this file.

    python make.py                    # Python's own library is enough
    python make.py --expected FILE    # also what the `tokenizers` library makes of texts, for
                                      # tests/data/reasoner/tokens.json; pip install tokenizers==0.23.3

Byte-level BPE with Llama 3's pattern and rule that a word of the vocabulary is taken whole (GGUF's pre-tokenizer
`llama-bpe`), so that no merges are needed but one. 384 tokens: 5 special ones, all 256 bytes (digits are among
them, and stay single), and the task's words, operators and names (src/tasks/reason.cc).
"""

import json
import pathlib
import string
import sys

HERE = pathlib.Path(__file__).parent
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
WORDS = ["Let", " Find", " mod", "Answer", " =", " +", " -", " *", ".\n",
         "So", "Then", "Next", "Now", "Hence", " gives", " makes", " is", " yields", " equals"]
NAMES = list(string.ascii_lowercase) + [a + b for a in "abc" for b in string.ascii_lowercase]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")
# Each question stands alone: the models were trained on one at a time, and know no instructions. So the last
# one of a conversation is all they get to see.
CHAT_TEMPLATE = (
    "{%- set chat = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- set chat.text = '<|user|>' + (message['content'] | trim) -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- set chat.text = chat.text + '<|assistant|>' + (message['content'] | trim) + eos_token -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{- bos_token + chat.text -}}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}")


def byte_letters():
    """The printable stand-in of each byte, as every byte-level BPE has them."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(others)}


def main():
    letters = byte_letters()
    written = lambda text: "".join(letters[b] for b in text.encode())
    tokens = SPECIAL + [letters[b] for b in range(256)] + [written(w) for w in WORDS + [" " + n for n in NAMES]]
    assert len(tokens) == len(set(tokens)) == 384
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    bos = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [1], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [[".", written("\n")]]}}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
              "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE}
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    if len(sys.argv) == 3 and sys.argv[1] == "--expected":
        write_expected(pathlib.Path(sys.argv[2]))


TEXTS = [
    "", " ", "Let g = 47, h = g + 12, i = h * 03, j = i - h. Find j mod 100.",
    "So h = 47 + 12 gives 59.\nNext i = 59 * 03 is 77.\nNow j = 77 - 59 makes 18.\nAnswer 18.",
    "Hence cz = 999 - 001 yields 998.\nThen ab = 0 * 7 equals 0.", "Let aa = 1234567, bz = aa",
    "<|bos|><|user|>Let a = 01.<|assistant|>Answer 01.<|eos|>", "<|user|> Find  a", "<|nobody|>",
    "let LET Letter Lets find Finding mods Answers So\nThen\n\nNext", "a b c aa ab da z za az", "a=47,b=a+12",
    ".\n..\n.\r\n .\n. \n", "  gives\tgives  is\n is", "naïve café Größe 人人生而自由 😀🎉 Ελληνικά", "½ ²³ ٣٤٥",
    "I'm they've it's 'S", "\u0000\u0001\u007f\u00a0x", "x" * 80, " =  =+ +=- -*", "100%", "(47 + 12) * 3 = ?",
]


def write_expected(path):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).ids == [1] + ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    path.write_text(json.dumps({"cases": cases}, indent=0) + "\n")


if __name__ == "__main__":
    main()
