"""lm-eval on us with a task of a local file, its log probabilities beside those of `bitnet logits`.

lm-eval finds our tokenizer routes by itself; no model or data set is downloaded.
"""

import json
import math
import os
import pathlib
import struct
import subprocess
import urllib.request

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import lm_eval
import lm_eval.tasks

URL, MODEL, PROGRAM = (os.environ["BITNET_" + name] for name in ("URL", "MODEL", "PROGRAM"))
TOLERANCE = 1e-4  # natural logarithms, for a token

QUESTIONS = [
    {"question": "Once upon a time there was a", "choices": [" boy", " stone", " Wednesday"]},
    {"question": "The cat sat on the", "choices": [" mat and slept.", " because blue"]},
    {"question": "Tom and his mother went to the", "choices": [" park", " park to play", " quickly"]},
    {"question": "She was very happy and", "choices": [" smiled.", " table."]},
]

folder = pathlib.Path.cwd()
(folder / "questions.jsonl").write_text("".join(json.dumps(row | {"label": 0}) + "\n" for row in QUESTIONS))
(folder / "stories.yaml").write_text(
    f"""task: stories
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {folder}/questions.jsonl}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
metadata: {{version: 1}}
"""
)
results = lm_eval.simple_evaluate(
    model="local-completions",
    model_args=f"model={MODEL},base_url={URL}/v1/completions,num_concurrent=2,max_length=256",
    tasks=["stories"],
    task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
    log_samples=True,
    bootstrap_iters=0,
)
print("lm-eval: accuracy", results["results"]["stories"]["acc,none"], flush=True)


def encode(text):
    command = [PROGRAM, "tokenize", text]
    return [int(id) for id in subprocess.run(command, check=True, capture_output=True).stdout.split()]


def logits(ids):
    """The rows that `bitnet logits` writes: `[n_tokens, vocab_size]`."""
    (folder / "ids.json").write_text(json.dumps(ids))
    out = folder / "logits.safetensors"
    command = [PROGRAM, "logits", "--tokens", "ids.json", "--all", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    data = out.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    (rows, width) = json.loads(data[8 : 8 + length])["logits"]["shape"]
    values = struct.unpack(f"<{rows * width}f", data[8 + length : 8 + length + 4 * rows * width])
    return [values[row * width : (row + 1) * width] for row in range(rows)]


def told(ids):
    """The log probability of each token of a prompt, as the route that lm-eval asks tells it."""
    body = {"model": MODEL, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
    request = urllib.request.Request(
        f"{URL}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["logprobs"]["token_logprobs"]


worst = 0.0
worst_token = 0.0
compared = 0
for sample in results["samples"]["stories"]:
    for choice, (found, _) in zip(sample["doc"]["choices"], sample["filtered_resps"]):
        context, whole = encode(sample["doc"]["question"]), encode(sample["doc"]["question"] + choice)
        rows = logits(whole[:-1])
        tokens = told(whole)
        assert len(tokens) == len(whole), (len(tokens), len(whole))
        expected = 0.0
        for at in range(len(context), len(whole)):
            row = rows[at - 1]
            top = max(row)
            total = math.log(math.fsum(math.exp(value - top) for value in row)) + top
            expected += row[whole[at]] - total
            # Errors of one sign and the other would cancel in the sum that lm-eval forms.
            worst_token = max(worst_token, abs(tokens[at] - (row[whole[at]] - total)))
        n_tokens = len(whole) - len(context)
        worst = max(worst, abs(float(found) - expected) / n_tokens)
        compared += 1
assert compared == sum(len(row["choices"]) for row in QUESTIONS)
assert worst <= TOLERANCE, worst
assert worst_token <= TOLERANCE, worst_token
print(f"lm-eval: {compared} continuations differ from bitnet logits by at most {worst:.1e} a token, tokens by {worst_token:.1e}", flush=True)
