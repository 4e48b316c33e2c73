#!/usr/bin/env python3
"""Write the weights of `qwen3-tiny` as the Hugging Face directories that Ternary-Bonsai is published as.

    qwen3-tiny/unpacked   dense F16, every weight trit x scale with a scale per block, saved by transformers
    qwen3-tiny/mlx        MLX 2-bit: codes in u32, F16 scales and biases (-scale) per 64 weights, embedding included. Where
                          the package `mlx` is there, its own `dequantize` reads every weight back.

    pip install -r reference/requirements.txt
    python make_unpacked.py

The golden data are `qwen3-tiny/golden.*`: the weights are read from the Q2_0 file beside them, so nothing is trained
and the output is the same on every machine. Norms stay F32 as there, so that the numbers are the same model's.
"""
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

try:
    import mlx.core as mx
except ImportError:
    mx = None

HERE = Path(__file__).parent
SOURCE = HERE / "qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf"
TOKENIZER = HERE / "reference/tiny-bitnet"
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def hf_name(name):
    flat = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in flat:
        return flat[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


class Reader:
    """GGUF v3 as far as `make_families.py` writes it."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, kind):
        value = struct.unpack_from(f"<{kind}", self.data, self.at)[0]
        self.at += struct.calcsize(f"<{kind}")
        return value

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            element, n = self.take("I"), self.take("Q")
            return [self.value(element) for _ in range(n)]
        return self.take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])


def read_gguf(path):
    """The metadata, and every tensor as float32 in the shape of a Hugging Face checkpoint."""
    reader = Reader(path.read_bytes())
    assert reader.take("I") == 0x46554747 and reader.take("I") == 3
    n_tensors, n_keys = reader.take("Q"), reader.take("Q")
    metadata = {}
    for _ in range(n_keys):
        key = reader.string()
        metadata[key] = reader.value(reader.take("I"))
    infos = []
    for _ in range(n_tensors):
        name = reader.string()
        dims = [reader.take("Q") for _ in range(reader.take("I"))]
        infos.append((name, dims[::-1], reader.take("I"), reader.take("Q")))
    start, tensors = -(-reader.at // 32) * 32, {}
    for name, shape, kind, offset in infos:
        n = int(np.prod(shape))
        if kind == 0:
            values = np.frombuffer(reader.data, "<f4", n, start + offset)
        else:  # Q2_0: blocks of 64, an f16 scale before the codes, element j in bits 2(j % 4) of byte j / 4
            assert kind == 42
            blocks = np.frombuffer(reader.data, np.uint8, n // 64 * 18, start + offset).reshape(-1, 18)
            scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
            codes = blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
            values = (codes.reshape(-1, 64).astype(np.float32) - 1) * scales
        tensors[hf_name(name)] = values.reshape(shape).copy()
    return metadata, tensors


def config_of(metadata):
    of = lambda key: metadata[f"qwen3.{key}"]
    return Qwen3Config(
        vocab_size=of("vocab_size"), hidden_size=of("embedding_length"), intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"), num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"), head_dim=of("attention.key_length"),
        rms_norm_eps=round(of("attention.layer_norm_rms_epsilon"), 12), max_position_embeddings=of("context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": of("rope.freq_base")}, tie_word_embeddings=True,
        bos_token_id=metadata["tokenizer.ggml.bos_token_id"], eos_token_id=metadata["tokenizer.ggml.eos_token_id"])


def copy_tokenizer(folder, config):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "model_max_length": config.max_position_embeddings}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def write_unpacked(folder, config, tensors):
    model = Qwen3ForCausalLM(config)
    weights = {name: torch.from_numpy(values) for name, values in tensors.items()}
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.half()
            assert (parameter.data.float() == weights[name]).all(), name
    model.config.dtype = torch.float16
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    copy_tokenizer(folder, config)


def pack_mlx(values, group):
    """u32 codes, 16 to a number with the first in the lowest bits; w = scale * code + bias."""
    groups = values.reshape(-1, group)
    scales = np.abs(groups).max(axis=1, keepdims=True)
    codes = np.rint(np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0)).astype(np.int64) + 1
    words = codes.reshape(values.shape[0], -1, 16).astype(np.uint32) << (2 * np.arange(16, dtype=np.uint32))
    half = scales.astype(np.float16).reshape(values.shape[0], -1)
    assert (half.astype(np.float32).reshape(-1, 1) == scales).all()
    return np.bitwise_or.reduce(words, axis=2), half, -half


def write_mlx(folder, config, tensors, group=64):
    state = {}
    for name, values in tensors.items():
        if values.ndim == 1:
            state[name] = values
            continue
        stem = name.removesuffix(".weight")
        state[name], state[f"{stem}.scales"], state[f"{stem}.biases"] = packed = pack_mlx(values, group)
        if mx is not None:
            read = mx.dequantize(*map(mx.array, packed), group_size=group, bits=2)
            assert (np.array(read.astype(mx.float32)) == values).all(), name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "mlx"})
    bits = {"group_size": group, "bits": 2}
    settings = {**config.to_dict(), "architectures": ["Qwen3ForCausalLM"], "quantization": bits, "quantization_config": bits}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(folder, config)
    print("checked by mlx" if mx is not None else "mlx is not installed: not checked by it")


def main():
    metadata, tensors = read_gguf(SOURCE)
    config = config_of(metadata)
    write_unpacked(HERE / "qwen3-tiny/unpacked", config, tensors)
    write_mlx(HERE / "qwen3-tiny/mlx", config, tensors)


if __name__ == "__main__":
    main()
