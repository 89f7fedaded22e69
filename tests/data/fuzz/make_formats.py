"""Makes the seed inputs of gguf_fuzz and safetensors_fuzz: small good files, and some bad ones."""
import json, pathlib, struct

here = pathlib.Path(__file__).parent
good = (here.parent / "gguf" / "all_types.gguf").read_bytes()
gguf = here / "gguf"
gguf.mkdir(exist_ok=True)
(gguf / "all_types").write_bytes(good)
(gguf / "truncated").write_bytes(good[:300])
(gguf / "many_tensors").write_bytes(good[:8] + struct.pack("<Q", 2 ** 62) + good[16:])
(gguf / "vocabulary").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"t" +
                                  struct.pack("<IIQ", 9, 8, 2) + struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 0))
(gguf / "array_of_arrays").write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 1) + struct.pack("<Q", 1) + b"t" +
                                       struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 4)
tensor = struct.pack("<Q", 1) + b"x" + struct.pack("<IQIQ", 1, 32, 8, 0)
(gguf / "q8_0").write_bytes((b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor).ljust(64, b"\0") + b"\1" * 34)

safetensors = here / "safetensors"
safetensors.mkdir(exist_ok=True)
source = here.parent / "safetensors"
(safetensors / "all_types").write_bytes((source / "all_types.safetensors").read_bytes())
(safetensors / "index").write_bytes((source / "sharded" / "model.safetensors.index.json").read_bytes())


def one(entry, size):
    header = json.dumps({"t": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


(safetensors / "small").write_bytes(one({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, 8))
(safetensors / "past_the_end").write_bytes(one({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, 8))
(safetensors / "huge_header").write_bytes(b"\xff" * 7 + b"\x7f{}")

# Templates and their constructs, one tenth of the snippets that jinja2 renders in each file.
templates = here / "chat_template"
templates.mkdir(exist_ok=True)
source = here.parent / "chat_templates"
for name in ["Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-V3.1", "meta-llama-Llama-3.1-8B-Instruct"]:
    (templates / f"{name}.jinja").write_bytes((source / "templates" / f"{name}.jinja").read_bytes())
snippets = [text for text, want in json.loads((source / "snippets.json").read_text())["cases"] if want is not None]
for i in range(10):
    (templates / f"snippets_{i}").write_text("\n".join(snippets[i::10]))
