"""Writes the seed files of the fuzz targets: small, valid, and each of another kind. Standard library only.

    python3 make_seeds.py
"""
import json
import os
import shutil
import struct
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "../crates/bitnet-models/tests/data/reference")
FOREIGN = os.path.join(HERE, "../crates/bitnet-quantization/tests/data/foreign")
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
VOCAB = 8


def write(target, name, data):
    folder = os.path.join(HERE, "seeds", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def u32(value):
    return struct.pack("<I", value)


def strings(values):
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def weights(kind, n):
    """The type number and data of n ternary weights."""
    if kind == "I2_S":
        return 36, b"\x91" * (n // 4) + struct.pack("<f", 0.5) + bytes(28)
    if kind == "Q2_0":
        return 42, (struct.pack("<e", 0.5) + b"\x91" * 16) * (n // 64)
    return 1, struct.pack("<e", 0.5) * n


def gguf(arch, kind, version, tokenizer, hidden):
    ffn, kv, head_dim = 2 * hidden, hidden // 2, hidden // 2
    pairs = [pair("general.architecture", STRING, text(arch))]
    sizes = {
        "vocab_size": VOCAB, "context_length": 64, "embedding_length": hidden, "block_count": 1,
        "feed_forward_length": ffn, "attention.head_count": 2, "attention.head_count_kv": 1,
        "rope.dimension_count": head_dim,
    }
    pairs += [pair(f"{arch}.{key}", U32, u32(value)) for key, value in sizes.items()]
    pairs.append(pair(f"{arch}.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)))
    pairs.append(pair("tokenizer.ggml.model", STRING, text(tokenizer)))
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab", "c"] if tokenizer == "llama" else list("abcdefg") + ["ab"]
    pairs.append(pair("tokenizer.ggml.tokens", ARRAY, strings(tokens)))
    pairs.append(pair("tokenizer.ggml.eos_token_id", U32, u32(2)))
    if tokenizer == "llama":
        pairs.append(pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ8f", F32, 8, *[-float(i) for i in range(8)])))
        pairs.append(pair("tokenizer.ggml.token_type", ARRAY, struct.pack("<IQ8i", 5, 8, 2, 3, 3, 6, 1, 1, 1, 1)))
    else:
        pairs.append(pair("tokenizer.ggml.merges", ARRAY, strings(["a b"])))
        pairs.append(pair("tokenizer.ggml.add_bos_token", BOOL, b"\0"))
    tensors = [("token_embd.weight", [hidden, VOCAB], 1, struct.pack("<e", 0.25) * hidden * VOCAB)]
    norms = {"attn_norm": hidden, "ffn_norm": hidden}
    if arch.startswith("bitnet"):
        norms |= {"attn_sub_norm": hidden, "ffn_sub_norm": ffn}
    if arch == "qwen3":
        norms |= {"attn_q_norm": head_dim, "attn_k_norm": head_dim}
    vectors = [("output_norm.weight", hidden)] + [(f"blk.0.{name}.weight", size) for name, size in norms.items()]
    tensors += [(name, [size], 0, struct.pack("<f", 1.0) * size) for name, size in vectors]
    shapes = {
        "attn_q": (hidden, hidden), "attn_k": (hidden, kv), "attn_v": (hidden, kv), "attn_output": (hidden, hidden),
        "ffn_gate": (hidden, ffn), "ffn_up": (hidden, ffn), "ffn_down": (ffn, hidden),
    }
    tensors += [(f"blk.0.{name}.weight", list(dims), *weights(kind, dims[0] * dims[1])) for name, dims in shapes.items()]
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    data = b""
    for name, dims, number, values in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, len(data))
        data += values + bytes(-len(values) % 32)
    return out + bytes(-len(out) % 32) + data


def safetensors(entries):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(at)


for arch, kind, version, tokenizer, hidden in [
    ("bitnet-b1.58", "I2_S", 3, "gpt2", 64), ("llama", "F16", 2, "llama", 16), ("qwen3", "Q2_0", 3, "gpt2", 64),
]:
    for target in ["gguf", "gguf_vocabulary"]:
        write(target, f"{arch}.{kind}.gguf", gguf(arch, kind, version, tokenizer, hidden))
write("gguf", "empty-v3.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0))

write("safetensors_header", "packed", safetensors([
    ("model.embed_tokens.weight", "BF16", [4, 8], 64), ("model.layers.0.mlp.up_proj.weight", "U8", [4, 8], 32),
    ("model.layers.0.mlp.up_proj.weight_scale", "BF16", [1], 2),
]))
write("safetensors_header", "types", safetensors([
    (f"t.{dtype}", dtype, [2, 3], 6 * size) for dtype, size in [("F32", 4), ("F64", 8), ("I64", 8), ("BOOL", 1), ("F16", 2)]
]))
write("safetensors_header", "none", safetensors([]))
write("safetensors_header", "scalar-and-empty", safetensors([("scalar", "F32", [], 4), ("empty", "U8", [0, 5], 0)]))

os.makedirs(os.path.join(HERE, "seeds/tokenizer_json"), exist_ok=True)
shutil.copy(os.path.join(REFERENCE, "tiny-bitnet/tokenizer.json"), os.path.join(HERE, "seeds/tokenizer_json/tiny.json"))
with open(os.path.join(REFERENCE, "tiny-bitnet/tokenizer.json"), encoding="utf-8") as file:
    small = json.load(file)
byte_tokens = sorted(small["model"]["vocab"].items(), key=lambda item: item[1])[:40]
small["model"]["vocab"] = dict(byte_tokens)
small["model"]["merges"] = []
small["added_tokens"] = []
small["post_processor"] = None
write("tokenizer_json", "bytes.json", json.dumps(small).encode())
write("tokenizer_json", "spm.json", json.dumps({
    "version": "1.0", "added_tokens": [{"id": 1, "content": "<s>", "special": True, "single_word": False,
                                        "lstrip": False, "rstrip": False, "normalized": False}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                       {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": None,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                 {"type": "ByteFallback"}, {"type": "Fuse"},
                                                 {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
              "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "\u2581": 3, "a": 4, "b": 5, "ab": 6}, "merges": ["a b"]},
}).encode())



def field(number, data):
    """A field of a protocol buffer that holds bytes; under 128 of them."""
    return bytes([number << 3 | 2, len(data)]) + data


pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("\u2581", 1), ("a", 1), ("b", 1), ("ab", 1), ("<sep>", 4)]
model = b"".join(field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", -i) + bytes([3 << 3, kind]))
                 for i, (text, kind) in enumerate(pieces))
write("sentencepiece_model", "bpe.model", model + field(2, bytes([3 << 3, 2])) + field(3, bytes([4 << 3, 0])))
write("mlx", "q2_0", bytes([0, 2, 8, 4]) + b"\x91" * 64 + struct.pack("<e", 0.5) * 4 + struct.pack("<e", -0.5) * 4)
# Number of the format in `ForeignType::ALL`, rows, columns by 32; the tiles' rows, columns by 8 and rows of a lane.
for head, name in [
    ((0, 3, 16, 0, 0, 0), "STQ1_0"), ((1, 4, 6, 0, 0, 0), "IQ1_BN"), ((2, 4, 6, 0, 0, 0), "IQ2_BN"),
    ((3, 4, 16, 0, 0, 0), "IQ2_S"), ((4, 64, 8, 32, 16, 32), "TL1"), ((5, 64, 16, 32, 12, 32), "TL2"),
]:
    with open(os.path.join(FOREIGN, f"{name}.bytes"), "rb") as file:
        write("foreign", name, bytes(head) + file.read())

# Files that torch wrote, and the pickles in them: the target reads a bare one in an archive of its own.
PICKLES = os.path.join(HERE, "../crates/bitnet-models/tests/data/pickle")
for name in ["types-2", "types-4", "training", "system", "transposed", "legacy"]:
    path = os.path.join(PICKLES, f"{name}.bin")
    with open(path, "rb") as file:
        write("pickle", f"{name}.bin", file.read())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            write("pickle", f"{name}.pkl", archive.read(f"{name}/data.pkl"))

with open(os.path.join(REFERENCE, "tiny-bitnet/tokenizer_config.json"), encoding="utf-8") as file:
    write("chat_template", "bitnet.jinja", json.load(file)["chat_template"].encode())
write("chat_template", "chatml.jinja", b"""{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""")
write("chat_template", "strict.jinja", b"""{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}
{% if m['role'] == 'user' %}{% set ns.n = ns.n + 1 %}[INST] {{ m['content'].strip() }} [/INST]
{% elif m['role'] not in ['assistant', 'system'] %}{{ raise_exception('roles must alternate') }}
{% else %} {{ m['content'] | tojson }}{{ eos_token }}{% endif %}{% endfor %}{{ ns.n }}""")

# What is written again starts from the same files.
for source, target in [("gguf", "rewrite"), ("tokenizer_json", "tokenizer_conversion")]:
    folder = os.path.join(HERE, "seeds", target)
    os.makedirs(folder, exist_ok=True)
    for name in sorted(os.listdir(os.path.join(HERE, "seeds", source))):
        shutil.copy(os.path.join(HERE, "seeds", source, name), os.path.join(folder, name))
write("model_card", "card.md", b"""---
license: other
license_name: "a licence"
license_link: https://example.org/licence
language:
- en
- fr
tags: [bitnet, '1.58-bit']
pipeline_tag: text-generation
base_model: org/name
model-index:
- name: x
  results:
    - task: y
---
# Title
""")
write("model_card", "none.md", b"# Title\n")
write("hub_answer", "mixed.json", json.dumps({
    "id": "owner/name", "sha": "c" * 40, "cardData": {"license": "other", "license_name": "x"}, "tags": ["license:mit"],
    "siblings": [{"rfilename": name, "size": 9, "blobId": "1" * 40} for name in ["config.json", "q4.gguf", "a/mmproj.gguf"]]
    + [{"rfilename": f"m-0000{n}-of-00003.gguf", "size": 9, "blobId": "1" * 40,
        "lfs": {"sha256": "2" * 64, "size": 99, "pointerSize": 9}} for n in [1, 3]]
    + [{"rfilename": name, "size": 9, "lfs": {"sha256": "3" * 64, "size": 7}}
       for name in ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]],
}).encode())
