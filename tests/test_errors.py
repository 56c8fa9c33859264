"""Every error carries what, where and how to mend it, and is the natural builtin too."""

import pickle

import pytest
import torch

from fly import errors
from fly.errors import quoted

BUILTINS = {
    errors.ConfigError: ValueError,
    errors.RequestError: ValueError,
    errors.ModelError: ValueError,
    errors.DecodingError: RuntimeError,
    errors.JournalError: RuntimeError,
    errors.ReportError: ValueError,
    errors.MissingExtraError: ImportError,
}


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_error_is_fly_error_and_builtin(kind, builtin):
    error = kind("spd_k is 0", fix="use 15")
    assert isinstance(error, errors.FLyError)
    assert isinstance(error, builtin)
    assert str(error) == "spd_k is 0\nFix: use 15"
    assert (error.message, error.fix) == ("spd_k is 0", "use 15")


@pytest.mark.parametrize("kind", BUILTINS)
def test_error_survives_pickling(kind):
    """Workers of several processes send their errors to the first one."""
    assert str(pickle.loads(pickle.dumps(kind("wrong", fix="mend")))) == "wrong\nFix: mend"


def test_without_fix_only_the_message_shows():
    assert str(errors.FLyError("wrong")) == "wrong"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a\nb", "'a\\nb'"),
        ("\ud800", "'\\ud800'"),
        (0.5, "0.5"),
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, "'" + "x" * 58 + "…"),
        (torch.nn.Linear(2, 3), "Linear(in_features=2, out_features=3, bias=True)"),
        (torch.nn.Sequential(torch.nn.ReLU()), "Sequential(…"),
    ],
)
def test_values_are_quoted_on_one_short_line(value, text):
    assert quoted(value) == text
    assert len(quoted(value)) <= 60
