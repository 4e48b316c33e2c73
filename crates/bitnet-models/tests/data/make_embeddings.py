#!/usr/bin/env python3
"""Write tiny embedding models with golden vectors, shaped as Microsoft's bitnet-embedding 0.6B (Qwen3) and 270M (Gemma3).

    qwen3-embed-tiny    Qwen3 with an RMS norm of its own before each projection
    gemma3-embed-tiny   Gemma3 with the same: post-norms, GELU, scaled embedding, local and global rotary bases

    pip install -r reference/requirements.txt
    python make_embeddings.py --out .

Each is a Hugging Face directory of bf16 master weights (quantised by their absolute mean when loaded, no
`quantization_config`, pooling by sentence-transformers' files) and GGUF files with the names, types and keys that
Microsoft's converter writes. Golden vectors (`embeddings.json`) are those of transformers in float32 on the CPU, its
`nn.Linear` replaced by the arithmetic of the model's description: norm, int8 activations per token, exact sums. Training
is that of `make_families.py`.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

import make_families as base
from make_families import BOS, CONTEXT, EOS, REFERENCE, VOCAB

TEXTS = ["Instruct: Given a question, find the passage that answers it\nQuery: How many ships passed the point today?",
         "The lighthouse keeper counted eleven ships before the fog came in.", "Bread", "A longer passage. " * 8]


class InputNorm(torch.nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class NormedTernaryLinear(base.TernaryLinear):
    def forward(self, x):
        return super().forward(self.norm(x))


def patch(model):
    for name, module in list(model.named_modules()):
        if base.is_projection(name) and not isinstance(module, NormedTernaryLinear):
            module.__class__ = NormedTernaryLinear
            module.norm = InputNorm(module.in_features, model.config.rms_norm_eps)
    return model


def absmean(w):
    """Trits and scale of bf16 master weights, float32 throughout as transformers' WeightQuant."""
    scale = w.abs().mean().clamp(min=1e-5)
    return (w * (1.0 / scale)).round().clamp(-1, 1), scale


def stored(family, name, w):
    """A tensor as the files hold it: bf16, and exact in f16 too."""
    if base.is_projection(name):
        return w.bfloat16().float()
    if w.dim() == 2:  # the embedding: no tiny values that f16 would round
        return ((w * 1024).round() / 1024).bfloat16().float()
    # Gemma's own norms are stored less 1, and f16 must hold the sum.
    return ((w * 128).round() / 128).bfloat16().float() if native_gemma_norm(family, name) else w.bfloat16().float()


def native_gemma_norm(family, name):
    return family == "gemma3" and not name.endswith("_proj.norm.weight")


def effective(family, name, w):
    w = stored(family, name, w)
    if not base.is_projection(name):
        return w
    trits, scale = absmean(w)
    return trits * scale


def off_ties(w):
    """Moves the few masters that a last bit of the mean could round either way."""
    w = w.bfloat16().float()
    while True:
        near = ((w / absmean(w)[1]).abs() - 0.5).abs() < 1e-4
        if not near.any():
            return w
        w = torch.where(near, w * 1.02, w).bfloat16().float()


def random_model(family, model, seed):
    torch.manual_seed(seed)
    patch(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                gain = torch.exp(0.2 * torch.randn_like(p)) * (0.3 if name == "model.norm.weight" else 1.0)
                p.copy_(gain - 1 if native_gemma_norm(family, name) else gain)
            else:
                p.normal_(0.0, (0.05 if family == "gemma3" else 0.5) if "embed" in name else 0.08)
    return model


def gguf_name(family, name):
    rest = name.split(".", 3)[-1].removesuffix(".weight")
    if name.endswith("_proj.norm.weight"):
        return base.gguf_name(name.removesuffix(".norm.weight") + ".weight").removesuffix(".weight") + "_norm_in.weight"
    gemma = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
             "post_feedforward_layernorm": "post_ffw_norm"}
    if family == "gemma3" and rest in gemma:
        return f"blk.{name.split('.')[2]}.{gemma[rest]}.weight"
    return base.gguf_name(name)


def gguf_tensors(family, state):
    for name, w in state.items():
        if base.is_projection(name):
            trits, scale = absmean(w)
            yield gguf_name(family, name), "I2_S", tuple(w.shape[::-1]), base.pack_i2_s(trits.numpy(), float(scale))
        else:
            w = w + 1 if w.dim() == 1 and native_gemma_norm(family, name) else w
            half = w.half()
            assert (half.float() == w).all(), name
            yield gguf_name(family, name), "F16", tuple(w.shape[::-1]), half.numpy().tobytes()


@torch.no_grad()
def embeddings(model):
    """Texts as an embedding server sees them: BOS, text, EOS; the last and the mean state, each of length 1."""
    tokenizer, out = Tokenizer.from_file(str(REFERENCE / "tiny-bitnet/tokenizer.json")), []
    for text in TEXTS:
        ids = [BOS] + tokenizer.encode(text, add_special_tokens=False).ids + [EOS]
        states = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
        vectors = {"last": states[-1], "mean": states.mean(0)}
        out.append({"text": text, "ids": ids, **{k: (v / v.norm()).float().tolist() for k, v in vectors.items()}})
    return out


def write_directory(folder, config, state, architecture):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    tensors = {k.removeprefix("model."): v.bfloat16().contiguous() for k, v in state.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    for name in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copy(REFERENCE / "tiny-bitnet" / name, folder / name)
    settings = json.loads((REFERENCE / "tiny-bitnet/tokenizer_config.json").read_text())
    base.dump(folder / "tokenizer_config.json", {**settings, "model_max_length": CONTEXT, "add_eos_token": True})
    kinds = ("Transformer", "Pooling", "Normalize")
    base.dump(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)])
    base.dump(folder / "1_Pooling/config.json", {"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False,
                                                 "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True})
    base.dump(folder / "config.json", {"architectures": [architecture], "bos_token_id": BOS, "eos_token_id": EOS,
                                       "tie_word_embeddings": True, "attention_bias": False, "dtype": "bfloat16", **config})


SIZES = {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 256, "head_dim": 64, "num_attention_heads": 4,
         "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6}
QWEN3 = {**SIZES, "model_type": "qwen3", "num_hidden_layers": 2, "num_key_value_heads": 2, "hidden_act": "silu", "rope_theta": 1000000.0}
GEMMA3 = {**SIZES, "model_type": "gemma3_text", "num_hidden_layers": 3, "num_key_value_heads": 1,
          "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "sliding_window": CONTEXT,
          "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
          "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}


def models(family, state, theta=None):
    common = {"bos_token_id": BOS, "eos_token_id": EOS, "attn_implementation": "eager", "tie_word_embeddings": True}
    if family == "qwen3":
        sizes = {k: v for k, v in QWEN3.items() if k not in ("model_type", "rope_theta")}
        model = Qwen3ForCausalLM(Qwen3Config(rope_parameters={"rope_type": "default", "rope_theta": QWEN3["rope_theta"]}, **sizes, **common))
    else:
        sizes = {k: v for k, v in GEMMA3.items() if k not in ("model_type", "rope_theta", "rope_local_base_freq")}
        bases = {"sliding_attention": theta or GEMMA3["rope_local_base_freq"], "full_attention": theta or GEMMA3["rope_theta"]}
        rope = {kind: {"rope_type": "default", "rope_theta": value} for kind, value in bases.items()}
        model = Gemma3ForCausalLM(Gemma3TextConfig(rope_parameters=rope, **sizes, **common))
    if state is not None:
        patch(model)
        weights = {n: effective(family, n, w) for n, w in state.items()}
        model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["qwen3", "gemma3"])
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base.patch, base.effective = patch, effective
    tokenizer = Tokenizer.from_file(str(REFERENCE / "tiny-bitnet/tokenizer.json"))
    texts = [(REFERENCE / "texts" / n).read_text(encoding="utf-8") for n in ("corpus.txt", "perplexity.txt")]
    ids = sum((tokenizer.encode(t, add_special_tokens=False).ids for t in texts), [])

    for family, config, seed in (("qwen3", QWEN3, 41), ("gemma3", GEMMA3, 42)):
        if args.only not in (None, family):
            continue
        name = f"{family}-embed-tiny"
        folder = args.out / name
        start = random_model(family, models(family, None), seed)
        masters = base.train(family, start, ids, args.steps, seed)
        state = {n: off_ties(w) if base.is_projection(n) else stored(family, n, w) for n, w in masters.items()}
        write_directory(folder, config, state, "Qwen3Model" if family == "qwen3" else "Gemma3TextModel")
        model = models(family, state)
        keys = base.metadata(family, name, model.config, config["rope_theta"], "I2_S")
        keys |= {f"{family}.pooling_type": 3, "tokenizer.ggml.add_eos_token": True}
        tensors = list(gguf_tensors(family, state))
        golden = {"embeddings": embeddings(model)}
        if family == "gemma3":
            # As Microsoft's converter writes it: one rotary base (its model's is 10000) and no window.
            plain = {**keys, "gemma3.rope.freq_base": 10000.0}
            base.write_gguf(folder / f"{name}.gemma3.I2_S.gguf", plain, tensors)
            golden["embeddings_of_one_base"] = embeddings(models(family, state, theta=10000.0))
            # As llama.cpp's converter does.
            keys |= {"gemma3.attention.sliding_window": CONTEXT, "gemma3.attention.sliding_window_pattern": 3}
            base.write_gguf(folder / f"{name}.gemma3.sliding.I2_S.gguf", keys, tensors)
        else:
            base.write_gguf(folder / f"{name}.qwen3.I2_S.gguf", keys, tensors)
        base.dump(folder / "embeddings.json", golden)


if __name__ == "__main__":
    main()
