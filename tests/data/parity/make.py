"""Makes tiny random models of every kind that models/llama.cc computes, as Hugging Face folders in
float16, and the logits that transformers gives for them in float32 (logits.bin).

Keys and values are rounded to float16 on the way into attention, as a KV cache does, so that what is
left between the two is float32 rounding. Usage: make.py"""
import pathlib, struct, sys
import torch, transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

here = pathlib.Path(__file__).parent
SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=96, max_position_embeddings=128, initializer_range=0.15,
             attn_implementation="eager", bos_token_id=1, eos_token_id=2)
MODELS = {
    "llama3_tied": LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters={
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
    "llama_linear": LlamaConfig(**SMALL, attention_bias=True, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "llama_yarn": LlamaConfig(**SMALL, rms_norm_eps=1e-5, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 32}),
    "mistral": MistralConfig(**SMALL, sliding_window=12, head_dim=32),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
}
LENGTHS = [40, 17]  # one crosses a page of 32 tokens

# Keys are rounded after their rotation, values as they leave their projection.
def rounded(x):
    return x.half().float()

for modeling in (modeling_llama, modeling_mistral, modeling_qwen2, modeling_qwen3):
    def rotate(q, k, *rest, plain=modeling.apply_rotary_pos_emb, **named):
        q, k = plain(q, k, *rest, **named)
        return q, rounded(k)
    modeling.apply_rotary_pos_emb = rotate

for index, (name, config) in enumerate(MODELS.items()):
    torch.manual_seed(100 + index)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter_name.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
            parameter.copy_(parameter.half().float())
        for module_name, module in model.named_modules():
            if module_name.endswith("v_proj"):
                module.register_forward_hook(lambda _, __, out: rounded(out))
        # Counts, then for each sequence its tokens (i32) and its logits (f32), a row per token.
        out = struct.pack("<ii", len(LENGTHS), config.vocab_size)
        for length in LENGTHS:
            tokens = torch.randint(0, config.vocab_size, (1, length))
            logits = model(tokens, use_cache=False).logits[0]
            out += struct.pack("<i", length) + tokens[0].int().numpy().tobytes()
            out += logits.float().numpy().astype("<f4").tobytes()
            print(name, length, "logits: largest", logits.abs().max().item(), "std", logits.std().item())
    model.half().save_pretrained(here / name)
    (here / name / "generation_config.json").unlink(missing_ok=True)
    (here / name / "logits.bin").write_bytes(out)
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n"
                                   f"transformers {transformers.__version__}\n")
