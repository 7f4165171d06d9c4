"""Write the generated pages: `python docs/generate.py`. A test fails while one of them is out of date.

- `reference/configuration.md`: types and defaults from `pacs.config.model`, meanings from the comments of config.toml.
- `reference/commands.md`: from the click commands.
- `reference/python.md`: from the docstrings of `pacs.client` and `pacs.testing`.
- `reference/metrics.md`: from the text that `/metrics` serves.
- The tables of faults and presets in `testing.md`: from `pacs.faults.model` and the preset files.
- The list of files in `architecture.md`: from the docstrings of the modules.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from pacs.cli import main as pacs
from pacs.config import presets
from pacs.config.model import LISTS, Config, Section
from pacs.faults.model import DIMSE, OPERATIONS, Fault
from pacs.observability.metrics.counters import Counters
from pacs.observability.metrics.exposition import Facts, Moment, exposition

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "pacs"
NOTICE = "<!-- Written by `python docs/generate.py`: do not edit. -->"


def pages() -> dict[Path, str]:
    """Return the text of each generated page by its path."""
    return {
        DOCS / "reference" / "configuration.md": configuration(),
        DOCS / "reference" / "commands.md": commands(),
        DOCS / "reference" / "python.md": python(),
        DOCS / "reference" / "metrics.md": metrics(),
        DOCS / "testing.md": with_parts("testing.md", conditions=conditions(), faults=faults(), presets=preset_table()),
        DOCS / "architecture.md": with_parts("architecture.md", files=files()),
    }


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(each) + " |" for each in lines)


def with_parts(page: str, **parts: str) -> str:
    """Return a page with the text between `<!-- generated: NAME -->` and `<!-- end -->` written anew."""
    text = (DOCS / page).read_text("utf-8")
    for name, made in parts.items():
        pattern = rf"(<!-- generated: {name} -->\n\n).*?(\n\n<!-- end -->)"
        text, found = re.subn(pattern, lambda match, made=made: match[1] + made + match[2], text, flags=re.DOTALL)
        assert found == 1, f"{page} has no place for {name}"
    return text


# --- configuration -----------------------------------------------------------------------------------------------

CONFIGURATION = """# Configuration

{notice}

The server reads `./config.toml`, or the file that `--config` or `PACS_CONFIG` names. Without a file it uses the
defaults.

- In the environment a key is `PACS_SECTION__KEY`, such as `PACS_SERVER__PORT=11113`. `PACS_SECTION__KEY_FILE` names a
  file that holds the value, such as `PACS_DATABASE__URL_FILE=/run/secrets/db`.
- On the command line it is `--set section.key=value`.
- Options override the environment, which overrides the file. Relative paths start from the folder of the file.
- Unknown keys and invalid values are rejected.
- `pacs peers add`, `edit` and `remove` change `[[peers]]` blocks in a file of their own: `peers.toml` beside the folder
  `files.url`, by default `pacs-data/peers.toml`. These peers are added to those of the other sources; an AE title in
  two of them is rejected. `pacs backup` copies the file.
- `pacs config show` prints every value in force and where it comes from, `pacs config init` writes a file with all
  keys.

Times are in seconds, sizes in bytes.
"""


def configuration() -> str:
    """Return the reference of every configuration key."""
    parts = [CONFIGURATION.format(notice=NOTICE)]
    comments = _comments()
    for name, field in Config.model_fields.items():
        model = LISTS.get(name, field.annotation)
        title = f"[[{name}]]" if name in LISTS else f"[{name}]"
        lead = inspect.getdoc(model) or ""
        rows = (
            (f"`{key}`", _kind(schema), _default(schema), comments.get((name, key), ""))
            for key, schema in _schema(model).items()
        )
        parts.append(f"## `{title}`\n\n{lead}\n\n{table(('key', 'value', 'default', 'meaning'), rows)}\n")
    return "\n".join(parts)


def _schema(model: Any) -> dict[str, dict[str, Any]]:
    assert issubclass(model, Section)
    return dict(model.model_json_schema()["properties"])


def _comments() -> dict[tuple[str, str], str]:
    """Return the comments of config.toml by section and key; those of [[peers]] and [[users]] are commented out."""
    found, section = {}, ""
    for line in (ROOT / "config.toml").read_text("utf-8").splitlines():
        if head := re.match(r"(?:# )?\[+(\w+)\]+", line):
            section = head[1]
        elif key := re.match(r"(?:# )?(\w+) = .*?\s#\s+(.*)", line):
            found[section, key[1]] = key[2]
    return found


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return ", ".join(_kind(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = {"integer": "integer", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    if least is None or "maximum" not in schema:
        return kind[schema["type"]]
    above = "above " if "exclusiveMinimum" in schema else ""
    return f"{kind[schema['type']]}, {above}{least:g} to {schema['maximum']:,}".replace(".0", "")


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return "required"
    return "" if schema["default"] is None else f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


# --- commands ----------------------------------------------------------------------------------------------------

COMMANDS = """# Commands

{notice}

`PEER` is `AE_TITLE@HOST:PORT`, an AE title of `[[peers]]`, or `HOST PORT -aec AE_TITLE` as in DCMTK. `KEY=VALUE`
matches as in a C-FIND: `PatientID=P1`, `'PatientName=DOE*'`, `StudyDate=20260101-20260131`, `Rows=512`. Keys and levels
are the same in `ls`, `export`, `delete`, `explain`, `find`, `move`, `get` and `fetch`: `-k KEY[=VALUE]` and
`--level LEVEL`, or
words, with levels in the singular or plural: `studies PatientID=P1`. Every command has `--help`, and:

| option | meaning |
| --- | --- |
| `-q, --quiet` | print only results and errors: no progress, notices and summaries; log warnings and errors |
| `-v, --verbose` | print each step, and the log at level INFO |
| `-d, --debug` | print the log at level DEBUG, with associations and messages, and tracebacks; may show patient data |

| exit status | meaning |
| --- | --- |
| 0 | success |
| 1 | failure |
| 2 | mistake in the command line or the configuration |
| 3 | some instances failed, others succeeded |
| 4 | an AE did not accept an association |
| 130 | interrupted with Ctrl-C |

{summary}
"""


def commands() -> str:
    """Return the reference of every command."""
    found = list(leaves(pacs, "pacs"))
    rows = ((f"[`{name}`](#{name.replace(' ', '-')})", command.get_short_help_str(200)) for name, command in found)
    summary = table(("command", "does"), rows)
    return COMMANDS.format(notice=NOTICE, summary=summary) + "".join(_command(*each) for each in found)


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands at and below `command` that do something themselves, by full name."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name, command
    if isinstance(command, click.Group):
        for each, child in command.commands.items():
            yield from leaves(child, f"{name} {each}")


OF_ALL = ("--help", "--quiet", "--verbose", "--debug")
"""The options of every command."""


def _command(name: str, command: click.Command) -> str:
    ctx = click.Context(command, info_name=name, max_content_width=120)
    usage = " ".join([name, *command.collect_usage_pieces(ctx)])
    records = [each for parameter in command.get_params(ctx) if (each := parameter.get_help_record(ctx))]
    shown = (
        (names.replace("|", "/"), meaning) for names, meaning in records if meaning and names.split()[-1] not in OF_ALL
    )
    options = table(("option", "meaning"), ((f"`{names}`", meaning) for names, meaning in shown))
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return f"\n## {name}\n\n```text\n{usage}\n```\n\n{text}\n\n{options}\n"


# --- Python ------------------------------------------------------------------------------------------------------

LONGEST_SIGNATURE = 100
"""Characters of a signature on one line."""

FIXTURES = {"pacs.testing": {"pacs_server": "pacs.testing.plugin", "storage_scp": "pacs.testing.plugin"}}
"""The pytest fixtures of a package, and their modules."""

PYTHON = """# Python

{notice}

The public API is what `pacs.client` and `pacs.testing` export. Every error is a `pacs.errors.PacsError`.
"""


def python() -> str:
    """Return the reference of `pacs.client` and `pacs.testing`."""
    return PYTHON.format(notice=NOTICE) + _package("pacs.client") + _package("pacs.testing")


def _package(name: str) -> str:
    tree = _tree(f"{name}.__init__")
    homes = {
        alias.asname or alias.name: each.module
        for each in ast.walk(tree)
        if isinstance(each, ast.ImportFrom) and each.module
        for alias in each.names
    }
    (exported,) = (
        ast.literal_eval(each.value)
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"
    )
    homes |= FIXTURES.get(name, {})
    objects = "".join(_object(name, each, homes.get(each)) for each in (*exported, *FIXTURES.get(name, {})))
    return f"\n## {name}\n\n{ast.get_docstring(tree)}\n{objects}"


def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text("utf-8"))


def _object(package: str, name: str, module: str | None) -> str:
    for node, text in _documented(_tree(module or package).body):
        if _name(node) == name:
            body = "".join(_member(*each) for each in _documented(getattr(node, "body", [])) if _is_member(node, *each))
            return f"\n### {name}\n\n```python\n{_signature(node, is_block=True)}\n```\n\n{text}\n" + (
                f"\n{body}" if body else ""
            )
    raise LookupError(f"{package} exports {name}, which is not defined in {module}")


def _documented(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the definitions of a body with their docstrings; that of a variable is the text below it."""
    for node, following in zip_longest(body, body[1:]):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            yield node, inspect.cleandoc(following.value.value) if is_text else ""


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _is_member(owner: ast.stmt, node: ast.stmt, text: str) -> bool:
    is_public = isinstance(owner, ast.ClassDef) and not _name(node).startswith("_")
    return is_public and (bool(text) or isinstance(node, ast.AnnAssign) or _name(node).isupper())


def _member(node: ast.stmt, text: str) -> str:
    told = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return f"- `{_signature(node)}`" + (f": {told}" if told else "") + "\n"


def _signature(node: ast.stmt, *, is_block: bool = False) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}" + (f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else "")
    if not isinstance(node, ast.FunctionDef):
        return ast.unparse(node)
    returned = ast.unparse(node.returns).strip("'") if node.returns else "None"
    if any(ast.unparse(each) in ("property", "cached_property") for each in node.decorator_list):
        return f"{node.name}: {returned}"
    arguments = re.sub(r"^self(, )?", "", ast.unparse(node.args))
    signature = f"{node.name}({arguments}) -> {returned}"
    if len(signature) <= LONGEST_SIGNATURE or not is_block:
        return signature
    lines = "".join(f"    {each},\n" for each in _split(arguments))
    return f"{node.name}(\n{lines}) -> {returned}"


def _split(arguments: str) -> Iterator[str]:
    """Yield each argument; a comma inside of brackets does not separate two."""
    depth, start = 0, 0
    for at, character in enumerate(arguments):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            yield arguments[start:at].strip()
            start = at + 1
    yield arguments[start:].strip()


# --- metrics -----------------------------------------------------------------------------------------------------

METRICS = """# Metrics

{notice}

`/metrics` on the web port serves these to Prometheus. Values without a label `worker` are sums over all workers.
No label contains patient data; AE titles are those of configured peers, or `other`.

{rows}
"""


def metrics() -> str:
    """Return the reference of all metrics, from what a server without any traffic exposes."""
    facts = Facts(database="sqlite", workers=1, most_associations=1)
    moment = Moment(**{each.name: 0.0 for each in fields(Moment)})
    text = exposition(Counters(1), facts, moment).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    told = re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE)
    rows = ((f"`{name}`", kinds[name], meaning) for name, meaning in told)
    return METRICS.format(notice=NOTICE, rows=table(("metric", "type", "meaning"), rows))


# --- faults ------------------------------------------------------------------------------------------------------


def conditions() -> str:
    """Return the table of the keys that say when a fault applies."""
    rows = ((f"`{each.name}`", each.metadata["when"]) for each in fields(Fault) if "when" in each.metadata)
    return table(("key", "meaning"), rows)


def faults() -> str:
    """Return the table of the keys that say what a fault does."""
    rows = (
        (f"`{each.name}`", each.metadata["does"], _operations(each.metadata["of"]))
        for each in fields(Fault)
        if "does" in each.metadata
    )
    return table(("key", "what it does", "to"), rows)


def _operations(operations: Sequence[str]) -> str:
    if set(operations) == set(OPERATIONS):
        return "all"
    missing = [each for each in DIMSE if each not in operations]
    if "association" not in operations and len(missing) <= 1:
        return "all operations" + "".join(f" but {each}" for each in missing)
    return ", ".join(operations)


def preset_table() -> str:
    """Return the table of presets."""
    return table(("preset", "what it does"), ((f"`{each.name}`", each.description) for each in presets().values()))


# --- files -------------------------------------------------------------------------------------------------------


def files() -> str:
    """Return every file of `pacs` with the first sentence of its docstring, by folder."""
    folders = sorted({path.parent for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"})
    return "\n\n".join(map(_folder, folders))


def _folder(folder: Path) -> str:
    name = folder.relative_to(PACKAGE).as_posix()
    lead = "" if name == "." else f"**`{name}/`**: {_first_sentence(folder / '__init__.py')}\n\n"
    found = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
    return lead + "\n".join(f"- `{path.relative_to(PACKAGE)}`: {_first_sentence(path)}" for path in found)


def _first_sentence(path: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`0-9]\.) ", text)[0]


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, "utf-8")
