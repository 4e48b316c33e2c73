#!/usr/bin/env python3
"""Write tiny checkpoints of the families whose files hold dense numbers, with golden logits.

    onebit-large-tiny, onebit-3b-tiny
                  1bitLLM's bitnet_b1_58: class BitnetForCausalLM, F16 master weights, norms named `inner_attn_ln` and
                  `ffn_layernorm`, heads of 96 and of 100, 3B's rows of an eighth of 3200 and 8640 that are no multiple
                  of 128.
    trilm-tiny    TriLM: Llama in F16 whose matrices are already ternary, with a scale for each of two training shards
                  (rows of q, k, v, gate and up; columns of o and down).
    minicpm-tiny  MiniCPM4 as BitCPM4 has it: BF16 whose matrices are already ternary, scaled embedding, residuals and
                  logits, LongRoPE.

    pip install -r reference/requirements.txt
    python make_dense_families.py --out .

What computes is Hugging Face transformers in float32: for 1bitLLM its BitNet with `silu` and online quantisation, for
TriLM its Llama and for MiniCPM its Granite (the same graph: embedding_multiplier, residual_multiplier, logits_scaling),
the latter two with linear layers that round activations to int8 per token, which is what this engine does to every
ternary model. Training is not bit-reproducible on another CPU, so weights and goldens are always written together.
"""
import make_families as F  # first: sets the environment

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.func import functional_call
from transformers import BitNetConfig, BitNetForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.bitnet import replace_with_bitnet_linear
from transformers.utils.quantization_config import BitNetQuantConfig

SHARDS = 2
ROW_SHARDED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
MINICPM = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 64}
# Longer than the golden prompts reach, and another set for longer texts, which must not be taken.
SHORT = [1.0 + 0.05 * i for i in range(32)]
LONG = [2.0 + 0.1 * i for i in range(32)]


def config_1bit(hidden, heads, inner):
    return BitNetConfig(hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads, num_key_value_heads=heads,
                        hidden_act="silu", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                        **{**F.SHAPE, "rms_norm_eps": 1e-5})


def online(config):
    model = BitNetForCausalLM(config)
    quantised = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online", modules_to_not_convert=["lm_head"])
    model = replace_with_bitnet_linear(model, ["lm_head"], quantised)
    model = model.to_empty(device="cpu")
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config)  # its buffers are no parameters, so they went with to_empty
    return model


def random_state(model, seed):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() == 1:
            state[name] = torch.exp(0.2 * noise) * (0.3 if name == "model.norm.weight" else 1.0)
        else:
            state[name] = noise * (0.5 if "embed" in name else 0.08)
    return state


def train(name, model, state, effective, ids, steps, seed):
    """Adam on masters; every forward pass sees `effective` of them, with the gradient passed straight through."""
    model.train()
    masters = {n: w.clone().requires_grad_() for n, w in state.items()}
    groups = [{"params": [p], "peak": 0.03 * max(float(p.detach().square().mean().sqrt()), 0.02)} for p in masters.values()]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.98))
    rng, data = np.random.default_rng(seed), torch.tensor(ids)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        batch = torch.stack([data[o:o + 128] for o in rng.integers(0, len(data) - 128, 4).tolist()])
        batch[0, 0] = F.BOS
        weights = {n: m + (effective(n, m.detach()) - m.detach()) for n, m in masters.items()}
        loss = functional_call(model, weights, (), {"input_ids": batch, "labels": batch}).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(masters.values()), 1.0)
        optimiser.step()
        if step % 25 == 0 or step == steps - 1:
            print(name, "step", step, f"loss {loss.item():.3f}", flush=True)
    model.eval()
    return {n: p.detach() for n, p in masters.items()}


def sharded(dtype):
    """Trits times the mean of each shard, as numbers of `dtype`."""
    def effective(name, w):
        if not F.is_projection(name):
            return w.to(dtype).float()
        dim = 0 if name.split(".")[-2] in ROW_SHARDED else 1
        parts = []
        for part in w.chunk(SHARDS, dim=dim):
            scale = part.abs().mean().clamp(min=1e-5).to(dtype).float()
            parts.append((part / scale).round().clamp(-1, 1) * scale)
        return torch.cat(parts, dim=dim)
    return effective


def write(folder, state, dtype, config):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file({n: t.to(dtype).contiguous() for n, t in state.items()}, str(folder / "model.safetensors"), metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(F.REFERENCE / "tiny-bitnet" / name, folder / name)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    F.dump(folder / "tokenizer_config.json", {**settings, "model_max_length": F.CONTEXT})
    F.dump(folder / "config.json", config)


def shape(config):
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
             "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "hidden_act", "tie_word_embeddings")
    return {name: getattr(config, name) for name in names}


@torch.no_grad()
def settle_bos(name, model, state, dtype):
    """Both golden texts begin with BOS, so an activation of BOS on a rounding tie would blur every position. Its embedding
    row is scaled by the factor in 1.00 .. 1.39 that keeps all its activations farthest from a tie."""
    distances, hooks = [], []

    def hook(_module, inputs):
        x = inputs[0][0].float()
        y = x * (127 / x.abs().max(-1, keepdim=True).values.clamp(min=1e-5))
        distances.append(float((y - y.floor() - 0.5).abs().min()))
    for module_name, module in model.named_modules():
        if F.is_projection(module_name):
            hooks.append(module.register_forward_pre_hook(hook))
    key, best = "model.embed_tokens.weight", (-1.0, None)
    row = state[key][F.BOS].clone()
    for k in range(40):
        state[key][F.BOS] = (row * (1 + k / 100)).to(dtype).float()
        distances.clear()
        load(model, state)(input_ids=torch.tensor([[F.BOS]]))
        best = max(best, (min(distances), k))
    [h.remove() for h in hooks]
    state[key][F.BOS] = (row * (1 + best[1] / 100)).to(dtype).float()
    print(name, "BOS scaled by", 1 + best[1] / 100, "tie distance", best[0], flush=True)
    return state


def load(model, state):
    tied = {} if "lm_head.weight" in state else {"lm_head.weight": state["model.embed_tokens.weight"]}
    model.load_state_dict({**state, **tied})
    return model.eval()


def onebit(name, dims, seed, ids, text_ids, out, steps):
    config = config_1bit(*dims)
    model = online(config)
    state = train(name, model, random_state(model, seed), lambda _, w: w.half().float(), ids, steps, seed)
    state = {n: w.half().float() for n, w in state.items()}
    renamed = {n.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm"): w for n, w in state.items()}
    assert sum("inner_attn_ln" in n for n in renamed) == config.num_hidden_layers
    write(out / name, renamed, torch.float16, {
        "architectures": ["BitnetForCausalLM"], "model_type": "bitnet", **shape(config), "rope_theta": 10000.0, "rope_scaling": None,
        "attention_bias": False, "weight_bits": 1, "input_bits": 8, "torch_dtype": "float16"})
    F.write_scaled_logits("golden", load(online(config), state), out / name, text_ids)


def trilm(ids, text_ids, out, steps):
    config = LlamaConfig(hidden_size=128, intermediate_size=256, num_attention_heads=2, num_key_value_heads=2,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False, **F.SHAPE)
    model, effective = F.patch(LlamaForCausalLM(config)), sharded(torch.float16)
    masters = train("trilm-tiny", model, random_state(model, 42), effective, ids, steps, 42)
    state = settle_bos("trilm-tiny", model, {n: effective(n, w) for n, w in masters.items()}, torch.float16)
    write(out / "trilm-tiny", state, torch.float16, {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape(config), "rope_theta": 10000.0, "attention_bias": False,
        "pretraining_model_parallel": SHARDS, "torch_dtype": "float16"})
    F.write_scaled_logits("golden", load(model, state), out / "trilm-tiny", text_ids)


def minicpm(ids, text_ids, out, steps):
    hidden, layers = 256, F.SHAPE["num_hidden_layers"]
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG,
            "original_max_position_embeddings": 256}
    config = GraniteConfig(
        hidden_size=hidden, intermediate_size=384, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        rope_parameters=rope, embedding_multiplier=MINICPM["scale_emb"], residual_multiplier=MINICPM["scale_depth"] / math.sqrt(layers),
        logits_scaling=hidden / MINICPM["dim_model_base"], attention_multiplier=1 / math.sqrt(hidden // 4),
        **{**F.SHAPE, "pad_token_id": None})
    model, effective = F.patch(GraniteForCausalLM(config)), sharded(torch.bfloat16)
    state = random_state(model, 43)
    state["model.embed_tokens.weight"] *= 0.2
    masters = train("minicpm-tiny", model, state, effective, ids, steps, 43)
    state = settle_bos("minicpm-tiny", model, {n: effective(n, w) for n, w in masters.items()}, torch.bfloat16)
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    write(out / "minicpm-tiny", state, torch.bfloat16, {
        "architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", **shape(config), **MINICPM, "rope_theta": 10000.0,
        "rope_scaling": scaling, "attention_bias": False, "torch_dtype": "bfloat16"})
    F.write_scaled_logits("golden", load(model, state), out / "minicpm-tiny", text_ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["large", "3b", "trilm", "minicpm"])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(F.REFERENCE / "tiny-bitnet/tokenizer.json"))
    texts = [(F.REFERENCE / "texts" / n).read_text(encoding="utf-8") for n in ("corpus.txt", "perplexity.txt")]
    ids = sum((tokenizer.encode(t, add_special_tokens=False).ids for t in texts), [])
    text_ids = json.loads((F.REFERENCE / "golden/perplexity_ids.json").read_text())
    if args.only in (None, "large"):
        onebit("onebit-large-tiny", (192, 2, 512), 40, ids, text_ids, args.out, args.steps)
    if args.only in (None, "3b"):
        onebit("onebit-3b-tiny", (200, 2, 540), 41, ids, text_ids, args.out, args.steps)
    if args.only in (None, "trilm"):
        trilm(ids, text_ids, args.out, args.steps)
    if args.only in (None, "minicpm"):
        minicpm(ids, text_ids, args.out, args.steps)


if __name__ == "__main__":
    main()
