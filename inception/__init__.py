"""GoogLeNet (Szegedy et al., 2014, arXiv 1409.4842) in JAX and Flax Linen.

Importing this package imports nothing heavy; import the module that you need.
"""

__version__ = "0.1.0"


class UserError(Exception):
    """Something the user can mend: one line that names the file, the knob and the remedy."""

    status = 1  # the command's exit status


class Interrupted(UserError):
    """Stopped from outside: the same command goes on from what is saved."""

    status = 75  # EX_TEMPFAIL in sysexits.h: try again
