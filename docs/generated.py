"""The parts of the documentation that are made from the code at build time: options and rooms."""

import ast
from pathlib import Path

import typer
from rooms import DOORS, ROOMS
from typer.main import get_command

from analysis import frozenbench

ROOT = Path(__file__).parent.parent


def write_pages(folder: Path) -> None:
    """Write the pages into a folder, from which others include them."""
    folder.mkdir(exist_ok=True)
    (folder / "options.md").write_text(options_page())
    (folder / "rooms.md").write_text(rooms_table())


def options_page() -> str:
    """The arguments and options of every command, read from the typer applications."""
    sections = []
    for name, group in get_command(frozenbench.app).commands.items():
        sections.append(command_section(f"frozenbench {name}", group, "##"))
        for subcommand in getattr(group, "commands", {}).values():
            sections.append(command_section(f"frozenbench {name} {subcommand.name}", subcommand, "###"))
    return "\n\n".join(sections) + "\n"


def command_section(title: str, command: typer.core.TyperCommand | typer.core.TyperGroup, heading: str) -> str:
    """One command as Markdown: its help, and a table of its arguments and options."""
    lines = [f"{heading} `{title}`", "", command.help or "", "", "| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        lines.append(f"| {spelling(parameter)} | {default(parameter)} | {cell(meaning(parameter))} |")
    if command.epilog:
        _, heading, *lines_of_examples = command.epilog.splitlines()
        lines += ["", heading, "", "```", *(line.strip() for line in lines_of_examples), "```"]
    return "\n".join(lines)


def spelling(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    """The names of a parameter as they are typed."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    return " / ".join(f"`{name}`" for name in names)


def default(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    """The default of a parameter; a default that is named in the help text stands there in brackets."""
    named = (parameter.help or "").partition("[default: ")[2]
    if named:
        return cell(named.removesuffix("]"))
    if parameter.required:
        return "required"
    if isinstance(parameter.default, bool):
        return "yes" if parameter.default else "no"
    if parameter.default in (None, "", ()):
        return ""
    return f"`{parameter.default}`"


def meaning(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    """The help text of a parameter without its default."""
    return (parameter.help or "").partition("[default: ")[0].strip()


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def rooms_table() -> str:
    """The rooms, what they are for (the first line of their docstring) and what they may import."""
    lines = ["| room | what it holds | may import, beside `featurize.core` |", "|---|---|---|"]
    for room, allowed in ROOMS.items():
        imports = ", ".join(f"`{name}`" for name in allowed.split()) or "no room"
        lines.append(f"| `{room}` | {cell(purpose(room))} | {imports} |")
    for door, allowed in DOORS.items():
        if not door.endswith("__main__"):
            packages = ", ".join(f"`{name}`" for name in allowed.split())
            lines.append(f"| `{door}` | {cell(purpose(door))} | {packages} |")
    return "\n".join(lines) + "\n"


def purpose(module: str) -> str:
    """The first paragraph of a module's docstring."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
