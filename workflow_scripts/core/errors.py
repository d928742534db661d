"""The one exception for what a user can mend."""


class UserError(Exception):
    """A mistake in the input, the config or the surroundings; its text is the whole message, cause and way out."""
