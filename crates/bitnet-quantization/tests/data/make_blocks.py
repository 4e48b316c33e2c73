#!/usr/bin/env python3
"""Writes the golden files of this folder: see README.md for what they are and how to run this.

Decoded values and encoded blocks come from gguf-py; Q2_0, which gguf-py does not know, and absmean are computed here
with numpy alone, element by element from their formulas.
"""

import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, quants

HERE = pathlib.Path(__file__).resolve().parent
BLOCKS = 6

# Byte offsets of the f16 fields of a block: random bytes there would mostly be absurd scales.
F16_FIELDS = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q8_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2],
    Type.Q6_K: [208], Type.TQ1_0: [52], Type.TQ2_0: [64],
}


def save(folder, name, data):
    path = HERE / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.ascontiguousarray(data).tobytes())


def f16_scales(rng):
    """Zero, a subnormal, the largest, a negative one, then ordinary ones."""
    special = np.array([0.0, 17 * 2.0**-24, 65504.0, -0.75], dtype=np.float16)
    ordinary = rng.uniform(0.001, 0.1, BLOCKS - len(special)).astype(np.float16)
    return np.concatenate([special, ordinary])


def random_blocks(rng, n_bytes, fields):
    blocks = rng.integers(0, 256, (BLOCKS, n_bytes), dtype=np.uint8)
    for at in fields:
        blocks[:, at:at + 2] = f16_scales(rng).view(np.uint8).reshape(BLOCKS, 2)
    return blocks


def decode_q2_0(blocks):
    """Blocks of 64: f16 d, then qs[16]; value j = ((qs[j / 4] >> 2 (j % 4)) & 3 - 1) * d."""
    values = np.zeros((len(blocks), 64), dtype=np.float32)
    for b, block in enumerate(blocks):
        d = np.float32(block[:2].view(np.float16)[0])
        for j in range(64):
            code = (int(block[2 + j // 4]) >> (2 * (j % 4))) & 3
            values[b, j] = np.float32(code - 1) * d
    return values


def encode_q2_0(values):
    """The inverse, for values that are -d, 0 or +d in every block of 64."""
    out = []
    for block in values.reshape(-1, 64):
        d = np.abs(block).max()
        out.append(np.array([d], dtype=np.float16).view(np.uint8))
        codes = [1 + int(np.sign(v)) for v in block]
        out.append(np.array([sum(codes[4 * i + c] << (2 * c) for c in range(4)) for i in range(16)], dtype=np.uint8))
    return np.concatenate(out)


def to_bf16(values):
    """Bits of the nearest bf16, half to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def absmean(weights):
    """Trits and the scale that multiplies, in f32 but for the mean."""
    weights = weights.astype(np.float32)
    mean = np.float32(np.mean(np.abs(weights).astype(np.float64)))
    s = np.float32(1.0) / np.maximum(mean, np.float32(1e-5))
    trits = np.clip(np.rint(weights * s), -1, 1).astype(np.int8)
    return trits, np.float32(1.0) / s


def iq2_s(rng):
    """IQ2_S: random blocks that name every row of its codebook, and a tensor [4, 512] whose runs of 32 have one magnitude."""
    blocks = rng.integers(0, 256, (BLOCKS + 32, 82), dtype=np.uint8)
    scales = np.concatenate([f16_scales(rng), rng.uniform(0.001, 0.1, 32).astype(np.float16)])
    for v in range(1024):
        block, group = blocks[BLOCKS + v // 32], v % 32
        block[2 + group] = v & 255
        block[66 + group // 4] &= np.uint8(255 ^ (3 << 2 * (group % 4)))
        block[66 + group // 4] |= np.uint8((v >> 8) << 2 * (group % 4))
    blocks[:, 0:2] = scales.view(np.uint8).reshape(-1, 2)
    save("foreign", "IQ2_S.blocks", blocks)
    save("foreign", "IQ2_S.blocks.f32", quants.dequantize(blocks, Type.IQ2_S).astype(np.float32))

    # The rows of the codebook with eight equal lanes, by the magnitudes that gguf-py decodes.
    quants.IQ2_S.init_grid()
    grid = np.asarray(quants.IQ2_S.grid).reshape(1024, 8)
    equal = {int(row[0]): i for i, row in enumerate(grid) if len(set(row)) == 1}
    tensor = np.zeros((4, 2, 82), dtype=np.uint8)
    for row, block, d, magnitude, nibbles in (
        (0, 0, 0.5, 8, [3] * 8), (0, 1, 0.5, 8, [3] * 8), (1, 0, -0.25, 43, [0] * 8), (1, 1, 0.25, 43, [0] * 8),
        (2, 0, 0.0, 43, [7] * 8), (2, 1, 1.5, 43, [7] * 8), (3, 0, 2.0, 8, [1, 1, 2, 3, 4, 5, 6, 15]), (3, 1, 1.0, 43, [9] * 8),
    ):
        out = tensor[row, block]
        out[0:2] = np.array([d], dtype=np.float16).view(np.uint8)
        index = equal[magnitude]
        out[2:34] = index & 255
        out[34:66] = rng.integers(0, 256, 32)
        out[66:74] = (index >> 8) * 0b01010101
        out[74:82] = [nibble * 17 for nibble in nibbles]
    save("foreign", "IQ2_S.bytes", tensor)
    save("foreign", "IQ2_S.f32", quants.dequantize(tensor.reshape(8, 82), Type.IQ2_S).astype(np.float32))


def main():
    iq2_s(np.random.default_rng(159))
    rng = np.random.default_rng(158)

    # Decoding: random blocks and their values.
    for ty, fields in F16_FIELDS.items():
        blocks = random_blocks(rng, GGML_QUANT_SIZES[ty][1], fields)
        save("decode", f"{ty.name}.blocks", blocks)
        save("decode", f"{ty.name}.f32", quants.dequantize(blocks, ty).astype(np.float32))
    blocks = random_blocks(rng, 18, [0])
    save("decode", "Q2_0.blocks", blocks)
    save("decode", "Q2_0.f32", decode_q2_0(blocks))
    for ty, bits in ((Type.F16, np.uint16), (Type.BF16, np.uint16), (Type.F32, np.uint32)):
        values = rng.integers(0, np.iinfo(bits).max, 256, dtype=bits)
        exponent = {Type.F16: 0x7C00, Type.BF16: 0x7F80, Type.F32: 0x7F800000}[ty]
        values = values[(values & bits(exponent)) != bits(exponent)]
        values = np.concatenate([np.array([0, 1, 3], dtype=bits), values])  # zero and subnormals
        stored = values.view(np.uint8)
        save("decode", f"{ty.name}.blocks", stored)
        save("decode", f"{ty.name}.f32", quants.dequantize(stored, ty).astype(np.float32))

    # Encoding: ordinary values, a block of zeros, one of tiny and one of large values.
    values = rng.normal(0, 0.02, (BLOCKS, 256)).astype(np.float32)
    values[1] = 0
    values[2] *= np.float32(1e-4)
    values[3] *= np.float32(5e4)
    save("encode", "values.f32", values)
    for ty in (Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q8_0):
        save("encode", f"{ty.name}.blocks", quants.quantize(values, ty).view(np.uint8))

    # Trits, with a scale per 256 (the third block is all zeros).
    scales = np.array([0.5, 0.0625, 0.0, 1.2207031, 0.25, 3.0], dtype=np.float16).astype(np.float32)
    trits = rng.integers(-1, 2, (BLOCKS, 256), dtype=np.int8)
    values = trits.astype(np.float32) * scales[:, None]
    save("encode", "ternary.f32", values)
    for ty in (Type.TQ1_0, Type.TQ2_0):
        save("encode", f"{ty.name}.blocks", quants.quantize(values, ty).view(np.uint8))
    save("encode", "Q2_0.blocks", encode_q2_0(values))

    # Absmean of master weights [24, 50], and of weights whose mean is exactly 1, so that halves are ties.
    weights = rng.normal(0, 0.02, (24, 50)).astype(np.float32)
    f16 = weights.astype(np.float16)
    bf16 = to_bf16(weights)
    widened = (bf16.astype(np.uint32) << 16).view(np.float32)
    magnitudes = np.repeat(np.array([0.0, 0.5, 1.0, 1.5, 2.0], dtype=np.float32), 240)
    ties = (rng.permutation(magnitudes) * rng.choice(np.array([-1, 1], dtype=np.float32), 1200)).reshape(24, 50)
    assert np.mean(np.abs(ties)) == 1.0
    scales = []
    for name, stored, values in (("F32", weights, weights), ("F16", f16, f16), ("BF16", bf16, widened), ("ties", ties, ties)):
        trits, scale = absmean(values)
        save("absmean", f"{name}.weights", stored)
        save("absmean", f"{name}.trits", trits)
        scales.append(scale)
    save("absmean", "scales.f32", np.array(scales, dtype=np.float32))


if __name__ == "__main__":
    main()
