"""OpenAI's Python SDK, major versions 2 and 3: every call that applications make of it."""

import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import openai

URL, MODEL = os.environ["BITNET_URL"], os.environ["BITNET_MODEL"]
client = openai.OpenAI(base_url=URL + "/v1", api_key="unused")
HELLO = [{"role": "user", "content": "Once upon a time"}]


def raises(kind, call, code=None, param=None):
    try:
        call()
    except kind as error:
        assert code is None or error.code == code, error.code
        assert param is None or error.param == param, error.param
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def models():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def chat():
    ask = dict(model=MODEL, messages=HELLO, max_tokens=12, seed=1)
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text and whole.usage.completion_tokens <= 12
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.system_fingerprint.startswith("bitnet-")

    pieces, usage = [], None
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options=options):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
        else:
            usage = chunk.usage
    assert "".join(pieces) == text, (pieces, text)
    assert usage == whole.usage or usage.total_tokens == whole.usage.total_tokens

    # The SDK's own assembling of a stream, which takes an answer that was cut off for an error.
    raises(openai.LengthFinishReasonError, lambda: assembled(max_tokens=1))
    sentence = assembled(temperature=0, stop=".").choices[0]
    assert sentence.finish_reason == "stop" and sentence.message.content

    several = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=4, n=2, logprobs=True, top_logprobs=3
    )
    assert [choice.index for choice in several.choices] == [0, 1]
    for token in several.choices[0].logprobs.content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0


def assembled(**extra):
    with client.chat.completions.stream(model=MODEL, messages=HELLO, **extra) as stream:
        kinds = {event.type for event in stream}
        assert "content.delta" in kinds, kinds
        return stream.get_final_completion()


def completions():
    ask = dict(model=MODEL, max_tokens=5, temperature=0)
    two = client.completions.create(prompt=["The cat", "A dog"], n=2, logprobs=2, echo=True, **ask)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text.startswith("The cat") and two.choices[3].text.startswith("A dog")
    found = two.choices[0].logprobs
    assert found.token_logprobs[0] is None and len(found.tokens) == len(found.text_offset)
    whole = client.completions.create(prompt="The cat", **ask).choices[0].text
    stream = client.completions.create(prompt="The cat", stream=True, **ask)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole

    best = client.completions.create(model=MODEL, prompt="The cat", max_tokens=5, n=2, best_of=6)
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens > 10


def embeddings():
    # The SDK asks for base64 and unpacks it, unless floats are asked for.
    texts = ["The cat", "A dog", "The cat"]
    packed = client.embeddings.create(model=MODEL, input=texts)
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    vectors = [entry.embedding for entry in packed.data]
    assert vectors[0] == vectors[2] != vectors[1] and packed.usage.total_tokens > 0
    for one, other in zip(vectors, (entry.embedding for entry in plain.data)):
        assert len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other)) < 1e-6
        assert abs(sum(value * value for value in one) - 1) < 1e-5


def errors():
    raises(
        openai.NotFoundError,
        lambda: client.chat.completions.create(model="nobody", messages=HELLO),
        "model_not_found",
        "model",
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools),
        "unsupported_parameter",
        "tools",
    )
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=10**6),
        "context_length_exceeded",
        "max_tokens",
    )
    raises(openai.BadRequestError, lambda: client.completions.create(model=MODEL, prompt=[]))


def asynchronous():
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=URL + "/v1", api_key="unused") as client:
            calls = [
                client.chat.completions.create(
                    model=MODEL, messages=HELLO, max_tokens=8, temperature=0
                )
                for _ in range(8)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert len(set(asyncio.run(ask()))) == 1


class Served:
    """A server of our own, for what cannot be asked of one that others use."""

    def __init__(self, *flags):
        command = [os.environ["BITNET_PROGRAM"], "serve", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("serving "):
                self.url = "http://" + line.split(" on http://")[1].split(": ")[0]
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise AssertionError("the server did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def retries_after_429():
    """The SDK waits as Retry-After says and is served when there is room again."""
    flags = ["--port", "0", "--max-concurrent-requests", "1", "--max-queued-requests", "127"]
    with Served(*flags) as server:

        def ask(retries, prompt="Once", **extra):
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=retries)
            return client.completions.create(model="default", prompt=prompt, **extra)

        # 128 choices, one at a time: seconds of work, until this stream is closed.
        endless = {"ignore_eos": True}
        stream = ask(0, ["Once"] * 8, n=16, max_tokens=200, stream=True, extra_body=endless)
        next(iter(stream))
        refused = raises(openai.RateLimitError, lambda: ask(0, max_tokens=1), "queue_full")
        assert int(refused.response.headers["retry-after"]) >= 1
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(ask(5, max_tokens=1)))
        waiting.start()
        time.sleep(0.3)  # it is refused at least once
        stream.close()
        waiting.join()
        assert answers[0].usage.completion_tokens == 1


def is_ready(url):
    try:
        urllib.request.urlopen(url + "/health/ready").close()
        return True
    except urllib.error.HTTPError as error:
        assert error.code == 503, error
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def retries_after_503():
    """The SDK goes on asking while one server drains and another starts on its port, and is served by that one."""
    flags = ["--port", free_port(), "--shutdown-timeout", "60"]
    statuses = []
    told = openai.DefaultHttpxClient(
        event_hooks={"response": [lambda response: statuses.append(response.status_code)]}
    )

    def ask(retries, **extra):
        client = openai.OpenAI(
            base_url=server.url + "/v1", api_key="unused", max_retries=retries, http_client=told
        )
        return client.completions.create(model="default", prompt="Once", max_tokens=1, **extra)

    with Served(*flags) as server:
        # What runs keeps the server until it is closed.
        other = openai.OpenAI(base_url=server.url + "/v1", api_key="unused")
        endless = {"ignore_eos": True}
        stream = other.completions.create(
            model="default", prompt=["Once"] * 8, n=16, max_tokens=200, stream=True, extra_body=endless
        )
        next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        # The signal may still be on its way, and whoever is taken before it waits for all of the stream.
        while is_ready(server.url):
            time.sleep(0.01)
        refused = raises(openai.InternalServerError, lambda: ask(0), "shutting_down")
        assert refused.status_code == 503
        assert int(refused.response.headers["retry-after"]) >= 1

        statuses.clear()
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(ask(20)))
        waiting.start()
        while not statuses and waiting.is_alive():
            time.sleep(0.01)
        stream.close()
        server.process.wait(60)
        with Served(*flags):
            waiting.join()
        assert answers and answers[0].usage.completion_tokens == 1
        assert statuses[0] == 503 and statuses[-1] == 200, statuses


CHECKS = (
    models,
    chat,
    completions,
    embeddings,
    errors,
    asynchronous,
    retries_after_429,
    retries_after_503,
)
for check in CHECKS:
    check()
    print(f"openai {openai.__version__}: {check.__name__} ok", flush=True)
