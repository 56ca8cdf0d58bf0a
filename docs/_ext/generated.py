"""Pages that are made from the package and the notebooks, so that they cannot go stale.

`pages` returns their text by path below ``docs/``; the extension writes them before Sphinx looks
for its sources. None of them is committed.
"""

import ast
import base64
import json
import re
from enum import Enum
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
PACKAGE = ROOT / "bayes_cannon"
WINGS = {
    "spectra": "spectra, labels and training sets",
    "surveys": "surveys, archives, simulated and packaged data",
    "models": "the PyMC models, priors and the trained Cannon",
    "training": "fits of the training model",
    "inference": "posteriors of labels, flags",
    "analysis": "catalogues, comparisons, gradients, calibration",
    "plots": "figures",
    "runs": "runs on disk, reports, checks",
    "base": "files, processes, numbers",
}


def cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


# Flags ------------------------------------------------------------------------------------


def flags() -> str:
    """Tables of LABEL_FLAG and of the labels' own flags."""
    from bayes_cannon.cli.printing import EDGES
    from bayes_cannon.inference.flags import ADVICE, MEANINGS, LabelFlag, severity

    lines = [
        "| bit | value | name | severity | meaning | advice |",
        "|---:|---:|---|---|---|---|",
    ]
    for flag in LabelFlag:
        bit = int(flag).bit_length() - 1
        lines.append(
            f"| {bit} | {int(flag)} | `{flag.name}` | {severity(flag) or 'remark'} | "
            f"{cell(MEANINGS[flag])} | {cell(ADVICE[flag])} |"
        )
    lines += ["", "| value | name | of a label's own flag |", "|---:|---|---|"]
    lines += [f"| {int(edge)} | `{edge.name}` | {text} |" for edge, text in EDGES.items()]
    return "\n".join(lines) + "\n"


# Commands ---------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options, as typer has them."""
    from typer.main import get_command

    from bayes_cannon.cli.commands import app

    group = get_command(app)
    lines = [
        "# Commands",
        "",
        cell(group.help),
        "",
        "Every command ends with status 0, or with a one-line error and 2. Status 1 says that a "
        "command did what it could, but not all is well: `infer` left stars without a posterior, "
        "`check` failed. `bayes-cannon --verbose COMMAND` shows more messages, and where an error "
        "occurred. Commands that take time show their progress on a terminal (`--quiet`: none).",
        "",
    ]
    for name, command in group.commands.items():
        places = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["bayes-cannon", name, "[OPTIONS]", *map(place, places)])
        lines += [f"(command-{name})=", "", f"## {name}", "", "```console", f"$ {usage}", "```", ""]
        lines += [" ".join(part.split()) + "\n" for part in (command.help or "").split("\n\n")]
        lines += ["| argument or option | default | meaning |", "|---|---|---|"]
        for parameter in command.params:
            if not parameter.hidden and parameter.name != "help":
                lines.append("| {} | {} | {} |".format(*row_of(parameter)))
        lines.append("")
    return "\n".join(lines)


def place(argument) -> str:
    """An argument in the usage of its command."""
    text = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return text if argument.required else f"[{text}]"


def row_of(parameter) -> tuple[str, str, str]:
    """Names, default and help of a parameter."""
    text = parameter.help or ""
    names = ", ".join(f"`{x}`" for x in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    choices = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if isinstance(choices, type) and issubclass(choices, Enum):
        text += f" One of {', '.join(str(choice.value) for choice in choices)}."
    default = getattr(parameter.default, "value", parameter.default)
    shown = f"`{default}`" if isinstance(default, str | int | float | Path) else ""
    if isinstance(default, bool):
        both = parameter.secondary_opts
        shown = f"`{(parameter.opts if default else both)[0]}`" if both else ""
    return names, "*required*" if parameter.required else shown, cell(text)


# API --------------------------------------------------------------------------------------


def exports(stub: Path) -> list[tuple[str, str]]:
    """Names of a wing's stub with the module that each is of, relative to the wing."""
    found = []
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [(alias.asname or alias.name, node.module) for alias in node.names]
    return found


def kind_of(source: Path, name: str) -> str:
    """Whether a name of a module is a class, a function or data."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return "exception" if node.name.endswith(("Error", "Warning")) else "class"
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return "function"
    return "data"


def first_line(source: Path, name: str) -> str:
    """First line of the docstring of a public name."""
    body = ast.parse(source.read_text(encoding="utf-8")).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n\n")[0]
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        text = getattr(getattr(after, "value", None), "value", None)
        if any(getattr(t, "id", "") == name for t in targets) and isinstance(text, str):
            return text.partition("\n\n")[0]
    return ""


def api() -> dict[str, str]:
    """One page for each wing, and one for the root's names and the errors."""
    out, shortcuts = {}, dict(exports(PACKAGE / "__init__.pyi"))
    rows = ["| name | what it is |", "|---|---|"]
    for wing, what in WINGS.items():
        lines, table = [], ["| name | |", "|---|---|"]
        for name, module in exports(PACKAGE / wing / "__init__.pyi"):
            source = PACKAGE / wing / (module.replace(".", "/") + ".py")
            if not source.exists():  # a sub-package
                continue
            kind, text = kind_of(source, name), cell(re.sub("`+", "`", first_line(source, name)))
            path = f"bayes_cannon.{wing}.{name}"
            if kind == "data":
                path = f"bayes_cannon.{wing}.{module}.{name}"
            table.append(f"| {{py:obj}}`{name} <{path}>` | {plain(text)} |")
            if shortcuts.get(name) == wing:
                rows.append(f"| {{py:obj}}`bc.{name} <{path}>` | {plain(text)} |")
            lines += ["```{eval-rst}", f".. auto{kind}:: {path}", "```", ""]
        head = [f"# bayes_cannon.{wing}", "", what[0].upper() + what[1:] + ".", ""]
        out[f"reference/api/{wing}.md"] = "\n".join([*head, *table, "", *lines])
    root = ["# The verbs: `import bayes_cannon as bc`", "", *rows, ""]
    out["reference/api/verbs.md"] = "\n".join(root)
    errors = ["# Errors and warnings", ""]
    for node in ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            path = f"bayes_cannon.errors.{node.name}"
            errors += ["```{eval-rst}", f".. autoexception:: {path}", "```", ""]
    out["reference/api/errors.md"] = "\n".join(errors)
    return out


def plain(text: str) -> str:
    """First lines of docstrings are RST: as Markdown, single backticks are code and `*` is none."""
    return re.sub(r"([*_<])(?![^`]*`[^`]*(?:`|$))", r"\\\1", text) if "`" not in text else text


# Notebooks --------------------------------------------------------------------------------


def notebooks() -> dict[str, str | bytes]:
    """The committed notebooks with their outputs, as pages, and their figures."""
    out: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        parts: list[str] = []
        for number, one in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(one["source"]).strip()
            hidden = {"hide-input", "remove-input", "hide_input"} & set(
                one["metadata"].get("tags", ())
            )
            if one["cell_type"] == "markdown":
                parts.append(source)
                continue
            if source:
                code = f"```python\n{source}\n```"
                folded = f"````{{dropdown}} Settings of this notebook\n{code}\n````"
                parts.append(folded if hidden else code)
            for k, output in enumerate(one.get("outputs", ())):
                parts += shown(output, out, f"{path.stem}-{number}-{k}.png")
        foot = (
            f"*The notebook is `notebooks/{path.name}`; `make notebooks` runs all of them again.*"
        )
        out[f"tutorials/{path.stem}.md"] = "\n\n".join([*parts, foot]) + "\n"
    return out


def shown(output: dict, out: dict[str, str | bytes], name: str) -> list[str]:
    """One output of a cell in Markdown; figures go into `out`."""
    data = output.get("data", {})
    if "image/png" in data:
        out[f"tutorials/figures/{name}"] = base64.b64decode("".join(data["image/png"]))
        return [f"![figure](figures/{name})"]
    if "text/html" in data:
        html = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]).strip())
        html = re.sub(r"(<table)\b", r'\1 data-from="notebook"', html)
        return [f'````{{raw}} html\n<div class="output">\n{html}\n</div>\n````']
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [f"```text\n{text}\n```"] if text else []


# ------------------------------------------------------------------------------------------


def pages() -> dict[str, str | bytes]:
    """Everything that is generated, by path below ``docs/``."""
    return {
        "generated/flags.inc.md": flags(),
        "reference/commands.md": commands(),
        **api(),
        **notebooks(),
    }


def write_pages(app=None) -> None:
    """Write what has changed, so that Sphinx reads nothing twice."""
    for name, text in pages().items():
        path = DOCS / name
        content = text if isinstance(text, bytes) else text.encode("utf-8")
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def setup(app) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
