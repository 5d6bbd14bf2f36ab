"""Commands about people: the roster and the rota."""
