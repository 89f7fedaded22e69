"""Makes tiny random Megrez2 models as Hugging Face folders in float16, and the logits that this file's
own forward pass gives for them in float64: written from the paper's equations (techniques' b.2 and b.3
in docs/megrez2.md), with no code of any engine. Keys and values are rounded to float16 as a KV cache
does.

For each folder logits_on.bin (pre-gated) and logits_off.bin; the folder's config says pre_gate = true.
In them, after the counts: for each sequence its tokens (i32), its logits (f32), and the experts that
each layer's tokens chose (i32, ascending). Every wrong way of computing that WRONG lists is shown to
move the logits by far more than the test's tolerance. Usage: make.py"""
import json, pathlib, struct, sys
import numpy as np

here = pathlib.Path(__file__).parent
E, LAYERS, H, G, D, F0, VOCAB = 64, 7, 4, 2, 16, 96, 96
EXPERTS, TOP, F, SHARED, DENSE, THETA, EPS = 8, 2, 32, 2, 1, 50000.0, 1e-5
LENGTHS = [40, 17]
WRONG = ["leader's bias", "no bias", "weights from biased scores", "group without dense offset",
         "theta 10000"]


def make_weights(frequency, seed):
    rng = np.random.default_rng(seed)
    half = lambda x: x.astype(np.float16)
    w = {}
    matrix = lambda name, *shape: w.__setitem__(name, half(rng.normal(0, 0.1, shape)))
    norm = lambda name: w.__setitem__(name, half(1 + rng.normal(0, 0.2, E)))
    w["model.embed_tokens.weight"] = half(rng.normal(0, 0.5, (VOCAB, E)))
    norm("model.norm.weight")
    matrix("lm_head.weight", VOCAB, E)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm.weight")
        norm(p + "post_attention_layernorm.weight")
        matrix(p + "self_attn.q_proj.weight", H * D, E)
        matrix(p + "self_attn.k_proj.weight", G * D, E)
        matrix(p + "self_attn.v_proj.weight", G * D, E)
        matrix(p + "self_attn.o_proj.weight", E, H * D)
        def mlp(prefix, width):
            matrix(prefix + "gate_proj.weight", width, E)
            matrix(prefix + "up_proj.weight", width, E)
            matrix(prefix + "down_proj.weight", E, width)
        if i < DENSE:
            mlp(p + "mlp.", F0)
            continue
        matrix(p + "mlp.gate.weight", EXPERTS, E)
        w[p + "mlp.gate.e_score_correction_bias"] = half(rng.normal(0, 0.3, EXPERTS))
        mlp(p + "mlp.shared_experts.", SHARED * F)
        if (i - DENSE) % frequency == 0:
            for j in range(EXPERTS):
                mlp(p + f"mlp.experts.{j}.", F)
    return w


def rms(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def swiglu(x, w, prefix):
    gate = x @ w[prefix + "gate_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * (x @ w[prefix + "up_proj.weight"].T)) @ \
        w[prefix + "down_proj.weight"].T


def rotate(x, theta):  # (T, heads, D); pairs (i, i + D/2)
    angles = np.arange(len(x))[:, None] * theta ** (-2.0 * np.arange(D // 2) / D)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    a, b = x[..., :D // 2], x[..., D // 2:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def attention(x, w, p, theta):
    T = len(x)
    stored = lambda v: v.astype(np.float16).astype(np.float64)
    q = rotate((x @ w[p + "q_proj.weight"].T).reshape(T, H, D), theta)
    k = stored(rotate((x @ w[p + "k_proj.weight"].T).reshape(T, G, D), theta))
    v = stored((x @ w[p + "v_proj.weight"].T).reshape(T, G, D))
    out = np.zeros((T, H, D))
    for h in range(H):
        g = h // (H // G)
        s = q[:, h] @ k[:, g].T / np.sqrt(D)
        s[np.triu_indices(T, 1)] = -np.inf
        s = np.exp(s - s.max(-1, keepdims=True))
        out[:, h] = s / s.sum(-1, keepdims=True) @ v[:, g]
    return out.reshape(T, H * D) @ w[p + "o_proj.weight"].T


def forward(w, tokens, frequency, pre_gate, wrong=None):
    theta = 10000.0 if wrong == "theta 10000" else THETA
    x, n_prev, chosen = w["model.embed_tokens.weight"][tokens], None, []
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = x + attention(rms(x, w[p + "input_layernorm.weight"]), w, p + "self_attn.", theta)
        n = rms(h, w[p + "post_attention_layernorm.weight"])
        if i < DENSE:
            y = swiglu(n, w, p + "mlp.")
        else:
            leader = DENSE + (i - DENSE) // frequency * frequency
            pool = leader
            if wrong == "group without dense offset":  # the leader that floor(i / n) suggests
                pool = min(max(i // frequency * frequency, DENSE), LAYERS - frequency)
                pool = DENSE + (pool - DENSE) // frequency * frequency
            r = (n_prev if pre_gate else n) @ w[p + "mlp.gate.weight"].T
            s = 1 / (1 + np.exp(-r))
            own = leader if wrong == "leader's bias" else i
            bias = w[f"model.layers.{own}.mlp.gate.e_score_correction_bias"]
            c = s if wrong == "no bias" else s + bias
            ids = np.sort(np.argsort(-c, axis=-1, kind="stable")[:, :TOP], -1)
            weight = np.take_along_axis(c if wrong == "weights from biased scores" else s, ids, -1)
            weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
            y = swiglu(n, w, p + "mlp.shared_experts.")
            for t in range(len(tokens)):
                for e, g in zip(ids[t], weight[t]):
                    y[t] += g * swiglu(n[t], w, f"model.layers.{pool}.mlp.experts.{e}.")
            chosen.append(ids)
        x, n_prev = h + y, n
    return rms(x, w["model.norm.weight"]) @ w["lm_head.weight"].T, np.array(chosen)


def save(folder, w, frequency):
    folder.mkdir(exist_ok=True)
    config = dict(architectures=["MegrezMoeForCausalLM"], hidden_size=E, num_hidden_layers=LAYERS,
                  num_attention_heads=H, num_key_value_heads=G, intermediate_size=F0,
                  vocab_size=VOCAB, max_position_embeddings=128, rms_norm_eps=EPS, rope_theta=THETA,
                  tie_word_embeddings=False, n_routed_experts=EXPERTS, num_experts_per_tok=TOP,
                  moe_intermediate_size=F, n_shared_experts=SHARED, first_k_dense_replace=DENSE,
                  moe_layer_freq=1, experts_shared_frequency=frequency, norm_topk_prob=True,
                  routed_scaling_factor=1.0, n_group=1, topk_group=1, scoring_func="sigmoid",
                  pre_gate=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    header, at = {}, 0
    for name, value in w.items():
        header[name] = dict(dtype="F16", shape=list(value.shape), data_offsets=[at, at + value.nbytes])
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for value in w.values():
            f.write(value.tobytes())


for frequency in (1, 3):
    folder = here / f"shared_{frequency}"
    stored = make_weights(frequency, 70 + frequency)
    save(folder, stored, frequency)
    w = {name: value.astype(np.float64) for name, value in stored.items()}
    rng = np.random.default_rng(7)
    sequences = [rng.integers(0, VOCAB, length) for length in LENGTHS]
    for pre_gate in (True, False):
        out = struct.pack("<ii", len(LENGTHS), VOCAB)
        for tokens in sequences:
            logits, chosen = forward(w, tokens, frequency, pre_gate)
            out += struct.pack("<i", len(tokens)) + tokens.astype("<i4").tobytes()
            out += logits.astype("<f4").tobytes() + chosen.astype("<i4").tobytes()
        (folder / f"logits_{'on' if pre_gate else 'off'}.bin").write_bytes(out)
        tokens = sequences[0]
        right, _ = forward(w, tokens, frequency, pre_gate)
        scale = np.abs(right).max()
        wrongs = [(name, forward(w, tokens, frequency, pre_gate, name)[0]) for name in WRONG]
        wrongs.append(("the other gate input", forward(w, tokens, frequency, not pre_gate)[0]))
        for name, logits in wrongs:
            moved = np.abs(logits - right).max() / scale
            same = frequency == 1 and name in ("leader's bias", "group without dense offset")
            print(f"shared by {frequency}, pre-gate {pre_gate}: {name}: {moved:.3g}")
            assert (moved == 0) if same else (moved > 100 * 1e-4), name
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\nnumpy {np.__version__}\n")
