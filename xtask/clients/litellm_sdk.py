"""litellm's SDK with us as an `openai/` provider, as its proxy calls us too."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices

import litellm

litellm.suppress_debug_info = True
URL, MODEL = os.environ["BITNET_URL"] + "/v1", os.environ["BITNET_MODEL"]
HELLO = [{"role": "user", "content": "Once upon a time"}]
AT = dict(api_base=URL, api_key="unused")

ask = dict(model="openai/" + MODEL, messages=HELLO, max_tokens=10, seed=3, **AT)
whole = litellm.completion(**ask)
text = whole.choices[0].message.content
assert text and whole.usage.total_tokens > 0
print("litellm: completion ok", flush=True)

chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
rebuilt = litellm.stream_chunk_builder(chunks, messages=HELLO)
assert rebuilt.choices[0].message.content == text
assert rebuilt.usage.total_tokens == whole.usage.total_tokens
print("litellm: stream ok", flush=True)

plain = litellm.text_completion(
    model="text-completion-openai/" + MODEL, prompt="The cat", max_tokens=4, temperature=0, **AT
)
assert plain.choices[0].text
print("litellm: text_completion ok", flush=True)

vectors = litellm.embedding(model="openai/" + MODEL, input=["The cat", "A dog"], encoding_format="float", **AT)
assert len(vectors.data) == 2
print("litellm: embedding ok", flush=True)

ranked = litellm.rerank(
    model="hosted_vllm/" + MODEL, query="The cat", documents=["A dog", "The cat"], top_n=1, **AT
)
assert [result["index"] for result in ranked.results] == [1]
print("litellm: rerank ok", flush=True)

try:
    litellm.completion(model="openai/nobody", messages=HELLO, **AT)
except litellm.NotFoundError:
    print("litellm: errors ok", flush=True)
else:
    raise AssertionError("an unknown model was answered")
