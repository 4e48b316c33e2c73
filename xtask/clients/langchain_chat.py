"""LangChain's chat model and its text model on us."""

import os

from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

AT = dict(base_url=os.environ["BITNET_URL"] + "/v1", api_key="unused", model=os.environ["BITNET_MODEL"])

chat = ChatOpenAI(max_tokens=10, seed=5, **AT)
answer = chat.invoke("Once upon a time")
assert answer.content and answer.usage_metadata["total_tokens"] > 0
assert answer.response_metadata["finish_reason"] in ("stop", "length")
print("langchain: invoke ok", flush=True)

pieces = "".join(chunk.content for chunk in chat.stream("Once upon a time"))
assert pieces == answer.content, (pieces, answer.content)
print("langchain: stream ok", flush=True)

many = chat.batch(["The cat", "A dog", "The sun"])
assert len(many) == 3 and all(one.content for one in many)
print("langchain: batch ok", flush=True)

assert OpenAI(max_tokens=5, temperature=0, **AT).invoke("The cat")
print("langchain: text model ok", flush=True)

# It would count tokens by OpenAI's vocabulary, which it downloads.
embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **AT)
assert len(embeddings.embed_documents(["The cat", "A dog"])) == 2
assert embeddings.embed_query("The cat") == embeddings.embed_documents(["The cat"])[0]
print("langchain: embeddings ok", flush=True)
