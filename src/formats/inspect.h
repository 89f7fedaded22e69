// What a model file holds, as a JSON object (`weft inspect`), without loading it: container,
// hyper-parameters, metadata, tensors, tokenizer, and the memory that running it will take.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace weft::formats {

// `context` tokens of KV cache are planned for; 0 = what the model was trained for. Members:
//   file, container ("GGUF v3" or "Hugging Face folder"), file_bytes, architecture (null if none)
//   hyperparameters {key: value}
//   metadata {key: value}           GGUF only; arrays are {"array": type, "length": n, "first":
//   [...]} parameters, tensor_types [{type, tensors, bytes}], tensors [{name, type, shape, bytes}]
//   tokenizer (null, or {kind, tokens}), chat_template (bool)
//   experts (null unless it is a mixture): stored_parameters, active_parameters (computed for a token),
//   layers_with_experts, groups_that_share, experts_per_group, experts_per_token, expert_bytes,
//   one_expert_bytes, resident_bytes (everything else)
//   memory (null unless it is a language model): weight_bytes, kv_bytes_per_token, context,
//   kv_bytes
// kNotFound, kInvalidInput and kUnsupported as the readers of the container.
nlohmann::ordered_json inspect(const std::filesystem::path& path, size_t context);

}  // namespace weft::formats
