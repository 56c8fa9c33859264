"""Every error carries what, where and how to mend it, and is the natural builtin too."""

import pickle

import pytest

from fly import errors

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
