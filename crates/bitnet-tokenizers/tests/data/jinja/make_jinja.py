"""Writes golden.json: what Jinja2, set up as transformers' apply_chat_template sets it up, makes of templates.txt.

    pip install jinja2==3.1.6 && python make_jinja.py
"""

import json
from pathlib import Path

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent

CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "  Be brief. "), ("user", "Hi é'\"<&>\n"), ("assistant", "<think>\nhm\n</think>\n\nA"), ("user", "2+2?")],
]


class Generation(Extension):
    """transformers' `generation` block, which marks what a model said and changes no text."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return jinja2.nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True))


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, "jinja2.ext.loopcontrols", "jinja2.ext.do"],
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: ""

cases = []
for source in (HERE / "templates.txt").read_text().split("\n=====\n"):
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        case = {"template": source, "messages": messages}
        try:
            template = environment.from_string(source)
            case["text"] = template.render(
                messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
            )
        except jinja2.exceptions.TemplateError as error:
            case["error"] = str(error)
        cases.append(case)
text = json.dumps({"jinja2": jinja2.__version__, "cases": cases}, ensure_ascii=False, indent=1)
(HERE / "golden.json").write_text(text + "\n")
