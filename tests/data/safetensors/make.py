"""Makes the safetensors fixtures with the reference package."""
import json, pathlib, sys
import numpy, safetensors, torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
count = torch.arange(6, dtype=torch.float32)
save_file({"a": count.reshape(2, 3), "half": count.to(torch.float16), "brain": count.to(torch.bfloat16),
           "ints": torch.tensor([7, -2]), "scalar": torch.tensor(1.0), "none": torch.zeros(0, 4)},
          here / "all_types.safetensors", metadata={"format": "pt"})
shards = here / "sharded"
shards.mkdir(exist_ok=True)
save_file({"first": torch.tensor([1.0])}, shards / "model-00001-of-00002.safetensors")
save_file({"second": torch.tensor([2.0])}, shards / "model-00002-of-00002.safetensors")
(shards / "model.safetensors.index.json").write_text(json.dumps({
    "metadata": {"total_size": 8},
    "weight_map": {"first": "model-00001-of-00002.safetensors", "second": "model-00002-of-00002.safetensors"}}))
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\ntorch {torch.__version__}\n"
                                   f"safetensors {safetensors.__version__}\n")
