"""Models of prices fitted to price files."""
