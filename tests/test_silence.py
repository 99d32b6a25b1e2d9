"""The line that breaks a silence."""

import re
import sys
import time

from psdiff_jax import silence


def test_a_silence_is_broken_and_speech_is_not(capsys):
    begin = time.monotonic()
    with silence.broken(0.2):
        while "still" not in capsys.readouterr().err:
            assert time.monotonic() - begin < 60
            time.sleep(0.01)
    with silence.broken(60):
        print("a word")
    assert capsys.readouterr() == ("a word\n", "")


def test_the_line_names_the_innermost_function_of_the_package(capsys):
    def work(namespace):
        exec("def fit(wait):\n    wait()\n", namespace)
        said = []

        def wait():
            while not said:
                said.extend(re.findall("still at work.*", capsys.readouterr().err))
                time.sleep(0.01)

        namespace["fit"](wait)
        return said[0]

    with silence.broken(0.1):
        assert re.fullmatch(
            r"still at work after 0:\d\d, in training.loop.fit", work({"__name__": "psdiff_jax.training.loop"})
        )
        assert work({"__name__": "numpy"}).endswith("in the libraries")


def test_the_streams_come_back():
    before = sys.stdout, sys.stderr
    with silence.broken():
        assert sys.stdout is not before[0] and sys.stderr.isatty() == before[1].isatty()
    assert (sys.stdout, sys.stderr) == before
