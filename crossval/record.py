#!/usr/bin/env python3
"""Record what Hugging Face transformers computes for a checkpoint, for `cargo run -p xtask -- verify` to check against.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python record.py --model DIR --text FILE --out STEM
    cargo run -p xtask -- verify --model DIR --golden STEM

STEM.json holds the token ids and the log probabilities of a text, STEM.safetensors the logits of every position and, of
the first prompt, the hidden states after every layer: the format of crates/bitnet-models/tests/data/reference/README.md,
whose recordings were made by the scripts there. Everything runs in float32 on the CPU with plain attention and one
thread, stored weights widened exactly, so a recording can be made again to the same bits on the same machine.

Checkpoints with `quantization_config` (`bitnet`, packed or online) round activations to int8 as transformers does. One
without it is run with the float activations that transformers gives it, which is another model than ours.
"""
import os

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False, output_loading_info=True)
    if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        sys.exit(f"{folder}: tensors do not fit the architecture: {info}")
    # The plain parameters of a pre-quantised checkpoint keep their stored type; widening them is exact.
    for tensor in list(model.parameters()) + list(model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32)
    return model.eval()


def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def greedy(model, ids, n):
    """The likeliest token, n times, not stopping at an end token; and how far its logit led."""
    current, past, tokens, margins = torch.tensor([ids]), None, [], []
    for _ in range(n):
        out = model(input_ids=current, past_key_values=past, use_cache=True)
        past, row = out.past_key_values, out.logits[0, -1].float()
        top = row.topk(2).values
        tokens.append(int(row.argmax()))
        margins.append(float(top[0] - top[1]))
        current = torch.tensor([[tokens[-1]]])
    return tokens, margins


def hidden_states(model, ids, prefix):
    """The residual stream before the first and after every layer, and after the final norm."""
    kept, hooks = {}, []

    def keep(name):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            kept[f"{prefix}.{name}"] = output.detach().float()[0].numpy().copy()
        return hook

    hooks.append(model.model.embed_tokens.register_forward_hook(keep("embed")))
    hooks.append(model.model.norm.register_forward_hook(keep("final_norm")))
    for index, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(keep(f"L{index}.out")))
    try:
        logits(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint's folder")
    parser.add_argument("--text", type=Path, required=True, help="what is run, in UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="STEM of the two files")
    parser.add_argument("--prompts", type=int, default=4, help="chunks of the text whose logits are kept")
    parser.add_argument("--length", type=int, default=128, help="tokens of a chunk")
    parser.add_argument("--greedy", type=int, default=32, help="tokens drawn after each chunk")
    parser.add_argument("--scored", type=int, default=1000, help="tokens whose log probabilities are kept, in one window")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.model)
    ids = AutoTokenizer.from_pretrained(args.model)(args.text.read_text(encoding="utf-8"))["input_ids"]
    if len(ids) < max(args.length, args.scored):
        sys.exit(f"{args.text} has {len(ids)} tokens, {max(args.length, args.scored)} are needed")

    prompts, tensors = [], {}
    for index in range(min(args.prompts, len(ids) // args.length)):
        chunk, name = ids[index * args.length:][:args.length], f"text{index}"
        tokens, margins = greedy(model, chunk, args.greedy)
        prompts.append({"id": name, "ids": chunk, "greedy": tokens, "greedy_margins": margins})
        tensors[f"{name}.logits"] = logits(model, chunk).numpy().copy()
        if index == 0:
            tensors.update(hidden_states(model, chunk, name))
    scored = ids[:args.scored]
    rows = logits(model, scored)[:-1].log_softmax(-1)
    logprobs = rows.gather(1, torch.tensor(scored[1:])[:, None])[:, 0].double()
    summary = {
        "model": args.model.name,
        "compute": "float32, eager attention, torch CPU, one thread",
        "prompts": prompts,
        "perplexity": {"token_ids": scored, "ppl": math.exp(-logprobs.mean()), "logprobs": logprobs.tolist()},
    }
    save_file(tensors, f"{args.out}.safetensors")
    Path(f"{args.out}.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(prompts)} prompts, perplexity {summary['perplexity']['ppl']:.5f} of {len(scored)} tokens")


if __name__ == "__main__":
    main()
