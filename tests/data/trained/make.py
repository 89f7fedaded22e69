"""Trains a tiny model of each architecture for some steps, and asks transformers what it makes of the
Hugging Face folders that the trainer wrote: logits in float32 (logits.bin, as tests/data/parity) and
the tokens of a text (tokens.json).

Keys and values are rounded to float16 on the way into attention, as a KV cache does.
Usage: make.py WEFT    (a build with its trainer)"""
import json, os, pathlib, shutil, struct, subprocess, sys, tempfile
import tokenizers, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

here = pathlib.Path(__file__).parent
LENGTHS = [40, 17]  # one crosses a page of 32 tokens
TEXT = "line 3 says\n  5 and 1, naïve: 12345!"


def rounded(x):
    return x.half().float()


for modeling in (modeling_llama, modeling_qwen2, modeling_qwen3):
    def rotate(q, k, *rest, plain=modeling.apply_rotary_pos_emb, **named):
        q, k = plain(q, k, *rest, **named)
        return q, rounded(k)
    modeling.apply_rotary_pos_emb = rotate


def train(architecture, scratch):
    data = scratch / "lines.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"line {i} says", "completion": f" {i * 7 % 8} and no more"})
                            + "\n" for i in range(8)))
    config = {"out": str(scratch / architecture), "data": str(data), "context": 64, "batch_tokens": 256,
              "tokenizer": str(here / "../../../share/models/reasoner-tokenizer"), "steps": 40, "lr": 1e-2, "device": "cpu",
              "threads": 1, "gguf": "none",
              "model": {"architecture": architecture, "num_hidden_layers": 2, "hidden_size": 32,
                        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48,
                        "rope_theta": 5000, "tie_word_embeddings": architecture != "qwen3"}}
    (scratch / "config.json").write_text(json.dumps(config))
    own_libtorch = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    subprocess.run([sys.argv[1], "train", "lm", str(scratch / "config.json")], check=True, env=own_libtorch)
    return scratch / architecture / "model"


for index, architecture in enumerate(["llama", "qwen2", "qwen3"]):
    torch.manual_seed(200 + index)
    folder = here / architecture
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(train(architecture, pathlib.Path(scratch)), folder)
    model, notes = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                        attn_implementation="eager", output_loading_info=True)
    assert not any(notes.values()), notes  # nothing missing, nothing left over
    model.eval()
    for name, module in model.named_modules():
        if name.endswith("v_proj"):
            module.register_forward_hook(lambda _, __, out: rounded(out))
    out = struct.pack("<ii", len(LENGTHS), model.config.vocab_size)
    with torch.no_grad():
        for length in LENGTHS:
            tokens = torch.randint(0, model.config.vocab_size, (1, length))
            logits = model(tokens, use_cache=False).logits[0]
            out += struct.pack("<i", length)
            out += tokens[0].int().numpy().tobytes() + logits.numpy().astype("<f4").tobytes()
    (folder / "logits.bin").write_bytes(out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    (folder / "tokens.json").write_text(json.dumps({"text": TEXT, "ids": ids}) + "\n")
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n"
                                   f"transformers {transformers.__version__}\n"
                                   f"tokenizers {tokenizers.__version__}\n")
