"""The command line, called in this process."""

import pytest

from compressor.cli.app import main


def compress(*words: object) -> int:
    """Runs `compress` with these words and returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code
