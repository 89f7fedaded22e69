"""jinja2, set up as transformers sets it up, with a clock that stands still."""

import datetime
import importlib.metadata
import json

import transformers.utils.chat_template_utils as reference

UNIX_TIME_NOW = 1721952000  # 2024-07-26 00:00:00 UTC


class _Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(UNIX_TIME_NOW, datetime.timezone.utc)


reference.datetime = _Clock


def render(template, context):
    """What the template prints, or None if it fails."""
    try:
        return reference._compile_jinja_template(template).render(**context)
    except Exception:  # any: TypeError, UndefinedError, TemplateSyntaxError, ...
        return None


def versions():
    return {name: importlib.metadata.version(name) for name in ("jinja2", "transformers")}


def dump(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=0)
        file.write("\n")
