"""Makes the fixtures of tokenizer_json_test.cc with the `tokenizers` library.

    python make.py          # pip install tokenizers==0.23.3

Trains small tokenizers of every kind that we read on the texts below (the patterns are those of the models
they are named after), takes one real one (tinystories), and writes for each NAME.json
NAME.expected.json: {"cases": [{"text", "ids", "plain_ids", "decoded"}]}; ids with and plain_ids without
special tokens, decoded without special tokens.
"""

import json
import pathlib
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers

HERE = pathlib.Path(__file__).parent

ENGLISH = """The quick brown fox doesn't jump over the lazy dog's back; they've said we'll see what I'd do.
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.
Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my purse, and
nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of
the world. In 1851 there were 3.14159 ways to count 1000000 things, at 12:30:45 on 2024-11-23.
def main(argc, argv):\n    if argc > 1:\n        return [x ** 2 for x in range(10)]\n\treturn None  # done
"""
OTHERS = """Всички хора се раждат свободни и равни по достойнство и права. Ελληνικά και Ὀδύσσεια.
人人生而自由，在尊严和权利上一律平等。すべての人間は、生まれながらにして自由であり。모든 인간은 태어날 때부터 자유로우며
يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. כל בני האדם נולדו בני חורין. सभी मनुष्यों को गौरव और अधिकारों
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน ภาษาไทย. Žluťoučký kůň, Größe, señor, naïve café, İstanbul, ŒUVRE. 😀🎉👍🏽
"""

TOUGH = [
    "", " ", "  ", "   a", "\n", "\r\n", "\r\n\r\n  x", "\t\t\n \n  \n", "a\n\n\n  b", "Hello world", " Hello  World   ! ",
    "I'm, you're, he's, we'll, they've, I'd, don't; I'M YOU'RE HE'S WE'LL 'TIS 's'S 'ſ 'Ll 'l 'v've",
    "0 12 345 6789 12345678901234567890 3.14 1,000,000 ½ ²³ ٣٤٥ ४५६ Ⅷ 𝟘𝟙",
    "naïve café: e\u0301 a\u0308\u0323 o\u0323\u0302, ﬁ ligature, Å Å ñ n\u0303, ḍ̇ \u0344 각 각",
    "👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇯🇵 😀😀😀 ☃️ \U0001F9D1\u200D\U0001F680",
    "人人生而自由，在尊严。すべての人間は、カタカナ ｶﾞ 각각 모든 인간은 한글 𠀀𪚥",
    "مرحبا بالعالم! كَيْفَ حَالُكَ؟ שָׁלוֹם עֲלֵיכֶם \u200fRTL\u200e",
    "สวัสดีชาวโลก ภาษาไทย กำ ព្រះរាជាណាចក្រ हिन्दी में क्‍ष தமிழ்",
    "\u0000\u0001\u001b[31mred\u001b[0m\u007f\u0085\u00a0x\u00a0 \u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u200b.",
    "\u0378\u0379 \uffff \ufdd0 \U000e0fff \U0010ffff \ue000\uf8ff \U000f0000 \U0001fffe",
    "if (x == y) { return a[i]++; } // ok?!?!... --- ===> $100 €5 <html></html> #tag @user a_b-c/d\\e `q` ~^|&*%",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                                                                                  x",
    "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
    "=" * 90, "Ж" * 70, "한" * 40, "😀" * 40, " \t" * 40,
    "<s>hello</s> <|im_start|>user\n<|im_end|><|im_end|> <|endoftext|>text<|endoftext|", "<|im_end|> tail", "x <mask> y<mask>z <mask>",
    "word sword words a word, wordword", "▁under ▁▁ score▁", "tab\tand nbsp\u00a0and\u3000ideographic",
    "camelCaseHTTPServer XMLHttpRequest iPhone McDonald ÀÉÎõü ǅungla ǆ ʰ ªº",
    "<|start_story|>Once upon a<|start_story|> time <|start_story|>there<|end_story|>", "é<|end_story|>É",
    "a.b,c;d:e!f?g(h)i[j]k{l}m'n\"o", "end of line  \r\nnext\r\rlast \n", "中文 English 混合 text，标点。",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def split(pattern, behavior="isolated", invert=False):
    return pre.Split(Regex(pattern), behavior, invert)


def bytes_last(*stages):
    return pre.Sequence([*stages, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def corpus():
    return [line + "\n" for line in (ENGLISH * 3 + OTHERS * 2).split("\n")]


def byte_bpe(pre_tokenizer, size=900, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def with_bos(tokenizer, token="<|endoftext|>", eos=None):
    pieces = f"{token} $A" + (f" {eos}" if eos else "")
    ids = [(t, tokenizer.token_to_id(t)) for t in (token, eos) if t]
    template = processors.TemplateProcessing(single=pieces, special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def with_added(tokenizer):
    tokenizer.add_tokens([AddedToken("sword", single_word=True), AddedToken("  x", normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    return tokenizer


def llama2_like():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=1100, show_progress=False, limit_alphabet=200,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    words = [word for line in corpus() for word in line.replace("\n", " ").split(" ")]
    tokenizer.train_from_iterator(words, trainer)  # words, so that no token spans two of them
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def metaspace_bpe(scheme, split_words, fuse):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse))
    tokenizer.pre_tokenizer = pre.Metaspace(replacement="▁", prepend_scheme=scheme, split=split_words)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, limit_alphabet=150,
                                  special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=700, show_progress=False, special_tokens=special,
                                      unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    if byte_fallback:
        data = json.loads(tokenizer.to_str())
        data["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
        data["model"]["byte_fallback"] = True
        tokenizer = Tokenizer.from_str(json.dumps(data))
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def make_all():
    digits = pre.Digits(individual_digits=True)
    return {
        "gpt2": with_added(byte_bpe(pre.ByteLevel(add_prefix_space=False))),
        "gpt2_prefix_space": byte_bpe(pre.ByteLevel(add_prefix_space=True)),
        "smollm": byte_bpe(pre.Sequence([digits, pre.ByteLevel(add_prefix_space=False)])),
        "llama3": with_bos(byte_bpe(bytes_last(split(LLAMA3)), ignore_merges=True)),
        "llama3_by_regex": byte_bpe(bytes_last(split(LLAMA3 + "|x{9999}"))),
        "qwen2": byte_bpe(bytes_last(split(QWEN2)), normalizer=normalizers.NFC()),
        "qwen35": byte_bpe(bytes_last(split(QWEN35)), normalizer=normalizers.NFC()),
        "tekken": byte_bpe(bytes_last(split(TEKKEN)), ignore_merges=True),
        "deepseek_v3": with_bos(byte_bpe(bytes_last(
            split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3))), eos="<|im_end|>"),
        "deepseek_coder": byte_bpe(bytes_last(
            split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), digits)),
        "behaviors": byte_bpe(bytes_last(
            split(r"\.", "merged_with_previous"), split("=", "merged_with_next"), split("a+|[-/]", "contiguous"),
            pre.Split(" ", "merged_with_next"), pre.Punctuation("isolated"), split(r"\s+$"),
            split(r"[^\n]+", "removed", True))),
        "llama2": llama2_like(),
        "metaspace_first": metaspace_bpe("first", True, True),
        "metaspace_never": metaspace_bpe("never", False, False),
        "unigram": unigram(False),
        "unigram_bytes": unigram(True),
        "tinystories": Tokenizer.from_file(str(HERE / "tinystories.json")),
    }


def random_texts(count):
    rng = random.Random(11)
    letters = list("aAzZ09'._ \t\n\r-éß½Жщ中の한ไก\u0301\u200d\u00a0\u3000😀𝟘\u0378<>|")
    return ["".join(rng.choice(letters) for _ in range(rng.randrange(1, 60))) for _ in range(count)]


def main():
    texts = TOUGH + random_texts(40)
    for name, tokenizer in make_all().items():
        path = HERE / f"{name}.json"
        if name != "tinystories":
            path.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False,
                                       separators=(",", ":")) + "\n")
        cases = []
        for text in texts:
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "ids": tokenizer.encode(text).ids, "plain_ids": plain,
                          "decoded": tokenizer.decode(plain, skip_special_tokens=True)})
        out = json.dumps({"cases": cases}, separators=(",", ":"))
        (HERE / f"{name}.expected.json").write_text(out + "\n")
    (HERE / "versions.txt").write_text(f"tokenizers {tokenizers.__version__}\n")


if __name__ == "__main__":
    main()
