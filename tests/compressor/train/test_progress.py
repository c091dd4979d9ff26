import io

from compressor.train.progress import BarProgress, LineProgress, Progress, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def walk(progress: Progress) -> None:
    progress.start("training", total=2)
    progress.advance()
    progress.line("epoch [1/2] val 90 %")
    progress.advance()
    progress.stop()


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    progress = progress_on(stream)
    assert isinstance(progress, LineProgress)
    walk(progress)
    assert stream.getvalue() == "epoch [1/2] val 90 %\n"


def test_a_terminal_gets_a_bar_and_the_lines_as_they_are() -> None:
    stream = Terminal()
    progress = progress_on(stream)
    assert isinstance(progress, BarProgress)
    walk(progress)
    assert "epoch [1/2] val 90 %" in stream.getvalue()
    progress.stop()  # twice does no harm


def test_the_base_says_nothing() -> None:
    walk(Progress())
