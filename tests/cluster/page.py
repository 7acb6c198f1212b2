"""A page of the documentation whose commands are typed as they stand there."""

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_PROMPT = "$ "
NOT_CONNECTED = "Transport endpoint is not connected"


class Page:
    """The ``yaml`` blocks of a page that begin with a file name as a comment, and the commands.

    Commands are the lines after a prompt in ``console`` blocks; what follows each is its output.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = path.read_text(encoding="utf-8")
        blocks = _BLOCK.findall(self._text)
        yaml = [body for language, body in blocks if language == "yaml"]
        named = ((re.match(r"# (\S+\.yaml)\n", body), body) for body in yaml)
        self.files = {name[1]: body for name, body in named if name}
        lines = [
            line for language, body in blocks if language == "console" for line in body.split("\n")
        ]
        self.commands = [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]

    def write(self, told: list[tuple[str, str]]) -> None:
        """Write the page anew with each command as it was typed, and its output."""
        waiting = iter(told)

        def filled(block: re.Match[str]) -> str:
            if block[1] != "console":
                return block[0]
            count = sum(line.startswith(_PROMPT) for line in block[2].split("\n"))
            shown = [_shown(*next(waiting)) for _ in range(count)]
            return "\n".join(["```console", *shown, "```\n"])

        self._path.write_text(_BLOCK.sub(filled, self._text), encoding="utf-8")


def _shown(command: str, output: str) -> str:
    lines = [_PROMPT + command, *output.splitlines()]
    return "\n".join(line.rstrip() for line in lines)


def excerpt(said: str) -> str:
    """Return what of an output is worth its place on the page."""
    if "\nEvents:" in said:
        return "...\n" + said[said.index("\nEvents:") + 1 :]
    lines = said.splitlines()
    broken = [number for number, line in enumerate(lines) if NOT_CONNECTED in line]
    if not broken:
        return said
    return "\n".join(lines[max(0, broken[0] - 4) : broken[-1] + 9])
