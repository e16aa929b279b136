"""Records what Python's jinja2, set up as Hugging Face transformers sets it up, renders of real chat templates.

  record_templates.py TEMPLATE_DIR [MODEL.gguf]

TEMPLATE_DIR is llama.cpp's models/templates, MODEL.gguf a SmolLM2 that carries its own. Writes vectors/templates.json.
Without arguments, the templates already in that file are rendered again. Needs the packages jinja2 and gguf.
"""
import datetime
import json
import pathlib
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = pathlib.Path(__file__).parent / "vectors" / "templates.json"
NOW = 1718000000  # 2024-06-10 06:13:20 UTC, what strftime_now shows
FILES = {
    "llama-3.1": ("meta-llama-Llama-3.1-8B-Instruct.jinja", "<|begin_of_text|>", "<|eot_id|>"),
    "llama-3.2": ("meta-llama-Llama-3.2-3B-Instruct.jinja", "<|begin_of_text|>", "<|eot_id|>"),
    "llama-3.3": ("meta-llama-Llama-3.3-70B-Instruct.jinja", "<|begin_of_text|>", "<|eot_id|>"),
    "qwen2.5": ("Qwen-Qwen2.5-7B-Instruct.jinja", "", "<|im_end|>"),
    "mistral-nemo": ("mistralai-Mistral-Nemo-Instruct-2407.jinja", "<s>", "</s>"),
    "gemma-2": ("google-gemma-2-2b-it.jinja", "<bos>", "<eos>"),
    "phi-3.5": ("microsoft-Phi-3.5-mini-instruct.jinja", "<s>", "<|endoftext|>"),
}
MISTRAL_V1 = (  # the template of Mistral-7B-Instruct v0.1 to v0.2 as published
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}")
FEATURES = r"""{#- everything templates in the wild use, in one -#}
{%- set ns = namespace(n=0, seen=false) %}
{%- macro tag(name, text='x') %}<{{ name }}>{{ text | trim }}</{{ name }}>{% endmacro %}
{%- for m in messages[::-1] if m.role != 'tool' %}
  {%- if m.content is not string %}{% continue %}{% endif %}
  {%- if loop.first and not ns.seen %}{% set ns.seen = true %}{% endif %}
  {%- set ns.n = ns.n + m.content | length %}
  {{- loop.index }}/{{ loop.length }} {{ tag(m.role | upper, text=m['content']) }}
  {%- if loop.index0 > 5 %}{% break %}{% endif %}
{% endfor %}
n={{ ns.n }} {{ ns.seen }} {{ none }} {{ [1, 'a', true] }} {{ {'k': none} }} {{ 1.5 }} {{ 7 // 2 }} {{ 2 ** 3 }} {{ 'a' ~ 1 }}
{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|{{ [] | tojson }}|{{ {'a': [1, {}]} | tojson(indent=4) }}
{% if tools is defined and tools is none %}no tools{% endif %} {{ undefined_thing is defined }} {{ documents is not none }}
{% generation %}{{ messages[-1].content.split(' ')[0].strip().upper() }}{% endgeneration %}
{{ strftime_now("%d %b %Y %H:%M") }} {{ 'x,y'.split(',') | join('-') }} {{ 'abc'.startswith('ab') }} {{ 'abc'[1:] }} {{ 'a' in 'abc' }}
{{ messages | map(attribute='role') | list | join('+') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ '%s-%s' | format('a', 'b') }} {{ 'yes' if add_generation_prompt else 'no' }} {{ messages | last | items | list | length }}
{{ (messages | first)['role'].replace('s', 'z').title() }} {{ "q" | default('d') }} {{ nope | default('d') }} {{ 5 is odd }}
{{ '  pad '.rstrip() }}|{{ 'a\nb'.splitlines() | length }}|{{ 'x' * 3 }}|{{ messages[0].get('name', 'anon') }}|{{ 'É'.lower() }}
"""
U, A, S = "user", "assistant", "system"
CONVERSATIONS = [
    [(U, "Hello")],
    [(S, "You are terse."), (U, "Hi there, who are you?")],
    [(U, "1+1?"), (A, "2"), (U, "and 2+2?")],
    [(S, "  padded system \n"), (U, "\n padded user  "), (A, " padded assistant\n\n"), (U, "again ")],
    [(U, "emoji 👩‍👩‍👧 and 漢字\n```c\nint x = {{ 1 }};\n```"), (A, "{% raise %} {# note #}")],
    [(S, "s"), (U, "a"), (A, "b"), (U, "c"), (A, "d"), (U, "e")],
    [(S, ""), (U, ""), (A, ""), (U, "x")],
    [(U, "quotes \" ' \\ < > & \t tab"), (A, "a")],
    [(U, "a"), (U, "b")],
    [(A, "starts")],
    [(S, "only system")],
    [("tool", "result"), (U, "x")],
]


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(jinja2.ext.Extension):
    """transformers' AssistantTracker, without the tracking."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def compile_template(source):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env.from_string(source)


def render(template, bos, eos, messages, add_generation_prompt):
    try:
        return {"text": template.render(messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
                                        bos_token=bos, eos_token=eos)}
    except jinja2.exceptions.TemplateError as error:
        return {"raised": str(error)}


def record(source, bos, eos):
    template = compile_template(source)
    cases = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for add in (True, False):
            cases.append({"messages": conversation, "add_generation_prompt": add, **render(template, bos, eos, messages, add)})
    return {"source": source, "bos": bos, "eos": eos, "cases": cases}


def sources():
    if len(sys.argv) < 2:
        return {name: (t["source"], t["bos"], t["eos"]) for name, t in json.loads(OUT.read_text())["templates"].items()}
    folder = pathlib.Path(sys.argv[1])
    found = {name: ((folder / file).read_text(), bos, eos) for name, (file, bos, eos) in FILES.items()}
    found["mistral-v1"] = (MISTRAL_V1, "<s>", "</s>")
    found["features"] = (FEATURES, "<s>", "</s>")
    if len(sys.argv) > 2:
        import gguf
        field = gguf.GGUFReader(sys.argv[2]).fields["tokenizer.chat_template"]
        found["smollm2"] = (bytes(field.parts[field.data[0]]).decode(), "<|im_start|>", "<|im_end|>")
    return found


if __name__ == "__main__":
    recorded = {name: record(*source) for name, source in sources().items()}
    OUT.write_text(json.dumps({"now": NOW, "templates": recorded}, ensure_ascii=True, indent=0) + "\n")
    for name, template in recorded.items():
        raised = sum("raised" in case for case in template["cases"])
        print(f"{name}: {len(template['cases'])} cases, {raised} refused by the template")
