"""Trains a small byte-level BPE for each way of cutting text that GGUF has a name for, and records how
the tokenizers library encodes some texts with it."""
import json, pathlib, sys
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = pathlib.Path(__file__).parent
CUT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
       r"\s+(?!\S)|\s+")
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(digits):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CUT % digits), "isolated"), byte_level])


CUTS = {
    "gpt-2": gpt2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
    "qwen2": split(""),
    "llama-bpe": split("{1,3}"),
}
CORPUS = ["The cat sat on the mat, and the dog didn't.", "It's 1234567 o'clock; they'll see 99 red balloons!",
          "na\u00efve caf\u00e9 \u4f60\u597d\u4e16\u754c 12 345", "\n\n  indented   text\twith tabs\n"] * 20
TEXTS = ["", "the cat's 12345 hats", "  two spaces\n\nand lines", "<|end|>It'll be 2024!", "caf\u00e9 \u4f60\u597d \U0001f600"]
for name, cut in CUTS.items():
    t = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    t.pre_tokenizer = cut
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, show_progress=False,
                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens(["<|begin|>", "<|end|>"])
    if name == "llama-bpe":
        t.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])
    folder = here / name
    folder.mkdir(exist_ok=True)
    t.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "unk_token": None}))
    (folder / "expected.json").write_text(json.dumps(
        {"vocab_size": t.get_vocab_size() + 6, "encodings": [{"text": x, "ids": t.encode(x).ids} for x in TEXTS]}))
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntokenizers {tokenizers.__version__}\n")
