"""What can be wrong with a picture or a bundle, in words that may be shown to the person who sent it."""


class ImageError(ValueError):
    """A picture that cannot be classified; the message is safe to show to clients."""


class InvalidImage(ImageError):
    """The bytes claim to be a picture but do not decode."""


class UnsupportedImage(ImageError):
    """Not one of the picture formats on the list."""


class ImageTooLarge(ImageError):
    """More pixels than allowed; known from the header, before anything is decoded."""


class BundleError(Exception):
    """A bundle that must not be served; the message is one line naming file, expected and found."""
