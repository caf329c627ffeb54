"""One file per command: each declares its arguments and calls one function of the library, imported when called."""
