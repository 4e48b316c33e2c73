#!/usr/bin/env python3
"""Writes the golden files of formats that no public tool at hand writes: see README.md.

Every element's place comes straight from the published description of its format (the bit positions of the type's own
project), one Python loop an element; nothing here is shared with the Rust readers.

    venv/bin/python make_dialects.py
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def save(folder, name, data):
    path = HERE / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())


def f16(value):
    return np.float16(value).tobytes()


def pq2_0_block(trits, d):
    """f16 d, then 32 bytes: element j is bits 2 (j % 4) of byte j / 4, code = trit + 1."""
    codes = bytearray(32)
    for j, trit in enumerate(trits):
        codes[j // 4] |= (int(trit) + 1) << (2 * (j % 4))
    return f16(d) + bytes(codes)


def base3_byte(digits):
    """ceil(v 256 / 243), v with the first digit most significant."""
    v = 0
    for digit in digits:
        v = v * 3 + digit
    return -(-v * 256 // 243)


def ptq1_0_block(trits, d):
    """24 bytes of five digits, 2 of four, f16 d: (16 bytes, 80 elements), (8, 40), (2, 8)."""
    t = [int(trit) + 1 for trit in trits]
    out = bytearray()
    for m in range(16):
        out.append(base3_byte([t[16 * n + m] for n in range(5)]))
    for m in range(8):
        out.append(base3_byte([t[80 + 8 * n + m] for n in range(5)]))
    for j in range(2):
        out.append(base3_byte([t[120 + 2 * n + j] for n in range(4)] + [0]))
    return bytes(out) + f16(d)


def stq1_0_block(trits, d):
    """64 groups of four lanes with one zero each: the pattern's number in a nibble, 64 signs, f16 d."""
    qs, signs = bytearray(32), bytearray(8)
    for g in range(64):
        lanes = [int(trits[64 * (g // 16) + g % 16 + 16 * p]) for p in range(4)]
        zero = lanes.index(0)
        for slot in range(4 * zero, 4 * zero + 4):
            if stq1_0_pattern(slot) == lanes or stq1_0_pattern(slot) == [-lane for lane in lanes]:
                negate = stq1_0_pattern(slot) != lanes
                break
        qs[g // 2] |= slot << (4 * (g % 2))
        signs[g // 8] |= int(negate) << (g % 8)
    return bytes(qs) + bytes(signs) + f16(d)


def stq1_0_pattern(slot):
    """Zero lane slot >> 2; of the others the first +1, the second -1 if bit 0 else +1, the third -1 if bit 1 else +1."""
    rest = [1, -1 if slot & 1 else 1, -1 if slot & 2 else 1]
    return rest[:slot >> 2] + [0] + rest[slot >> 2:]


def iq1_bn_row(trits, scale):
    """f16 scale; per 64: 12 bytes of five digits, one of four; v = sum of t_j 3^j."""
    def byte(digits):
        v = sum(digit * 3**j for j, digit in enumerate(digits))
        return -(-v * 256 // 243)
    out = bytearray(f16(scale))
    t = [int(trit) + 1 for trit in trits]
    for at in range(0, len(t), 64):
        block = t[at:at + 64]
        for i in range(4):
            for k in range(3):
                out.append(byte(block[16 * i + 5 * k:][:5]))
        out.append(byte([block[16 * i + 15] for i in range(4)]))
    return bytes(out)


def iq2_bn_row(trits, scale):
    """f32 scale; per 64: element 16 s + m is bits 2 s of byte m."""
    out = bytearray(np.float32(scale).tobytes())
    for at in range(0, len(trits), 64):
        codes = bytearray(16)
        for s in range(4):
            for m in range(16):
                codes[m] |= (int(trits[at + 16 * s + m]) + 1) << (2 * s)
        out += codes
    return bytes(out)


def tl1(w, BM, BK, bm):
    """Pairs as nibbles in tiles of BM x BK."""
    M, K = w.shape
    by = 256 // bm
    out = bytearray(M * K // 4)
    for m in range(M):
        a, c, e, r = m // BM, m % BM // bm, m % bm // 16, m % 16
        for j in range(K // 2):
            b, d, f, t = j // (BK // 2), j % (BK // 2) // (by // 2), j % (by // 2) // 2, j % 2
            p = 3 * int(w[m][2 * j]) + int(w[m][2 * j + 1]) + 4
            at = ((((((a * (K // BK) + b) * (BM // bm) + c) * (BK // by) + d) * (bm // 16) + e) * (by // 4) + f) * 16 + r)
            out[at] |= p << (4 if t == 0 else 0)
    return bytes(out)


def tl2(w, BM, BK):
    """Triples as |9 w0 + 3 w1 + w2| with their signs apart, the last columns as pairs, zeros up to the reported size."""
    M, K = w.shape
    K3 = K // BK * BK
    K2 = K - K3
    index, sign, pair = bytearray(M * K3 // 6), np.zeros(M * K3 // 48, dtype=np.uint16), bytearray(M * K2 // 4)
    for m in range(M):
        a, c, r = m // BM, m % BM // 32, m % 32
        rho = (r & 7) | (r >> 3 & 1) << 4 | (r >> 4 & 1) << 3
        for j in range(K3 // 3):
            tau = 9 * int(w[m][3 * j]) + 3 * int(w[m][3 * j + 1]) + int(w[m][3 * j + 2])
            b, jj = j // (BK // 3), j % (BK // 3)
            at = (((a * (K3 // BK) + b) * (BM // 32) + c) * (BK // 6) + jj // 2) * 32 + rho
            index[at] |= abs(tau) << (4 if jj % 2 == 0 else 0)
            G, g, h, col = jj // 8, jj % 8, r // 16, r % 16
            at = (((a * (K3 // BK) + b) * (BM // 32) + c) * (BK // 24) + G) * 16 + col
            if tau < 0:
                sign[at] |= np.uint16(1 << (15 - (2 * g + h)))
        for j in range(K2 // 2):
            code = 3 * int(w[m][K3 + 2 * j]) + int(w[m][K3 + 2 * j + 1]) + 4
            b, d = j // 16, j % 16 // 2
            at = (((a * (K2 // 32) + b) * (BM // 32) + c) * 8 + d) * 32 + rho
            pair[at] |= code << (4 if j % 2 == 0 else 0)
    out = bytes(index) + sign.astype("<u2").tobytes() + bytes(pair)
    size = (K - 256) * M // 3 * 5 // 8 + 256 * M // 2 * 4 // 8
    return out + bytes(-(-size // 32) * 32 - len(out))


def main():
    rng = np.random.default_rng(1580)
    scales = [0.0, 17 * 2.0**-24, 65504.0, -0.75, 0.03125, 0.0123]
    # Block types that are also embeddings: values of random trits, and the trits of `encode/ternary.f32` in them.
    ternary = np.frombuffer((HERE / "encode" / "ternary.f32").read_bytes(), dtype=np.float32).reshape(-1, 128)
    for name, block in (("PQ2_0", pq2_0_block), ("PTQ1_0", ptq1_0_block)):
        trits = rng.integers(-1, 2, (len(scales), 128), dtype=np.int8)
        save("decode", f"{name}.blocks", b"".join(block(t, d) for t, d in zip(trits, scales)))
        values = trits.astype(np.float32) * np.array(scales, dtype=np.float16).astype(np.float32)[:, None]
        save("decode", f"{name}.f32", values)
        save("encode", f"{name}.blocks", b"".join(block(np.sign(v), np.abs(v).max()) for v in ternary))

    # Formats that are only imported: stored bytes, and the trits that they are, [rows, cols].
    w = np.zeros((3, 512), dtype=np.int8)
    for row in w:
        for g in range(128):
            lanes = rng.choice(np.array([-1, 1], dtype=np.int8), 4)
            lanes[rng.integers(0, 4)] = 0
            at = 64 * (g // 16) + g % 16
            row[at:at + 64:16] = lanes
    blocks = [stq1_0_block(t, d) for t, d in zip(w.reshape(-1, 256), [0.5, 0.25, 1.5, 0.0625, 2.0, 0.75])]
    save("foreign", "STQ1_0.bytes", b"".join(blocks))
    save("foreign", "STQ1_0.trits", w)
    for name, row in (("IQ1_BN", iq1_bn_row), ("IQ2_BN", iq2_bn_row)):
        w = rng.integers(-1, 2, (4, 192), dtype=np.int8)
        save("foreign", f"{name}.bytes", b"".join(row(t, d) for t, d in zip(w, [0.5, 0.25, -1.5, 0.75])))
        save("foreign", f"{name}.trits", w)
    w = rng.integers(-1, 2, (64, 256), dtype=np.int8)
    save("foreign", "TL1.bytes", tl1(w, 32, 128, 32))
    save("foreign", "TL1.trits", w)
    w = rng.integers(-1, 2, (64, 512), dtype=np.int8)  # 480 columns in triples, 32 in pairs
    save("foreign", "TL2.bytes", tl2(w, 32, 96))
    save("foreign", "TL2.trits", w)


if __name__ == "__main__":
    main()
