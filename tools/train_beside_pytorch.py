#!/usr/bin/env python3
"""Trains the same small model on the same generated problems with `weft train lm` and with a plain
PyTorch loop over transformers' Llama, in turns, and prints tokens per second of both.

  python3 -m venv peer && peer/bin/pip install torch transformers
  peer/bin/python tools/train_beside_pytorch.py --weft build/release/weft --batch-tokens 16384

PyTorch gets the batches in two forms, and the faster one counts: `buckets`, the examples of a step
sorted by length and filled up in eight parts, whose gradients add up (what Weft does), and `blocks`,
all tokens end to end, cut every 512, attending across examples (no row is filled up). Products are
bf16 by autocast on f32 weights, AdamW is fused, the norm of the gradient is clipped: as Weft has it.
A token counts once, filled-up rows do not count.

A configuration of a mixture (--config examples/train/reasoner-megrez.json) trains beside transformers' Dots1
of the same shape: as much to compute for a token, but each layer has experts of its own there, and nobody
balances them."""
import argparse, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile, time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Dots1Config, LlamaConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUCKETS, BLOCK, WARM_UP = 8, 512, 1


def read_config(path):
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
    return json.loads(text)


def read_examples(path, tokenizer, context):
    examples = []
    for line in path.read_text().splitlines():
        problem = json.loads(line)
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": problem["prompt"]}],
                                               add_generation_prompt=True, tokenize=False)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        after = tokenizer(problem["completion"], add_special_tokens=False)["input_ids"]
        tokens = (before + after + [tokenizer.eos_token_id])[:context + 1]
        examples.append((tokens, len(before)))
    return examples


def steps_of(examples, batch_tokens):
    """Consecutive examples, as many in a step as fit."""
    step, rows = [], 0
    for example in examples:
        if step and rows + len(example[0]) > batch_tokens:
            yield step
            step, rows = [], 0
        step.append(example)
        rows += len(example[0])


def as_buckets(step, device):
    """(inputs, labels, number of tokens) of each part; labels of -100 are not learnt."""
    step = sorted(step, key=lambda example: len(example[0]))
    size = -(-len(step) // BUCKETS)
    for first in range(0, len(step), size):
        part = step[first:first + size]
        longest = max(len(tokens) for tokens, _ in part) - 1
        longest += -longest % 8
        inputs = torch.zeros(len(part), longest, dtype=torch.long)
        labels = torch.full((len(part), longest), -100)
        for i, (tokens, prompt) in enumerate(part):
            inputs[i, :len(tokens) - 1] = torch.tensor(tokens[:-1])
            labels[i, prompt - 1:len(tokens) - 1] = torch.tensor(tokens[prompt:])
        yield inputs.to(device), labels.to(device)


def as_blocks(step, device):
    flat = [token for tokens, _ in step for token in tokens]
    learnt = [token if i >= prompt else -100 for tokens, prompt in step for i, token in enumerate(tokens)]
    count = (len(flat) - 1) // BLOCK
    yield (torch.tensor(flat[:count * BLOCK]).view(count, BLOCK).to(device),
           torch.tensor(learnt[1:count * BLOCK + 1]).view(count, BLOCK).to(device))


def peer_model(config, vocab_size, experts):
    m = config["model"]
    shape = dict(vocab_size=vocab_size, hidden_size=m["hidden_size"], intermediate_size=m["intermediate_size"],
                 num_hidden_layers=m["num_hidden_layers"], num_attention_heads=m["num_attention_heads"],
                 num_key_value_heads=m["num_key_value_heads"], tie_word_embeddings=m["tie_word_embeddings"],
                 max_position_embeddings=config["context"])
    if not m.get("n_routed_experts"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**shape), attn_implementation="sdpa")
    same = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts",
            "first_k_dense_replace"]
    mixture = Dots1Config(**shape, **{key: m[key] for key in same}, n_group=1, topk_group=1, norm_topk_prob=True,
                          routed_scaling_factor=1.0, head_dim=m["hidden_size"] // m["num_attention_heads"])
    return AutoModelForCausalLM.from_config(mixture, attn_implementation="sdpa", experts_implementation=experts)


class PyTorch:
    def __init__(self, config, vocab_size, device, experts):
        torch.manual_seed(1)
        self.device = device
        self.model = peer_model(config, vocab_size, experts).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"], betas=(0.9, 0.95),
                                           weight_decay=config["weight_decay"], fused=True)

    def step(self, examples, form):
        """Seconds and loss."""
        start = time.perf_counter()
        parts = list(form(examples, self.device))
        learnt = sum(int((labels != -100).sum()) for _, labels in parts)
        total = 0.0
        for inputs, labels in parts:
            with torch.autocast(self.device, dtype=torch.bfloat16):
                logits = self.model(inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(),
                                                     reduction="sum") / learnt
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total), time.perf_counter() - start


def weft_rates(options, config, data, scratch):
    """Tokens per second of each step."""
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)  # a round is a new run
    config = dict(config, out=str(run), data=str(data), eval=[], steps=WARM_UP + options.steps, accumulate=1,
                  tokenizer=str(ROOT / config["tokenizer"]), batch_tokens=options.batch_tokens, gguf="none",
                  device=options.device, threads=options.threads, checkpoint_every=10 ** 9, max_seconds=0)
    (scratch / "config.json").write_text(json.dumps(config))
    own = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}  # its own libtorch
    subprocess.run([options.weft, "train", "lm", str(scratch / "config.json")], check=True, env=own,
                   stderr=subprocess.DEVNULL)
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [step["tokens_per_s"] for step in steps if "tokens_per_s" in step][WARM_UP:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default=str(ROOT / "build/release/weft"), help="a build with its trainer")
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "examples/train/reasoner-large.json")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=3, help="of each in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--experts", default="grouped_mm", help="transformers' way of computing them: eager, batched_mm, "
                        "grouped_mm")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = read_config(options.config)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / config["tokenizer"])
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        data = scratch / "problems.jsonl"
        # An example has 150 tokens or more in the mean.
        count = options.batch_tokens * (WARM_UP + options.steps) // 100 + 64
        with data.open("w") as out:
            subprocess.run([options.weft, "task", "reason", "--level", "mixed", "--count", str(count)],
                           check=True, stdout=out)
        examples = read_examples(data, tokenizer, config["context"])
        steps = list(steps_of(examples, options.batch_tokens))[:WARM_UP + options.steps]
        peer = PyTorch(config, len(tokenizer), options.device, options.experts)
        forms = {"buckets": as_buckets, "blocks": as_blocks}
        rates = {"weft": [], "buckets": [], "blocks": []}
        for _ in range(options.rounds):
            rates["weft"] += weft_rates(options, config, data, scratch)
            print("weft:", *(round(rate) for rate in rates["weft"]), file=sys.stderr)
            for name, form in forms.items():
                for i, step in enumerate(steps):
                    loss, seconds = peer.step(step, form)
                    if i >= WARM_UP:
                        rates[name].append(sum(len(tokens) - 1 for tokens, _ in step) / seconds)
                        print(f"{name}: {rates[name][-1]:.0f} tokens/s, loss {loss:.3f}", file=sys.stderr)
    parameters = sum(p.numel() for p in peer.model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {options.batch_tokens} tokens a step, bf16, {options.device}, "
          f"{options.threads} threads; PyTorch {torch.__version__}")
    for name, values in rates.items():
        label = "weft train lm" if name == "weft" else f"PyTorch, {name}"
        print(f"{label:<18} {statistics.median(values):8.0f} tokens/s  ({min(values):.0f} to {max(values):.0f})")
    best = max(statistics.median(rates["buckets"]), statistics.median(rates["blocks"]))
    print(f"ours over the faster of PyTorch's: {statistics.median(rates['weft']) / best:.2f}")


if __name__ == "__main__":
    main()
