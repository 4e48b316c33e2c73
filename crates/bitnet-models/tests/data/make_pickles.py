#!/usr/bin/env python3
"""Write PyTorch's own files (`torch.save`) of weights that are here as safetensors, and small ones of every kind.

    llama-rope-tiny/pickle/    the packed weights of `llama-rope-tiny` in two shards with their index
    pickle/types-N.bin         a state dict of every element type in pickle protocol N (2 is what torch.save writes):
                               parameters, a tied weight, a view into a longer storage, empty and scalar tensors
    pickle/types.safetensors   the same tensors, written by the safetensors package
    pickle/legacy.bin          the format from before PyTorch 1.6
    pickle/transposed.bin      a view whose elements are not in order
    pickle/system.bin          a state dict with an object that runs `os.system` when Python opens it
    pickle/training.bin        a training checkpoint: its state dict is one entry among others
    pickle/big-endian.bin      saved as on a big-endian machine

    pip install torch==2.13.0 numpy safetensors
    python make_pickles.py

The values are counted, not drawn, so every machine writes the same tensors; the files' bytes depend on torch's version.
"""
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SMALL = HERE / "pickle"


def shards():
    weights = load_file(HERE / "llama-rope-tiny/model.safetensors")
    folder = HERE / "llama-rope-tiny/pickle"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names, index = sorted(weights), {}
    halves = names[: len(names) // 2], names[len(names) // 2:]
    for number, part in enumerate(halves, 1):
        file = f"pytorch_model-{number:05}-of-{len(halves):05}.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        index |= {name: file for name in part}
    total = sum(tensor.nbytes for tensor in weights.values())
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(document, indent=2) + "\n")


class Model(torch.nn.Module):
    """Its state dict is an OrderedDict with `_metadata`, as every module's."""

    def __init__(self):
        super().__init__()
        counted = torch.arange(12, dtype=torch.float32)
        self.embedding = torch.nn.Embedding(4, 3, _weight=(counted / 8).reshape(4, 3))
        self.head = torch.nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight
        types = {
            "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64, "i32": torch.int32,
            "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32,
            "u64": torch.uint64,
        }
        for name, dtype in types.items():
            self.register_buffer(name, torch.arange(6).to(dtype).reshape(2, 3))
        self.register_buffer("bool", torch.tensor([True, False, True]))
        self.register_buffer("view", counted[3:9].reshape(3, 2))
        self.register_buffer("column", counted[:4].reshape(4, 1))
        self.register_buffer("scalar", torch.tensor(2.5))
        self.register_buffer("empty", torch.zeros(0, 5))


def small():
    shutil.rmtree(SMALL, ignore_errors=True)
    SMALL.mkdir()
    model = Model()
    state = model.state_dict()
    state["parameter"] = torch.nn.Parameter(torch.tensor([0.5, -0.5]))
    for protocol in (2, 3, 4, 5):
        torch.save(state, SMALL / f"types-{protocol}.bin", pickle_protocol=protocol)
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, SMALL / "types.safetensors")
    one = {"weight": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    torch.save(one, SMALL / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"weight": one["weight"].t()}, SMALL / "transposed.bin")
    torch.save({"epoch": 3, "model": one}, SMALL / "training.bin")

    class Runs:
        def __reduce__(self):
            return os.system, ("echo the file has run a command",)

    torch.save({**one, "bias": Runs()}, SMALL / "system.bin")
    # The record of the byte order is what a reader goes by; the numbers in the file stay as they are.
    try:
        sys.byteorder = "big"
        torch.save(one, SMALL / "big-endian.bin")
    finally:
        sys.byteorder = "little"


if __name__ == "__main__":
    shards()
    small()
