"""Errors of pictures and bundles. Their messages may be shown to clients."""


class ImageError(ValueError):
    """A picture that cannot be classified; the message is safe to show to clients."""


class InvalidImage(ImageError):
    """The bytes claim to be a picture but do not decode."""


class UnsupportedImage(ImageError):
    """Not one of the picture formats on the list."""


class ImageTooLarge(ImageError):
    """More pixels than allowed, according to the header; raised before decoding."""


class BundleError(Exception):
    """A bundle that must not be served; the message is one line naming file, expected and found."""
