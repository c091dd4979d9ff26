"""Prints one of the two set-up commands that open README.md: `python tests/readme_commands.py 1|2`.

CI runs what this prints, so the README cannot promise a command that does not work.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def commands() -> list[str]:
    """Returns the two commands: the first two ```bash blocks of the README."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block.strip() for block in blocks[:2]]


if __name__ == "__main__":
    print(commands()[int(sys.argv[1]) - 1])
