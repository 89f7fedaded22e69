"""Greedy continuations of SmolLM2 by transformers, in float32, on the weights that the GGUF file holds
(dequantised by the gguf package).

    python make.py SmolLM2-135M-Instruct.Q4_1.gguf

greedy.json: for each prompt its ids, the ids that follow, and for each of those the runner-up and the
gap between both logits, by which a test tells a near-tie from a wrong answer."""
import hashlib, json, pathlib, sys
import torch, transformers
from importlib.metadata import version
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

NUM_NEW = 48
CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    CHAT.format("Why is the sky blue?"),
    CHAT.format("Write three short tips for learning to cook."),
    "Die Universität Zürich wurde im Jahr 1833 gegründet. 東京は日本の首都です。 2 + 2 =",
]

here = pathlib.Path(__file__).parent
path = pathlib.Path(sys.argv[1])
reader = GGUFReader(path)
field = lambda name: reader.fields[name].contents()
tensors = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}

config = LlamaConfig(
    vocab_size=field("llama.vocab_size"), hidden_size=field("llama.embedding_length"),
    intermediate_size=field("llama.feed_forward_length"), num_hidden_layers=field("llama.block_count"),
    num_attention_heads=field("llama.attention.head_count"),
    num_key_value_heads=field("llama.attention.head_count_kv"),
    max_position_embeddings=field("llama.context_length"),
    rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
    rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
    tie_word_embeddings="output.weight" not in tensors)
LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
       "output.weight": "lm_head.weight"}


def split_halves(weight, heads):
    """GGUF interleaves the two halves of each q and k head, so that RoPE rotates neighbours."""
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


state = {}
for name, weight in tensors.items():
    if name in TOP:
        state[TOP[name]] = weight
        continue
    _, layer, part, _ = name.split(".")
    if part == "attn_q": weight = split_halves(weight, config.num_attention_heads)
    if part == "attn_k": weight = split_halves(weight, config.num_key_value_heads)
    state[f"model.layers.{layer}.{LAYER[part]}.weight"] = weight
model = LlamaForCausalLM(config).float().eval()
missing, unexpected = model.load_state_dict(state, strict=False)
assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
model.tie_weights()
tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

continuations = []
for prompt in PROMPTS:
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens, runners_up, gaps = [], [], []
    with torch.no_grad():
        while len(tokens) < NUM_NEW:
            best = model(torch.tensor([ids + tokens]), use_cache=False).logits[0, -1].topk(2)
            gaps.append(round((best.values[0] - best.values[1]).item(), 4))
            tokens.append(best.indices[0].item())
            runners_up.append(best.indices[1].item())
    print(repr(tokenizer.decode(tokens)), "smallest gap", min(gaps))
    continuations.append({"prompt": prompt, "prompt_ids": ids, "tokens": tokens, "runners_up": runners_up,
                          "gaps": gaps})
(here / "greedy.json").write_text(json.dumps(
    {"model_bytes": path.stat().st_size, "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
     "continuations": continuations},
    ensure_ascii=False, indent=0).replace(",\n", ", ").replace("[\n", "[").replace("\n]", "]") + "\n")
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n"
                                   f"transformers {transformers.__version__}\ngguf {version("gguf")}\n")
