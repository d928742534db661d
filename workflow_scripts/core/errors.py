"""The one exception for what a user can mend."""


class UserError(Exception):
    """A mistake in the input, the config or the surroundings; its text is the whole message, cause and way out."""


class Lacking(UserError, KeyError):
    """A file lacks a column or a key; a `KeyError` as well, so that `get` and `except KeyError` work as ever."""

    __str__ = Exception.__str__
