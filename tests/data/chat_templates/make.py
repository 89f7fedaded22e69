"""Renders every template here, and every snippet, with jinja2. Run in this folder; writes *.json and versions.txt."""

import pathlib

from conversations import contexts
from reference import UNIX_TIME_NOW, dump, render, versions
from snippets import CONTEXT, SNIPPETS

HERE = pathlib.Path(__file__).parent


def main():
    dump(HERE / "contexts.json", {name: {**c, "unix_time_now": UNIX_TIME_NOW} for name, c in contexts()})
    golden = {}
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_bytes().decode()
        golden[path.name] = {name: render(template, context) for name, context in contexts()}
    dump(HERE / "golden.json", golden)
    dump(
        HERE / "snippets.json",
        {"context": CONTEXT, "cases": [[text, render(text, CONTEXT)] for text in SNIPPETS]},
    )
    (HERE / "versions.txt").write_text("".join(f"{n} {v}\n" for n, v in versions().items()))


if __name__ == "__main__":
    main()
