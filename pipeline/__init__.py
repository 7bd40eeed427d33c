"""What the build job and the model share: laws, formats, images, and the stream of records."""

__version__ = "0.1.0"
