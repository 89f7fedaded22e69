"""Makes tiny Hugging Face folders of every model class, and the angular frequencies that transformers
computes for each kind of RoPE scaling (rope.json)."""
import json, pathlib, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

here = pathlib.Path(__file__).parent
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=48, max_position_embeddings=256)
FOLDERS = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    "mistral": MistralConfig(**SMALL, sliding_window=96, head_dim=16),
    "qwen2": Qwen2Config(**SMALL, rms_norm_eps=1e-5),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
}
for name, config in FOLDERS.items():
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(here / name, max_shard_size="12KB" if name == "qwen2" else "1GB")
    (here / name / "generation_config.json").unlink(missing_ok=True)
(here / "qwen2" / "tokenizer_config.json").write_text(json.dumps(
    {"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]}))
(here / "qwen3" / "chat_template.jinja").write_text("{{ messages[0].content }}")

rope = []
for parameters in [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 4096,
     "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.5},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 4096,
     "mscale": 0.707, "mscale_all_dim": 1.0},
]:
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=131072,
                         rope_parameters=dict(parameters))
    if parameters["rope_type"] == "default":
        inverse, factor = 1e4 ** (-torch.arange(0, 64, 2, dtype=torch.float) / 64), 1.0
    else:
        inverse, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    rope.append({"parameters": parameters, "inverse_frequency": inverse.tolist(), "magnitude": factor})
(here / "rope.json").write_text(json.dumps(rope, indent=0))
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n"
                                   f"transformers {transformers.__version__}\n")
