import pytest

from pipeline.core.progress import say, track


def test_what_is_said_goes_to_stderr_at_once_also_while_a_bar_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for item in track(range(2), "counting"):
        say(f"item {item}")
        assert capsys.readouterr() == ("", f"item {item}\n")


def test_a_bar_is_silent_where_nobody_watches_and_gives_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
