"""Execution of generated programs and their tests.  Each runs with limits in processes of its own,
after two permissions.  It is no sandbox: a program that means harm can do it."""

from fly.execution.executor import (
    PASSED,
    check_permission,
    check_variable,
    execute,
    is_suspended,
    suspended,
)

__all__ = [
    "PASSED",
    "check_permission",
    "check_variable",
    "execute",
    "is_suspended",
    "suspended",
]
