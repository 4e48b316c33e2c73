"""What no description can say because it depends on the loaded model: its name, its vocabulary, its context.

Values that are right by the description are brought into what this model has; wrong ones stay as they are.
"""

import schemathesis

VOCABULARY = 1024
# What an order is refused with that is well formed, when the model is in no state for it.
REFUSED_BY_STATE = ("model_already_loaded", "no_previous_version")
MAX = 2**64 - 1


def whole(value):
    """3.0 and 3 are one number to JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def in_range(value):
    """Integers that only programs with unbounded ones can send: RFC 8259, section 6, promises nothing beyond a double."""
    if isinstance(value, dict):
        return {name: in_range(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [in_range(inner) for inner in value]
    return 0 if isinstance(value, int) and abs(value) >= 10**300 else value


def is_count(value, low=0, high=MAX):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def token(value):
    value = whole(value)
    if isinstance(value, str):
        return value[:50]
    return value % VOCABULARY if is_count(value, high=2**32 - 1) else value


def tokens(value):
    if isinstance(value, list):
        short = value[:64] if len(value) <= 128 else value
        return [tokens(one) if isinstance(one, list) else token(one) for one in short]
    return token(value)


def message(value):
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return value | {"content": value["content"][:12]}
    return value


def ranked(value):
    """A query or a document: a text, or an object that has one."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value | {"text": value["text"][:50]}
    return value[:50] if isinstance(value, str) else value


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    for name, value in body.items():
        body[name] = in_range(whole(value))
    if isinstance(body.get("model"), str):
        body["model"] = "default"
    for name in ("max_tokens", "max_completion_tokens"):
        if is_count(body.get(name)):
            body[name] %= 9
    if is_count(body.get("n"), 1, 16):
        body["n"] = 1 + body["n"] % 2
    if isinstance(body.get("messages"), list) and len(body["messages"]) <= 4096:
        body["messages"] = [message(one) for one in body["messages"][:3]]
    for name in ("stop_token_ids", "tokens", "prompt", "input"):
        if name in body:
            body[name] = tokens(body[name])
    if "query" in body:
        body["query"] = ranked(body["query"])
    if isinstance(body.get("documents"), list) and len(body["documents"]) <= 2048:
        body["documents"] = [ranked(one) for one in body["documents"][:64]]
    bias = body.get("logit_bias")
    if isinstance(bias, dict) and all(name.isdecimal() and len(name) < 10 for name in bias):
        body["logit_bias"] = {str(int(name) % VOCABULARY): value for name, value in bias.items()}
    if is_count(body.get("truncate_prompt_tokens"), 1, 2**31 - 1):
        body["truncate_prompt_tokens"] = 1 + body["truncate_prompt_tokens"] % 200
    if is_count(body.get("dimensions"), 1):
        body["dimensions"] = None
    # What one field says of another is in the description in words.
    if is_count(body.get("best_of"), 1, 16):
        n = body["n"] if is_count(body.get("n"), 1, 16) else 1
        # Prompts times it are bounded too.
        many = isinstance(body.get("prompt"), list) and len(body["prompt"]) > 32
        body["best_of"] = n + (0 if many or body.get("stream") is True else body["best_of"] % 2)
    if is_count(body.get("top_logprobs"), 1, 20) and body.get("logprobs") in (None, False):
        body["logprobs"] = True
    if body.get("stream") is True and is_count(body.get("prompt_logprobs"), 0, 20):
        body["prompt_logprobs"] = None
    if body.get("quantization_preference") in ("i2s", "t5", "tl1", "tl2"):
        body["quantization_preference"] = "auto"


@schemathesis.check
def refused_by_state_alone(context, response, case):
    """Orders may answer 422 to what the description allows (schemathesis_run.py), but for these reasons alone."""
    if response.status_code != 422 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    code = response.json()["error"]["code"]
    assert code in REFUSED_BY_STATE, f"a well-formed order is refused with {code}"
