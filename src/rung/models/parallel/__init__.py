"""Networks laid over many devices, from outside: no layer and no family imports this."""
